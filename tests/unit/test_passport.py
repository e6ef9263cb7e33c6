"""Passports: what they carry, and that bytes of strangers do no harm."""

from __future__ import annotations

import random
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extmem.errors import PassportError
from extmem.share.machine import boot, machine
from extmem.share.passport import (
    LARGEST,
    VERSION,
    BufferInfo,
    Exporter,
    ImageInfo,
    Passport,
    Place,
)

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


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30))
def test_no_damage_does_more_than_be_refused(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(full().encode())
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    with suppress(PassportError):
        Passport.decode(data)
