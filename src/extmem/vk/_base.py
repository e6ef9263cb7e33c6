"""What every generated structure and handle is made of.

The generated modules hold names, numbers and layouts; the few behaviours that they share are
here: members that keep alive what they point to, sequences that fill their count member,
strings, integers that do not fit, and handles that know their driver.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable
from ctypes import c_char, c_char_p, c_uint16, c_uint32, c_void_p
from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar

if TYPE_CHECKING:
    from _ctypes import _PyCStructType as _CtypesStructureType

    from extmem.vk._dispatch import Dispatch
else:
    _CtypesStructureType = type(ctypes.Structure)

__all__ = [
    "BOOL",
    "DWORD",
    "HANDLE",
    "LPCWSTR",
    "SECURITY_ATTRIBUTES",
    "WCHAR",
    "Structure",
    "Union",
    "VkBaseInStructure",
    "VkHandle",
]

# Windows types keep their Windows width on every system (ctypes.wintypes does not: its DWORD is
# an unsigned long, which has 64 bits on Linux, and its strings are 32-bit wchar_t there).
HANDLE = c_void_p
DWORD = c_uint32
BOOL = ctypes.c_int32


class WCHAR(c_uint16):
    """One UTF-16 code unit, the `WCHAR` of Windows."""


LPCWSTR = ctypes.POINTER(WCHAR)

_ctypes_init = ctypes.Structure.__init__


class _StructureType(_CtypesStructureType):
    """Structures whose arrays keep alive what was copied into them.

    ctypes copies a structure's bytes into an array, and with them the address in its pNext; the
    array must then hold on to the structure that was there before, which holds on to the rest.
    """

    def __mul__(self, length: int) -> Any:
        return _array_type(self, length)


@functools.cache
def _array_type(element: Any, length: int) -> Any:
    plain = _ctypes_multiply(element, length)

    class Array(plain):  # type: ignore[misc, valid-type]
        def __setitem__(self, index: Any, item: Any) -> None:  # the constructor comes here too
            super().__setitem__(index, item)
            copied = self.__dict__.setdefault("copied", {})
            if isinstance(index, slice):
                copied.update(zip(range(*index.indices(length)), item, strict=True))
            else:
                copied[index % length] = item

    Array.__name__ = Array.__qualname__ = plain.__name__
    return Array


_ctypes_multiply = type(ctypes.Structure).__mul__


class Structure(ctypes.Structure, metaclass=_StructureType):
    """A structure of the specification: members by keyword, `sType` filled in.

    Pointer members keep alive what is assigned to them, at construction or later. They take a
    structure, a sequence (which also sets the count member), bytes, a string, or None.
    """

    # `_given` remembers how many elements each pointer member was given, so that a count that
    # reaches past them is found before a driver reads there. `_next` is the structure that pNext
    # was given, and `_keeps` what a structure that was found behind a pointer depends on. `_alone`
    # is the array of one element that it is, once somebody needed that (`extmem.vk.submits`), and
    # `_parts` where its arrays are, once it was submitted (`rules.glances_at_submits`).
    __slots__ = ("__weakref__", "_alone", "_given", "_keeps", "_next", "_parts")
    _stype_: ClassVar[int | None] = None
    _counts_: ClassVar[dict[str, str]] = {}

    def __init__(self, *values: Any, **members: Any) -> None:
        self._next = None
        if self._stype_ is not None:
            self.sType = self._stype_
        if members or values:
            try:
                _ctypes_init(self, *values, **members)
            except AttributeError:
                _refuse_unknown_members(type(self), members)
                raise

    def __repr__(self) -> str:
        # A chain may be a circle, and what is behind a pointer is another object each time.
        place = (type(self), ctypes.addressof(self), threading.get_ident())
        if place in _being_shown:
            return f"{type(self).__name__}(...)"
        _being_shown.add(place)
        try:
            return f"{type(self).__name__}({', '.join(self._shown())})"
        finally:
            _being_shown.discard(place)

    def _shown(self) -> list[str]:
        """Each member that says something, with its value."""
        shown = []
        for name in member_names(self):
            if name == "sType" and self._stype_ is not None:
                continue
            value = getattr(self, name)
            if value is None or value == 0 or value == "":
                continue
            if isinstance(value, ctypes.Array):
                if not isinstance(value[0], int) or not any(value):
                    continue
                value = list(value)
            elif isinstance(value, ctypes._Pointer):
                if not value:
                    continue
                value = f"<{type(value).__name__[3:]}*>"
            shown.append(f"{name}={value!r}" if not isinstance(value, str) else f"{name}={value}")
        return shown


_being_shown: set[tuple[type, int, int]] = set()

AnyStructure = ctypes.POINTER(Structure)


class Union(ctypes.Union):
    """A union of the specification."""

    __slots__ = ()
    _counts_: ClassVar[dict[str, str]] = {}


def _refuse_unknown_members(cls: type[Structure], members: dict[str, Any]) -> None:
    known = member_names(cls)
    wrong = [name for name in members if name not in known]
    if wrong:
        raise TypeError(
            f"{cls.__name__} has no member {', '.join(wrong)}; it has {', '.join(known)}"
        )


def _wrong(owner: Any, name: str, value: Any, expected: str) -> NoReturn:
    raise TypeError(
        f"{type(owner).__name__}.{name} was given {value!r} ({type(value).__name__}); "
        f"expected {expected}"
    )


# -- addresses --------------------------------------------------------------------------------


_PAGE = 4096  # bytes: no system has smaller ones


_pack_vector = Struct("PN").pack  # an iovec: address and length

# Where what is read for a try goes; nobody looks at it.
_nowhere = ctypes.c_ubyte()


def readable(address: int, size: int) -> bool:
    """Whether the first and the last of these bytes can be read, asked in a way that fails instead
    of faulting. Where the system does not tell, they can.
    """
    last = address + size - 1
    return _can_read(address) and (address // _PAGE == last // _PAGE or _can_read(last))


def _can_read(address: int) -> bool:
    if not 0 <= address < 1 << 64:
        return False
    read = _reader()
    if read is None:
        return True
    if sys.platform == "win32":
        return bool(read(c_void_p(-1), c_void_p(address), ctypes.byref(_nowhere), 1, None))
    here = _pack_vector(ctypes.addressof(_nowhere), 1)
    got = read(os.getpid(), here, 1, _pack_vector(address, 1), 1, 0)
    # Only EFAULT is an answer; where the call itself is forbidden, nothing was learned.
    return not (got < 0 and ctypes.get_errno() == errno.EFAULT)


@functools.cache
def _reader() -> Any:
    """What the system reads the bytes of a process with."""
    if sys.platform == "win32":
        read = ctypes.WinDLL("kernel32").ReadProcessMemory
        read.argtypes = (c_void_p, c_void_p, c_void_p, ctypes.c_size_t, c_void_p)
        return read
    read = getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
    if read is not None:
        vectors = (c_char_p, ctypes.c_ulong)
        read.argtypes = (ctypes.c_int, *vectors, *vectors, ctypes.c_ulong)
        read.restype = ctypes.c_ssize_t
    return read


# -- members ----------------------------------------------------------------------------------
#
# Each replaces the plain ctypes descriptor of one member and calls it underneath. References are
# kept by ctypes' own `_objects`, because only those survive when a structure is copied into an
# array or into another structure.


class _Member:
    __slots__ = ("get", "name", "offset", "set")

    def __init__(self, name: str, field: Any) -> None:
        self.name = name
        self.offset = field.offset  # bytes, as ctypes' own descriptor has it
        self.get = field.__get__
        self.set = field.__set__

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        return self.get(owner)


class _Next(_Member):
    """`pNext`: another structure of the specification, or None."""

    __slots__ = ()

    def __set__(self, owner: Any, value: Any) -> None:
        if isinstance(value, Structure) and value._stype_ is not None:
            if value._counts_:
                check_arrays(value)
            if owner._b_base_ is None:
                _write_address(owner, self.offset, ctypes.addressof(value))
            else:
                # An element of an array: this object goes, so the array has to keep the value.
                self.set(owner, AnyStructure(value))
        elif value is None:
            self.set(owner, None)
        else:
            _wrong(owner, self.name, value, "a structure with an sType, or None")
        owner._next = value

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        if owner._b_base_ is None:
            try:
                return owner._next
            except AttributeError:  # made by from_address or from_buffer
                pass
        pointer = self.get(owner)
        if not pointer:
            return None
        found = resolve(pointer)
        found._keeps = _kept_by(owner)
        return found


_address = Struct("P")
_write_address = _address.pack_into


def _kept_by(owner: Any) -> tuple[Any, ...]:
    """What is kept alive for a structure now.

    Something found behind one of its pointers must hold on to it: the pointer may be set to
    something else while the find is still looked at.
    """
    kept: tuple[Any, ...] = ()
    while owner is not None:
        kept += tuple(getattr(owner, "copied", {}).values())
        kept += tuple((owner._objects or {}).values())
        owner = owner._b_base_
    return kept


class _Pointer(_Member):
    """A pointer to one or more elements of a known type."""

    __slots__ = ("beside", "count", "element", "pointer")

    def __init__(
        self, name: str, field: Any, pointer: Any, count: str | None, beside: tuple[str, ...]
    ) -> None:
        super().__init__(name, field)
        self.pointer = pointer
        self.element = pointer._type_
        self.count = count
        self.beside = beside  # other arrays with the same count

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        pointer = self.get(owner)
        if pointer:
            pointer.keeps = _kept_by(owner)
        return pointer

    def __set__(self, owner: Any, value: Any) -> None:
        if value is None or isinstance(value, self.pointer):
            self.set(owner, value)
            # There are none, or nobody knows how many.
            getattr(owner, "_given", _NOTHING_GIVEN).pop(self.name, None)
            return
        if isinstance(value, self.element):
            if isinstance(value, Structure):
                check_arrays(value)
            self.set(owner, self.pointer(value))
            length = 1
        else:
            array = self._array(owner, value)
            # An empty array still has an address; a driver that is told "none" gets NULL.
            self.set(owner, array if len(array) else None)
            length = len(array)
        if self.count is not None:
            remember_length(owner, self.name, length)
            # The longest decides, so that one that is too short is noticed by `check_counts`.
            for other in self.beside:
                length = max(length, owner._given.get(other, 0))
            setattr(owner, self.count, length)

    def _array(self, owner: Any, value: Any) -> Any:
        if isinstance(value, ctypes.Array) and value._type_ is self.element:
            return value
        if isinstance(value, (str, bytes, int)) or not isinstance(value, Iterable):
            _wrong(owner, self.name, value, f"a sequence of {self.element.__name__}, or None")
        items = list(value)
        if self.element is c_char_p:
            items = [item.encode() if isinstance(item, str) else item for item in items]
        for item in items:
            if isinstance(item, Structure):
                check_arrays(item)
        unfit = first_unfit(self.element, items)
        if unfit is not None:
            raise ValueError(f"{type(owner).__name__}.{self.name}[{unfit}")
        try:
            return (self.element * len(items))(*items)
        except TypeError:
            _wrong(owner, self.name, value, f"a sequence of {self.element.__name__}")


# Of a structure whose arrays were given nothing yet.
_NOTHING_GIVEN: dict[str, int] = {}


# What an address may be, with or without a sign.
_LEAST, _MOST = -(1 << 8 * ctypes.sizeof(c_void_p) - 1), (1 << 8 * ctypes.sizeof(c_void_p)) - 1


class _Data(_Member):
    """A pointer to bytes: an address, bytes, a ctypes object, or None."""

    __slots__ = ()

    def __set__(self, owner: Any, value: Any) -> None:
        if isinstance(value, int):
            if not _LEAST <= value <= _MOST:  # INVALID_HANDLE_VALUE is -1
                raise ValueError(
                    f"{type(owner).__name__}.{self.name} was given {value}, which does not fit; "
                    "expected an address, or a handle's number"
                )
        elif value is not None:
            pointer = data_pointer(value)
            if pointer is None:
                _wrong(owner, self.name, value, "an address, bytes, a ctypes object, or None")
            value = pointer
        self.set(owner, value)


class _String(_Member):
    """`const char *`, given and read as `str`."""

    __slots__ = ()

    def __set__(self, owner: Any, value: Any) -> None:
        if isinstance(value, str):
            if "\0" in value:
                _wrong(owner, self.name, value, "a string without NUL characters")
            value = value.encode()
        elif value is not None and not isinstance(value, bytes):
            _wrong(owner, self.name, value, "a str, or None")
        elif value is not None and b"\0" in value:
            _wrong(owner, self.name, value, "a string without NUL characters")
        self.set(owner, value)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        value = self.get(owner)
        return None if value is None else value.decode(errors="replace")


class _Text(_Member):
    """A `char` array inside the structure, given and read as `str`."""

    __slots__ = ()

    def __set__(self, owner: Any, value: Any) -> None:
        self.set(owner, value.encode() if isinstance(value, str) else value)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        return self.get(owner).decode(errors="replace")


class _WideString(_Member):
    """`LPCWSTR`: UTF-16 with a terminating zero, given and read as `str`."""

    __slots__ = ()
    _longest = 1 << 16

    def __set__(self, owner: Any, value: Any) -> None:
        if isinstance(value, str):
            if "\0" in value:
                _wrong(owner, self.name, value, "a string without NUL characters")
            units = value.encode("utf-16-le", "surrogatepass") + b"\0\0"
            value = (WCHAR * (len(units) // 2)).from_buffer_copy(units)
        elif isinstance(value, ctypes.Array) and value._type_ is WCHAR:
            if all(unit.value for unit in value):
                _wrong(owner, self.name, value, "an array of WCHAR that ends with a zero")
        elif value is not None and not isinstance(value, LPCWSTR):
            _wrong(owner, self.name, value, "a str, or None")
        self.set(owner, value)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        pointer = self.get(owner)
        if not pointer:
            return None
        address = ctypes.cast(pointer, c_void_p).value or 0
        units = bytearray()
        for index in range(self._longest):
            here = address + 2 * index
            if (not index or here % _PAGE < 2) and not readable(here, 2):
                raise ValueError(
                    f"{type(owner).__name__}.{self.name} points to {address:#x}, and nothing can "
                    f"be read at {here:#x}; pass a str"
                )
            unit = pointer[index].value
            if unit == 0:
                return units.decode("utf-16-le", "surrogatepass")
            units += unit.to_bytes(2, "little")
        raise ValueError(
            f"{type(owner).__name__}.{self.name} does not end within {self._longest} characters; "
            "pass a str"
        )


class _Integer(_Member):
    """A number that must fit: ctypes alone would cut it off without a word."""

    __slots__ = ("high", "low")

    def __init__(self, name: str, field: Any, low: int, high: int) -> None:
        super().__init__(name, field)
        self.low = low
        self.high = high

    def __set__(self, owner: Any, value: Any) -> None:
        try:
            fits = self.low <= value <= self.high
        except TypeError:
            if value is None and self.low == 0:  # VK_NULL_HANDLE may be written as None
                self.set(owner, 0)
                return
            _wrong(owner, self.name, value, f"an integer from {self.low} to {self.high}")
        if not fits:
            raise ValueError(
                f"{type(owner).__name__}.{self.name} was given {value}, which does not fit; "
                f"expected an integer from {self.low} to {self.high}"
            )
        try:
            self.set(owner, value)
        except TypeError:  # a float
            _wrong(owner, self.name, value, f"an integer from {self.low} to {self.high}")


_RANGES: dict[Any, tuple[int, int]] = {
    kind: (
        (0, (1 << 8 * ctypes.sizeof(kind)) - 1)
        if kind(-1).value > 0
        else (-(1 << 8 * ctypes.sizeof(kind) - 1), (1 << 8 * ctypes.sizeof(kind) - 1) - 1)
    )
    for kind in (
        ctypes.c_uint8,
        ctypes.c_uint16,
        ctypes.c_uint32,
        ctypes.c_uint64,
        ctypes.c_int32,
        ctypes.c_int64,
        ctypes.c_size_t,
    )
}


def first_unfit(element: Any, items: list[Any]) -> str | None:
    """What is to be said of the first number that does not fit an array, from its index on; None
    if all fit. ctypes alone would cut it off without a word.
    """
    known = _RANGES.get(element)
    if known is None:
        return None
    low, high = known
    for index, item in enumerate(items):
        if isinstance(item, int) and not low <= item <= high:
            return (
                f"{index}] was given {int(item)}, which does not fit; "
                f"expected an integer from {low} to {high}"
            )
    return None


def _is_text(kind: Any) -> bool:
    """Whether a member is a `char` array."""
    return (
        isinstance(kind, type)
        and issubclass(kind, ctypes.Array)
        and kind._type_.__name__ == "c_char"
    )


S = TypeVar("S", bound=type)

# sType to class, for walking chains. Filled by `structure`.
BY_STYPE: dict[int, type[Structure]] = {}

# How to get the address of a structure that may be put into a chain without a further look:
# extensible, and without counts to check. Filled by `structure`, used by the quick constructors.
PLAIN_ADDRESS: dict[type, Callable[[Any], int]] = {}


def structure(cls: S) -> S:
    """Finish a generated structure: give each member the behaviour of its type."""
    counts: dict[str, str] = getattr(cls, "_counts_", {})
    for name, kind, *_ in getattr(cls, "_fields_"):  # noqa: B009
        field = getattr(cls, name)
        member: _Member | None = None
        if kind is AnyStructure:
            member = _Next(name, field)
        elif kind is c_char_p:
            member = _String(name, field)
        elif kind is LPCWSTR:
            member = _WideString(name, field)
        elif kind is c_void_p:
            member = _Data(name, field)
        elif isinstance(kind, type) and issubclass(kind, ctypes._Pointer):
            count = counts.get(name)
            beside = tuple(each for each in counts if each != name and counts[each] == count)
            member = _Pointer(name, field, kind, count, beside)
        elif _is_text(kind):
            member = _Text(name, field)
        elif kind in _RANGES and name != "sType":
            member = _Integer(name, field, *_RANGES[kind])
        if member is not None:
            setattr(cls, name, member)
    stype = getattr(cls, "_stype_", None)
    if stype is not None:
        BY_STYPE[stype] = cls
        if not counts:
            PLAIN_ADDRESS[cls] = ctypes.addressof
    return cls


def resolve(pointer: Any) -> Structure:
    """The structure behind a `pNext` pointer, as its own class, by its sType.

    The result shares the memory. A structure with an sType
    that this package does not know comes back as the two members that all of them have.
    """
    address = ctypes.cast(pointer, c_void_p).value or 0
    if not readable(address, _HEAD):
        raise _dangling(address)
    header = ctypes.cast(pointer, ctypes.POINTER(VkBaseInStructure)).contents
    cls = BY_STYPE.get(header.sType)
    if cls is None:
        return header
    last = address + ctypes.sizeof(cls) - 1
    if last // _PAGE != (address + _HEAD - 1) // _PAGE and not _can_read(last):
        raise _dangling(address)
    found: Structure = ctypes.cast(pointer, ctypes.POINTER(cls)).contents
    return found


_HEAD = 2 * ctypes.sizeof(c_void_p)  # bytes that every extensible structure starts with


def _dangling(address: int) -> ValueError:
    return ValueError(
        f"a pNext is {address:#x}, and nothing can be read there; assign the structure itself, "
        "which then lives as long as the one that it follows"
    )


@structure
class VkBaseInStructure(Structure):
    """The head that every extensible structure starts with."""

    __slots__ = ()
    _fields_ = [("sType", ctypes.c_int32), ("pNext", AnyStructure)]


@structure
class SECURITY_ATTRIBUTES(Structure):
    """Windows' SECURITY_ATTRIBUTES; `nLength` is filled in."""

    __slots__ = ()
    _fields_ = [
        ("nLength", DWORD),
        ("lpSecurityDescriptor", c_void_p),
        ("bInheritHandle", BOOL),
    ]

    def __init__(self, *values: Any, **members: Any) -> None:
        if not values:
            members.setdefault("nLength", ctypes.sizeof(type(self)))
        super().__init__(*values, **members)


def member_names(item: Any) -> list[str]:
    """The members of a structure, or of its class, in their order."""
    return [field[0] for field in item._fields_]


def data_pointer(value: Any) -> c_void_p | None:
    """A pointer that keeps `value` alive, for bytes-like and ctypes objects; None for others."""
    if isinstance(value, c_void_p):
        return value
    if isinstance(value, bytes):
        # A copy: the array keeps itself alive through the pointer, which bytes would not.
        return ctypes.cast((c_char * len(value)).from_buffer_copy(value), c_void_p)
    if isinstance(value, (ctypes.Structure, ctypes.Union, ctypes._SimpleCData)):
        return ctypes.cast(ctypes.pointer(value), c_void_p)
    if isinstance(value, (ctypes.Array, ctypes._Pointer)):
        return ctypes.cast(value, c_void_p)
    try:
        view = memoryview(value).cast("B")
    except TypeError:
        return None
    if view.readonly:
        return ctypes.cast((c_char * view.nbytes).from_buffer_copy(view), c_void_p)
    return ctypes.cast((c_char * view.nbytes).from_buffer(view), c_void_p)


def remember_length(owner: Structure, name: str, length: int) -> None:
    """Note how many elements a pointer member was given."""
    try:
        owner._given[name] = length
    except AttributeError:
        owner._given = {name: length}


def check_counts(owner: Structure) -> None:
    """Refuse a count that reaches past the elements that were given."""
    given: dict[str, int] | None = getattr(owner, "_given", None)
    if not given:
        return
    for name, length in given.items():
        count = owner._counts_[name]
        claimed = getattr(owner, count)
        if claimed > length and getattr(owner, name):
            longest = max(given, key=lambda each: (owner._counts_[each] == count, given[each]))
            remedy = f"leave {count} out and it is filled in"
            if given[longest] >= claimed and owner._counts_[longest] == count:
                remedy = f"give it as many as {longest}"
            raise ValueError(
                f"{type(owner).__name__}.{count} is {claimed}, but {name} was given {length} "
                f"element{'s' if length != 1 else ''}; {remedy}"
            )


def check_arrays(owner: Structure) -> None:
    """`check_counts`, and refuse bare pointers to what cannot be read."""
    counts = owner._counts_
    if not counts:
        return
    check_counts(owner)
    given: Any = getattr(owner, "_given", ())
    if len(given) == len(counts):
        return
    for name, count in counts.items():
        claimed = getattr(owner, count) if name not in given else 0
        pointer = getattr(owner, name) if claimed else None
        if not pointer:
            continue
        address = ctypes.cast(pointer, c_void_p).value or 0
        if not readable(address, claimed * ctypes.sizeof(pointer._type_)):
            raise ValueError(
                f"{type(owner).__name__}.{name} points to {address:#x}, and {claimed} elements "
                "cannot be read there; assign a sequence, which is kept alive"
            )


class VkHandle(int):
    """A Vulkan handle: its number, and the driver that it came from.

    Equal to its number and usable wherever the specification wants the handle. A handle that was
    made by hand (`VkBuffer(7)`) has no driver and is refused where one is needed.
    """

    dispatchable: ClassVar[bool] = False
    dispatch: Dispatch | None = None

    @classmethod
    def of(cls, value: int, dispatch: Dispatch | None) -> Self:
        """A handle with its driver."""
        self = cls(value)
        self.dispatch = dispatch
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {int(self):#x}>"

    __str__ = __repr__
