"""Passports: what they carry, and that bytes of strangers do no harm."""

from __future__ import annotations

import random
import sys
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extmem.errors import PassportError
from extmem.handle_types import memory_type
from extmem.share import parcels
from extmem.share.machine import boot, machine
from extmem.share.passport import (
    LARGEST,
    VERSION,
    BufferInfo,
    Exporter,
    ImageInfo,
    Passport,
    Place,
    SyncPassport,
    any_passport,
)

KMT = memory_type("opaque_win32_kmt")
HERE = Place.here(b"d" * 16, b"v" * 16, b"l" * 8, 1, "a device")
IMAGE = ImageInfo(1, 37, 64, 48, 1, 1, 1, 1, 0, 3)


def full(**changes: object) -> Passport:
    made = Passport(
        handle_type="opaque_win32",
        allocation_size=8192,
        memory_type=2,
        size=5000,
        place=HERE,
        device_mask=1,
        dedicated=BufferInfo(5000, 3),
        image=IMAGE,
        exporter=Exporter.this(),
    )
    return msgspec.structs.replace(made, **changes)


def test_all_of_it_arrives() -> None:
    assert Passport.decode(full().encode()) == full()
    assert Passport.decode(full(dedicated=IMAGE).encode()).dedicated == IMAGE


def test_it_fits_where_it_has_to_with_the_longest_names() -> None:
    longest = full(
        place=msgspec.structs.replace(HERE, device_name="n" * 256),
        exporter=Exporter(2**32 - 1, "n" * 256),
        image=ImageInfo(*[2**32 - 1] * 13, modifier=2**64 - 1),
    )
    assert len(longest.encode()) <= LARGEST


def test_one_that_is_too_large_is_not_made() -> None:
    names = Exporter(1, "\N{GRINNING FACE}" * 500)
    with pytest.raises(PassportError, match=f"at most {LARGEST}"):
        full(exporter=names).encode()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no passport"),
        (b"\x00" * 100, "no passport"),
        (b"x" * (LARGEST + 1), "at most"),
        (msgspec.msgpack.encode((VERSION + 1, {})), f"version {VERSION + 1}"),
        (msgspec.msgpack.encode((VERSION, {})), "missing required field"),
        (msgspec.msgpack.encode((VERSION, {"handle_type": 7})), "handle_type"),
        (full().encode() + b"\x00", "no passport"),
        (full().encode()[:-1], "no passport"),
        (b"\x91" * 1000, "no passport"),  # arrays in arrays
    ],
)
def test_what_is_none_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(PassportError, match=what):
        Passport.decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"handle_type": "x" * 65},
        {"allocation_size": -1},
        {"allocation_size": 1 << 63},
        {"memory_type": 1 << 32},
        {"memory_type": "2"},
        {"unknown": 1},
        {"place": {"device_uuid": b"short", "driver_uuid": b"v" * 16}},
        {"dedicated": {"kind": "texture"}},
        {"exporter": {"process_id": 1, "name": "x" * 257}},
        {"size": 8193},
    ],
    ids=str,
)
def test_members_are_checked_one_by_one(change: dict[str, object]) -> None:
    plain = msgspec.to_builtins(full(), builtin_types=(bytes,))
    data = msgspec.msgpack.encode((VERSION, {**plain, **change}))
    with pytest.raises(PassportError):
        Passport.decode(data)


def test_another_device_is_told_with_both() -> None:
    other = Place.here(b"e" * 16, b"v" * 16, None, 0, "another device")
    (told,) = full().problems(other)
    assert b"d".hex() * 16 in told
    assert b"e".hex() * 16 in told
    assert "another device" in told


def test_another_driver_is_told() -> None:
    (told,) = full().problems(Place.here(b"d" * 16, b"w" * 16, None, 0, "a device"))
    assert "another build of the driver" in told


def test_another_machine_or_start_of_it_is_told_and_nothing_else() -> None:
    elsewhere = Place(b"e" * 16, b"w" * 16, machine=b"m" * 16)
    (told,) = full().problems(elsewhere)
    assert "another machine" in told
    earlier = msgspec.structs.replace(HERE, boot=b"b" * 16)
    if any(boot()):
        (told,) = full().problems(earlier)
        assert "earlier start" in told


def test_what_is_not_known_is_not_held_against_anybody() -> None:
    bare = Passport(handle_type="opaque_fd", allocation_size=1, memory_type=0)
    assert list(bare.problems(HERE)) == []
    assert list(full().problems(HERE)) == []
    assert bare.unchecked() == ["device and driver", "exporter"]
    assert full().unchecked() == []


def test_the_machine_is_told_by_a_hash() -> None:
    assert len(machine()) == 16
    assert machine() == machine()
    assert machine() != boot()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=LARGEST + 10))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with suppress(PassportError):
        assert isinstance(Passport.decode(data), Passport)
    with suppress(PassportError):
        assert isinstance(SyncPassport.decode(data), SyncPassport)
    with suppress(PassportError):
        assert isinstance(any_passport(data), Passport | SyncPassport)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_no_damage_does_more_than_be_refused(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(full().encode())
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    with suppress(PassportError):
        Passport.decode(data)


# -- of semaphores and fences ---------------------------------------------------------------------


def sync(**changes: object) -> SyncPassport:
    made = SyncPassport(
        "opaque_win32", "semaphore", timeline=True, flags=3, place=HERE, exporter=Exporter.this()
    )
    return msgspec.structs.replace(made, **changes)


def test_all_of_a_semaphore_arrives() -> None:
    assert SyncPassport.decode(sync().encode()) == sync()
    fence = SyncPassport("opaque_fd", "fence")
    assert SyncPassport.decode(fence.encode()) == fence
    assert len(sync(place=msgspec.structs.replace(HERE, device_name="n" * 256)).encode()) < LARGEST


def test_memory_is_no_semaphore_and_a_semaphore_is_no_memory() -> None:
    with pytest.raises(PassportError, match="no passport of a semaphore or fence"):
        SyncPassport.decode(full().encode())
    with pytest.raises(PassportError, match="no passport of memory"):
        Passport.decode(sync().encode())
    assert any_passport(full().encode()) == full()
    assert any_passport(sync().encode()) == sync()


def test_what_is_neither_is_told_as_what_it_seems_to_be() -> None:
    with pytest.raises(PassportError, match=r"no passport of a semaphore or fence.*flags"):
        any_passport(_changed(sync(), flags=-1))
    with pytest.raises(PassportError, match=r"no passport of memory.*memory_type"):
        any_passport(_changed(full(), memory_type=-1))


@pytest.mark.parametrize(
    "change",
    [
        {"handle_type": "x" * 65},
        {"object": "event"},
        {"object": 1},
        {"object": "fence"},  # which is no timeline
        {"timeline": 1},
        {"flags": 1 << 32},
        {"of": "memory"},
        {"unknown": 1},
        {"allocation_size": 4096},
        {"place": {"device_uuid": b"short", "driver_uuid": b"v" * 16}},
        {"exporter": {"process_id": 1, "name": "x" * 257}},
    ],
    ids=str,
)
def test_members_of_a_semaphore_are_checked_one_by_one(change: dict[str, object]) -> None:
    with pytest.raises(PassportError):
        SyncPassport.decode(_changed(sync(), **change))


def test_versions_sizes_and_places_are_as_with_memory() -> None:
    with pytest.raises(PassportError, match=f"version {VERSION + 1}"):
        SyncPassport.decode(msgspec.msgpack.encode((VERSION + 1, {})))
    with pytest.raises(PassportError, match="at most"):
        SyncPassport.decode(b"x" * (LARGEST + 1))
    with pytest.raises(PassportError, match=f"at most {LARGEST}"):
        sync(exporter=Exporter(1, "\N{GRINNING FACE}" * 500)).encode()
    (told,) = sync().problems(Place.here(b"e" * 16, b"v" * 16, None, 0, "another device"))
    assert "another device" in told
    assert list(sync().problems(HERE)) == []
    assert list(sync(place=None).problems(HERE)) == []
    assert sync(place=None).unchecked() == ["device and driver"]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_no_damage_of_a_semaphores_does_more_than_be_refused(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(sync().encode())
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    with suppress(PassportError):
        assert isinstance(any_passport(data), Passport | SyncPassport)


def _changed(passport: Passport | SyncPassport, **change: object) -> bytes:
    plain = msgspec.to_builtins(passport, builtin_types=(bytes,))
    return msgspec.msgpack.encode((VERSION, {**plain, **change}))


# -- words of strangers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["caf\udce9.py", "\N{GRINNING FACE}" * 500, "n" * 500])
def test_any_program_and_any_device_can_share(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"/somewhere/{name}"])
    here = Place.here(b"d" * 16, b"v" * 16, b"l" * 8, 1, name)
    made = full(exporter=Exporter.this(), place=here, dedicated=IMAGE)
    assert Passport.decode(made.encode()) == made
    again = sync(exporter=Exporter.this(), place=here)
    assert SyncPassport.decode(again.encode()) == again


def test_no_stranger_writes_a_line_of_its_own() -> None:
    forged = "\n\x1b[2J a line that nobody wrote"
    packets = [
        lambda: Passport.decode(msgspec.msgpack.encode((VERSION, {"handle_type": "x", forged: 1}))),
        lambda: SyncPassport.decode(_changed(sync(), **{forged: 1})),
        lambda: parcels.decode(msgspec.msgpack.encode((VERSION, {forged: 1}))),
        lambda: parcels.handle_of(2, KMT, full(handle_type=forged).encode()),
    ]
    for each in packets:
        with pytest.raises((PassportError, parcels.Lie)) as caught:
            each()
        assert str(caught.value).isprintable()
    place = msgspec.structs.replace(HERE, device_uuid=b"o" * 16, device_name=forged)
    (told,) = full(place=place).problems(HERE)
    assert told.isprintable()
