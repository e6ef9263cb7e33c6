"""What is fuzzed: everything that reads what another process sent.

Each target is a plain function of bytes. It returns, or raises what its callers are promised for
bytes that are none; any other exception is a finding, and so is an `AssertionError`.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from extmem.errors import PassportError
from extmem.handles.directory import protocol as p
from extmem.handles.system import kernel
from extmem.share import channel, parcels, trials
from extmem.share.passport import Passport, Place, any_passport
from tests.fuzz import directory, frames, mutation, seeds, streams

__all__ = ["BROKEN", "TARGETS", "Target"]

Function = Callable[[bytes], None]

_HERE = Place.here(b"d" * 16, b"v" * 16, b"l" * 8, 1, "a device")


def passport(data: bytes) -> None:
    """A passport of memory, a semaphore or a fence, and what an importer asks of it."""
    found = any_passport(data)
    if isinstance(found, Passport):
        assert found.size is None or found.size <= found.allocation_size
        found.unchecked()
    list(found.problems(_HERE))
    assert any_passport(found.encode()) == found


def request(data: bytes) -> None:
    """A packet to the directory."""
    found = p.decode_request(data)
    assert p.decode_request(p.encode(found)) == found
    for text in (getattr(found, "name", None), getattr(found, "security", None)):
        if text is not None:
            assert p.pack_text(p.unpack_text(text)) == text


def reply(data: bytes) -> None:
    """A packet from the directory, and what its clients make of it."""
    found = p.decode_reply(data)
    again = p.decode_reply(p.encode(found))
    assert again == found or "nan" in repr(found)
    match found:
        case p.Failed():
            str(p.remade(found))
        case p.Described() if found.name is not None:
            p.unpack_text(found.name)
        case p.ListingPage():
            for each in found.objects:
                if each.name is not None:
                    p.unpack_text(each.name)


def parcel(data: bytes) -> None:
    """What crosses a channel, without one."""
    found = parcels.decode(data)
    assert parcels.decode(parcels.encode(found)) == found
    for item in found.items:
        kind = parcels.type_of(item)
        handle = parcels.handle_of(1 if item.value is None else item.value, kind, item.passport)
        handle.detach()


def answer(data: bytes) -> None:
    """What comes from the process in which imports are tried, and what is made of it."""
    found = trials.answer_of(data)
    assert trials.answer_of(trials.encode(found)) == found
    if isinstance(found, trials.Failed):
        str(trials.remade(found))


class Carried:
    """A channel, whose peer sends what it likes."""

    def __init__(self) -> None:
        self._descriptors = directory.Descriptors()
        self._section = kernel().create_section(4096)
        self._real = b"\xcf" + seeds.REAL.to_bytes(8, "big")
        self._unraisable: list[object] = []
        sys.unraisablehook = lambda args: self._unraisable.append((args.object, args.exc_value))
        warnings.simplefilter("error", ResourceWarning)  # a handle that nobody closed
        self._before = directory.lowest_free()
        self._handles = kernel().count_handles()

    def __call__(self, data: bytes) -> None:
        refusals: list[Exception] = []
        numbers: list[int] = []
        pair: tuple[channel.Channel, channel.Channel] | None = None
        held: list[channel.Parcel] = []  # so that handles of several meet
        for control, packet in frames.split(data):
            if pair is None:
                pair = channel.pair()
            if self._real in packet:
                numbers.append(kernel().duplicate(self._section))
                packet = packet.replace(self._real, b"\xcf" + numbers[-1].to_bytes(8, "big"))
            here, there = pair
            here._open().send(packet, self._descriptors.beside(control), 0)
            try:
                held.append(there.receive(timeout=0))
            except (ConnectionAbortedError, PermissionError, EOFError) as refusal:
                refusals.append(refusal)
                here.close()
                there.close()
                pair = None
        for each in pair or ():
            each.close()
        for each in held:
            each.close()
        held.clear()
        for number in numbers:
            with contextlib.suppress(OSError):  # the parcel had it, or it was refused
                kernel().close(number)
        assert not self._unraisable, self._unraisable
        assert directory.lowest_free() == self._before, "a descriptor is left"
        assert kernel().count_handles() == self._handles or not numbers, "a handle is left"
        if refusals:
            raise refusals[-1]

    def close(self) -> None:
        kernel().close(self._section)
        self._descriptors.close()


@contextlib.contextmanager
def _channel() -> Iterator[Function]:
    carried = Carried()
    yield carried
    carried.close()


def _plain(function: Function) -> Callable[[], AbstractContextManager[Function]]:
    return lambda: contextlib.nullcontext(function)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to fuzz."""

    open: Callable[[], AbstractContextManager[Function]]
    refusals: tuple[type[Exception], ...]  # that its callers are promised
    seeds: Callable[[], list[bytes]]
    change: mutation.Change
    largest: int  # bytes of an input
    short: int = 5_000  # inputs in each run of the tests


TARGETS = {
    "passport": Target(
        _plain(passport), (PassportError,), seeds.of_passports, mutation.of_packet, 1600
    ),
    "request": Target(_plain(request), (p.Malformed,), seeds.of_requests, mutation.of_packet, 4096),
    "reply": Target(_plain(reply), (p.Malformed,), seeds.of_replies, mutation.of_packet, 4096),
    "parcel": Target(
        _plain(parcel),
        (parcels.Lie,),
        lambda: [data for each in seeds.of_channels() for _, data in frames.split(each)],
        mutation.of_packet,
        4096,
    ),
    "answer": Target(_plain(answer), (parcels.Lie,), seeds.of_answers, mutation.of_packet, 4096),
    "greeting": Target(
        _plain(streams.greeting), (ValueError,), streams.of_greetings, mutation.of_packet, 4096
    ),
    "fields": Target(
        _plain(streams.fields), (ValueError,), streams.of_fields, mutation.of_packet, 4096
    ),
    "channel": Target(
        _channel,
        (ConnectionAbortedError, PermissionError, EOFError),
        seeds.of_channels,
        mutation.of_frames,
        8192,
        500,
    ),
    "service": Target(directory.opened, (), seeds.of_services, mutation.of_frames, 8192, 1_000),
}


# Two that are wrong, by which the fuzzer itself is tried.
_kept: list[list[bytes]] = []


def _fails(data: bytes) -> None:
    found = Passport.decode(data)
    if found.memory_type == 3:
        raise ValueError("the third memory type")


def _leaks(data: bytes) -> None:
    with contextlib.suppress(PassportError):
        Passport.decode(data)
    _kept.append([data])


BROKEN = {
    "fails": Target(
        _plain(_fails), (PassportError,), seeds.of_passports, mutation.of_packet, 1600, 100_000
    ),
    "leaks": Target(_plain(_leaks), (), seeds.of_passports, mutation.of_packet, 1600),
}
