"""The one door: every call of both faces is checked, driven and recorded here.

`run`, `answer`, `fetch`, `listing` and `allocate` are the shapes that commands have; the generated
`extmem.vk.commands` uses them, and so do the few commands written by hand beside it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from extmem.errors import DriverError, Problem, RuleViolation, Unsupported
from extmem.rules import engine
from extmem.vk import _constants, record
from extmem.vk._base import Structure, VkHandle, check_arrays, data_pointer, first_unfit, readable
from extmem.vk._dispatch import FORKED, Dispatch
from extmem.vk._prototype import Param, Prototype
from extmem.vk.queries import Queries

__all__ = ["allocate", "answer", "check", "dispatch_of", "fetch", "listing", "raise_for", "run"]

T = TypeVar("T")

VK_INCOMPLETE = int(_constants.VK_INCOMPLETE)


# -- arguments ----------------------------------------------------------------------------------


def dispatch_of(prototype: Prototype, handle: Any) -> Dispatch:
    """The table behind a command's first argument; RuleViolation if there is none."""
    param = prototype.params[0]
    dispatch: Dispatch | None = getattr(handle, "dispatch", None)
    if dispatch is not None and dispatch.alive and type(handle) is param.python:
        return dispatch
    wanted = param.python.__name__
    if dispatch is not None and dispatch.forked:
        raise Unsupported(f"{prototype.name}: {handle!r} cannot be used here: {FORKED}")
    if dispatch is not None and not dispatch.alive:
        problem = f"{handle!r} was destroyed, or its instance or device was."
    elif isinstance(handle, VkHandle) and type(handle) is not param.python:
        problem = f"{handle!r} is not a {wanted}."
    else:
        problem = f"{handle!r} is not a handle that a call of extmem.vk returned."
    raise RuleViolation(
        prototype.name,
        [
            Problem(
                f"VUID-{prototype.name}-{param.name}-parameter",
                param.name,
                handle,
                problem,
                f"Pass a living {wanted}; a bare integer does not say which driver it is of.",
            )
        ],
    )


def _bad(prototype: Prototype, param: Param, value: Any, expected: str) -> TypeError:
    return TypeError(
        f"{prototype.name}: {param.name} was given {value!r} ({type(value).__name__}); "
        f"expected {expected}"
    )


def _handle(prototype: Prototype, param: Param, value: Any) -> Any:
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    raise _bad(prototype, param, value, f"a {param.python.__name__}, or None")


def _value(prototype: Prototype, param: Param, value: Any) -> Any:
    if isinstance(value, int):
        size = 8 * ctypes.sizeof(param.ctype)
        low, high = (0, 1 << size) if param.ctype(-1).value != -1 else (-1 << size - 1, 1 << size)
        if low <= value < high:
            return value
        raise ValueError(
            f"{prototype.name}: {param.name} is {value}, which does not fit {size} bits"
        )
    if value is None and param.ctype is ctypes.c_void_p:
        return None
    if isinstance(value, float) and param.ctype is ctypes.c_float:
        return value
    raise _bad(prototype, param, value, "an integer")


def _string(prototype: Prototype, param: Param, value: Any) -> Any:
    found = value.encode() if isinstance(value, str) else value
    if found is None or (isinstance(found, bytes) and b"\0" not in found):
        return found
    raise _bad(prototype, param, value, "a str without NUL characters, or None")


def _struct(prototype: Prototype, param: Param, value: Any) -> Any:
    if isinstance(value, param.python):
        check_arrays(value)
        return value
    # No rule looks at a union.
    if value is None and (param.optional or issubclass(param.python, Structure)):
        return None
    raise _bad(prototype, param, value, f"a {param.python.__name__}")


def _values(prototype: Prototype, param: Param, value: Any) -> Any:
    if value is None:
        return None
    element = param.ctype._type_
    if isinstance(value, ctypes.Array) and value._type_ is element:
        if issubclass(element, Structure):
            _check_elements(value)
        return value
    if isinstance(value, element):
        value = [value]
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _bad(prototype, param, value, f"a sequence of {element.__name__}")
    items = list(value)
    for item in items:
        if isinstance(item, Structure):
            check_arrays(item)
        elif isinstance(item, VkHandle) and param.python and type(item) is not param.python:
            raise _bad(prototype, param, item, f"a sequence of {param.python.__name__}")
    if element is ctypes.c_char_p:
        items = [item.encode() if isinstance(item, str) else item for item in items]
    unfit = first_unfit(element, items)
    if unfit is not None:
        raise ValueError(f"{prototype.name}: {param.name}[{unfit}")
    try:
        return (element * len(items))(*items) if items else None
    except TypeError:
        raise _bad(prototype, param, value, f"a sequence of {element.__name__}") from None


def _check_elements(array: Any) -> None:
    """Look at structures in an array of the caller's own as at others."""
    copied = getattr(array, "copied", {})
    for index in range(len(array)):
        item, made = array[index], copied.get(index)
        check_arrays(item)
        if made is not None and bytes(made) == bytes(item):
            check_arrays(made)  # which knows how many elements it was given


def _data(prototype: Prototype, param: Param, value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    pointer = data_pointer(value)
    if pointer is None:
        raise _bad(prototype, param, value, "bytes, a ctypes object, or an address")
    return pointer


def _nothing(prototype: Prototype, param: Param, value: Any) -> Any:
    return None


_CONVERTERS: dict[str, Callable[[Prototype, Param, Any], Any]] = {
    "handle": _handle,
    "value": _value,
    "string": _string,
    "struct": _struct,
    "values": _values,
    "data": _data,
    "allocator": _nothing,
}

# For commands that read `dataSize` bytes at `pData` and the like.
_DATA_LENGTHS = {"vkCmdUpdateBuffer": ("pData", "dataSize")}


def converted(prototype: Prototype, given: tuple[Any, ...]) -> list[Any]:
    """The arguments as C takes them, in the order of the command's inputs."""
    result = [
        _CONVERTERS[param.kind](prototype, param, value)
        for param, value in zip(prototype.params, given, strict=False)
    ]
    _check_lengths(prototype, given, result)
    return result


def _check_lengths(prototype: Prototype, given: tuple[Any, ...], result: list[Any]) -> None:
    """A count must not reach past the elements that were given."""
    names = [param.name for param in prototype.params]
    for param, array in zip(prototype.params, result, strict=False):
        if param.kind == "values" and param.length in names and isinstance(array, ctypes.Array):
            claimed = result[names.index(param.length)]
            if claimed > len(array):
                raise ValueError(
                    f"{prototype.name}: {param.length} is {claimed}, but {param.name} has "
                    f"{len(array)} element{'s' if len(array) != 1 else ''}"
                )
    if prototype.name in _DATA_LENGTHS:
        data, size = (names.index(name) for name in _DATA_LENGTHS[prototype.name])
        value, wanted = given[data], result[size]
        if isinstance(value, (ctypes.c_void_p, ctypes._Pointer)):
            value = ctypes.cast(value, ctypes.c_void_p).value
        if isinstance(value, int):
            if value and wanted and not readable(value, wanted):
                raise ValueError(
                    f"{prototype.name}: {names[data]} is {value:#x}, and {wanted} bytes cannot be "
                    "read there"
                )
        elif value is not None and memoryview(value).nbytes < wanted:
            raise ValueError(
                f"{prototype.name}: {names[size]} is {wanted}, but {names[data]} has "
                f"{memoryview(value).nbytes} bytes"
            )


def converted_output(prototype: Prototype, filled: Any) -> None:
    """Refuse a structure to fill that is of another class than the command's."""
    param = prototype.outputs[0]
    if not isinstance(filled, param.python):
        raise _bad(prototype, param, filled, f"a {param.python.__name__} to fill, or nothing")


# -- the way through the door -------------------------------------------------------------------


def check(
    prototype: Prototype, dispatch: Dispatch, arguments: list[Any], outputs: tuple[Any, ...] = ()
) -> None:
    """Every rule for this call. `outputs` are structures whose own chains the caller made."""
    if dispatch.instance:
        # A command that is not there needs no other criticism.
        getattr(dispatch, prototype.name)
    named = {
        param.name: value
        for param, value in zip(prototype.params, [*arguments, *outputs], strict=False)
    }
    engine.check(engine.Call(prototype, named, dispatch, Queries(dispatch)), dispatch.checks)


def raise_for(prototype: Prototype, result: int, hint: str = "") -> None:
    """Turn a VkResult that is an error into DriverError."""
    if result not in prototype.success:
        try:
            named: Any = _constants.VkResult(result)
        except ValueError:
            named = result
        raise DriverError(named, prototype.name, hint)


def _drive(
    prototype: Prototype, dispatch: Dispatch, arguments: list[Any], outputs: tuple[Any, ...]
) -> Any:
    result = getattr(dispatch, prototype.name)(*arguments, *outputs)
    if prototype.result == "VkResult":
        raise_for(prototype, result)
    return result


def _run(prototype: Prototype, given: tuple[Any, ...]) -> Any:
    dispatch = dispatch_of(prototype, given[0])
    arguments = converted(prototype, given)
    if dispatch.checks == "off":
        return _drive(prototype, dispatch, arguments, ())
    check(prototype, dispatch, arguments)
    undo = record.begins(prototype, dispatch, arguments)
    try:
        result = _drive(prototype, dispatch, arguments, ())
    except BaseException:
        if undo is not None:
            undo()
        raise
    record.done(prototype, dispatch, arguments, result)
    return result


def run(prototype: Prototype, given: tuple[Any, ...]) -> None:
    """A command without output that has nothing to say when it succeeds."""
    _run(prototype, given)


def answer(prototype: Prototype, given: tuple[Any, ...]) -> int:
    """A command whose result says something: VK_SUCCESS or VK_TIMEOUT, a size, an address."""
    result: int = _run(prototype, given)
    return _constants.VkResult(result) if prototype.result == "VkResult" else result


def fetch(
    prototype: Prototype, given: tuple[Any, ...], kind: type[T], filled: T | None = None
) -> T:
    """A command with one output: a handle, a number, or a structure (the caller's, if given)."""
    dispatch = dispatch_of(prototype, given[0])
    arguments = converted(prototype, given)
    param = prototype.outputs[0]
    box: Any
    if not issubclass(kind, Structure):
        box = param.ctype._type_()
    elif filled is None:
        box = kind()
    else:
        converted_output(prototype, filled)
        box = filled
    if dispatch.checks != "off":
        check(prototype, dispatch, arguments, (box,))
    _drive(prototype, dispatch, arguments, (box,))
    if isinstance(box, kind):
        return box
    return _wrapped(prototype, dispatch, arguments, box.value or 0, kind)


def _wrapped(
    prototype: Prototype, dispatch: Dispatch | None, arguments: list[Any], value: Any, kind: type[T]
) -> T:
    """A value as the driver gave it, as `kind`: a handle gets its table and is recorded."""
    if not issubclass(kind, VkHandle):
        number: Any = int(value)
        return cast(T, number)
    made = kind.of(value or 0, dispatch)
    if dispatch is not None and dispatch.checks != "off":
        record.made(prototype, dispatch, arguments, made)
    return made


def listing(prototype: Prototype, given: tuple[Any, ...], kind: type[T]) -> list[T]:
    """A two-call enumeration, as a list."""
    dispatch = dispatch_of(prototype, given[0])
    arguments = converted(prototype, given)
    if dispatch.checks != "off":
        check(prototype, dispatch, arguments)
    command = getattr(dispatch, prototype.name)
    return enumerate_with(prototype, command, arguments, dispatch, kind)


def enumerate_with(
    prototype: Prototype,
    command: Callable[..., Any],
    arguments: list[Any],
    dispatch: Dispatch | None,
    kind: type[T],
) -> list[T]:
    """Ask how many, then for them, again if there are more by then."""
    count_param, list_param = prototype.outputs
    element = list_param.ctype._type_
    while True:
        count = count_param.ctype._type_()
        result = command(*arguments, count, None)
        if prototype.result == "VkResult":
            raise_for(prototype, result)
        if count.value == 0:
            return []
        items = (element * count.value)()
        if issubclass(element, Structure) and element._stype_ is not None:
            for item in items:
                item.sType = element._stype_
        result = command(*arguments, count, items)
        if prototype.result == "VkResult":
            raise_for(prototype, result)
            if result == VK_INCOMPLETE:
                continue
        break
    found = [items[index] for index in range(count.value)]
    if issubclass(kind, Structure):
        return found
    return [_wrapped(prototype, dispatch, arguments, value, kind) for value in found]


def allocate(prototype: Prototype, given: tuple[Any, ...], kind: type[T]) -> list[T]:
    """A command whose number of results follows from its arguments."""
    dispatch = dispatch_of(prototype, given[0])
    arguments = converted(prototype, given)
    param = prototype.outputs[0]
    names = [each.name for each in prototype.params]
    source, _, member = (param.length or "").partition("->")
    value = arguments[names.index(source)]
    if dispatch.checks != "off":
        check(prototype, dispatch, arguments)
    count = getattr(value, member) if member else int(value)
    items = (param.ctype._type_ * count)()
    _drive(prototype, dispatch, arguments, (items,))
    return [_wrapped(prototype, dispatch, arguments, item, kind) for item in items]
