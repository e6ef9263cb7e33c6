"""What is said between a process and its helper, which tries imports first: packets, and errors.

The helper is ours, but a stranger's handle passes through it. So what it says is decoded as
strictly as what strangers say.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from extmem.errors import (
    CommandUnavailable,
    DriverError,
    PassportError,
    Problem,
    QuarantineError,
    RuleViolation,
    Unsupported,
    plain,
)
from extmem.handles.winerror import code_of
from extmem.share import passport as passports
from extmem.share.parcels import Lie
from extmem.vk import _constants as c

__all__ = [
    "About",
    "Answer",
    "Failed",
    "Passed",
    "Ready",
    "Step",
    "Try",
    "answer_of",
    "encode",
    "failure_of",
    "is_expected",
    "remade",
    "said_by",
    "try_of",
]

T = TypeVar("T")

_LONGEST = 4000  # characters of one sentence
_MOST_PROBLEMS = 16

_Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Number = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Code = Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)]
_Word = Annotated[str, Meta(max_length=64)]
_Text = Annotated[str, Meta(max_length=_LONGEST)]


class About(Struct, frozen=True, forbid_unknown_fields=True):
    """What a `Handle` knows of itself. A bare number has none of it."""

    size: _Number | None
    memory_type_index: _Number | None
    device_uuid: Annotated[bytes, Meta(max_length=64)] | None
    dedicated: bool


class Try(Struct, frozen=True, forbid_unknown_fields=True):
    """Import this, and look at it. What the members mean is said by `Device.import_memory`."""

    type: _Word  # of the handle
    value: _Number | None  # over there; None for a descriptor, which lies beside, and for a name
    name: bytes | None  # in UTF-16, as which any name can be sent
    about: About | None
    size: _Number | None
    memory_type: _Number | _Text | None
    dedicated: bool | None
    passport: Annotated[bytes, Meta(max_length=passports.LARGEST)] | None


class Ready(Struct, frozen=True, forbid_unknown_fields=True, tag="ready"):
    """The helper has opened its device."""

    device_uuid: _Uuid
    driver_uuid: _Uuid


class Step(Struct, frozen=True, forbid_unknown_fields=True, tag="step"):
    """How far a trial has come: what it is at, if nothing else is said."""

    at: Literal["importing", "reading", "freeing"]


class Passed(Struct, frozen=True, forbid_unknown_fields=True, tag="passed"):
    """It was imported, mapped where that can be, read, and freed again."""


class _Problem(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    vuid: _Text
    member: _Text
    value: _Number | _Text | None
    problem: _Text
    remedy: _Text


class Failed(Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """It ended in an error."""

    kind: _Word  # the name of its class
    text: _Text  # what it says; for a DriverError its hint
    well: bool  # the helper is as well as before
    call: _Word = ""  # the command of a RuleViolation or a DriverError
    result: _Code = 0  # its VkResult
    errno: _Code | None = None
    winerror: _Code | None = None
    problems: Annotated[tuple[_Problem, ...], Meta(max_length=_MOST_PROBLEMS)] = ()


Answer = Ready | Step | Passed | Failed

_encoder = msgspec.msgpack.Encoder()
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer, strict=True)
_tries = msgspec.msgpack.Decoder(Try, strict=True)


def encode(what: Try | Answer) -> bytes:
    """As bytes.

    >>> answer_of(encode(Passed()))
    Passed()
    """
    return _encoder.encode(what)


def answer_of(data: bytes) -> Answer:
    """From bytes. Lie if they are no answer."""
    return _decoded(_answers, data, "no answer")


def try_of(data: bytes) -> Try:
    """From bytes. Lie if they ask for nothing that can be tried."""
    return _decoded(_tries, data, "nothing to try")


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Lie(f"{len(data)} bytes that are {what}: {plain(error)}") from None


# -- errors ---------------------------------------------------------------------------------------

# Those that an import raises anyway, and of which nothing is known but what they say.
_PLAIN: dict[str, type[Exception]] = {
    each.__name__: each
    for each in (CommandUnavailable, PassportError, Unsupported, TypeError, ValueError)
}


def is_expected(error: Exception) -> bool:
    """Whether an error is one of those with which an import is refused, and the helper is as well
    as before. Any other says that something is wrong there.
    """
    if isinstance(error, DriverError):
        return bool(error.result != c.VK_ERROR_DEVICE_LOST)
    if isinstance(error, OSError):
        # ctypes makes one without a number of an access violation, on Windows.
        return error.errno is not None
    return isinstance(error, RuleViolation) or _plain_kind(error) is not None


def failure_of(error: Exception) -> Failed:
    """An error, to be sent."""
    text, well = str(error)[:_LONGEST], is_expected(error)
    if isinstance(error, RuleViolation):
        problems = tuple(_sent(each) for each in error.problems[:_MOST_PROBLEMS])
        return Failed("RuleViolation", text, well, call=error.call[:64], problems=problems)
    if isinstance(error, DriverError):
        call, result = error.call[:64], int(error.result)
        return Failed("DriverError", error.hint[:_LONGEST], well, call=call, result=result)
    if isinstance(error, OSError) and error.errno is not None:
        text = str(error.strerror or error)[:_LONGEST]
        return Failed("OSError", text, well, errno=error.errno, winerror=code_of(error))
    return Failed(_plain_kind(error) or type(error).__name__[:64], text, well)


def remade(failed: Failed) -> Exception:
    """The error that was sent, of the same class.

    >>> remade(failure_of(ValueError("there is no such thing")))
    ValueError('there is no such thing')
    """
    if failed.kind == "RuleViolation":
        problems = [
            Problem(each.vuid, each.member, each.value, each.problem, each.remedy)
            for each in failed.problems
        ]
        return RuleViolation(failed.call, problems)
    if failed.kind == "DriverError":
        return DriverError(_named(failed.result), failed.call, failed.text)
    if failed.kind == "OSError":
        return _os_error(failed)
    if failed.kind in _PLAIN:
        return _PLAIN[failed.kind](failed.text)
    return QuarantineError(f"the trial import met an error of its own: {said_by(failed)}")


def said_by(failed: Failed) -> str:
    """An error in one line, for another one's message."""
    return plain(f"{failed.kind}: {failed.text}", _LONGEST)


def _plain_kind(error: Exception) -> str | None:
    """The name in _PLAIN of the nearest class that an error is of."""
    return next((each.__name__ for each in type(error).__mro__ if each.__name__ in _PLAIN), None)


def _sent(problem: Problem) -> _Problem:
    value = problem.value
    if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        value = None if value is None else str(value)[:_LONGEST]
    else:
        value = int(value)
    words = (problem.problem[:_LONGEST], problem.remedy[:_LONGEST])
    return _Problem(problem.vuid[:_LONGEST], problem.member[:_LONGEST], value, *words)


def _named(result: int) -> Any:
    try:
        return c.VkResult(result)
    except ValueError:
        return result


def _os_error(failed: Failed) -> OSError:
    if sys.platform == "win32":
        return OSError(failed.errno, failed.text, None, failed.winerror)
    error = OSError(failed.errno, failed.text)
    if failed.winerror is not None:
        error.__dict__["winerror"] = failed.winerror  # which an OSError has on Windows alone
    return error
