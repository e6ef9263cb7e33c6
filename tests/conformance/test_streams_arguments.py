"""What streams are told that cannot be: the error names it, and what was expected."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import extmem
from extmem.share.slots import decode_fields, encode_fields
from tests.support import second
from tests.support.streams import PATIENCE, fresh_name

pytestmark = pytest.mark.usefixtures("by_the_embedded_device")


@pytest.fixture
def name(used_before: None) -> Iterator[str]:
    with fresh_name() as chosen:
        yield chosen


@pytest.mark.parametrize("what", ["patience", "resume"])
def test_seconds_that_are_none(name: str, what: str) -> None:
    for seconds in (math.inf, 1e300, -1, math.nan):
        with pytest.raises(ValueError, match=rf"{what}= is .*; expected seconds, from 0 to"):
            extmem.subscribe(name, **{what: seconds})
    for seconds in (None, "1", True):
        with pytest.raises(TypeError, match=rf"{what}= is .*; expected seconds"):
            extmem.subscribe(name, **{what: seconds})


def test_devices_that_are_none(name: str) -> None:
    device: Any = "embedded"
    with pytest.raises(TypeError, match=r"device is 'embedded'; expected what extmem.open_device"):
        extmem.subscribe(name, device=device)
    with pytest.raises(TypeError, match=r"device is 'embedded'; expected what extmem.open_device"):
        extmem.publish(name, shape=4, dtype="uint8", device=device)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: uids are Linux'")
@pytest.mark.parametrize("users", [["x"], [-1], [2**33], [1.5], "root", 5])
def test_users_that_are_none(name: str, users: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"users= .*; expected uids"):
        extmem.publish(name, shape=4, dtype="uint8", users=users)


@pytest.mark.parametrize("shape", [1.5, None])
def test_shapes_that_are_none(name: str, shape: Any) -> None:
    with pytest.raises(TypeError, match=r"shape is .*; expected a whole number"):
        extmem.publish(name, shape=shape, dtype="uint8")


def test_a_dtype_that_is_none(name: str) -> None:
    with pytest.raises(TypeError, match=r"dtype is 'nosuch'.*; expected plain numbers"):
        extmem.publish(name, shape=4, dtype="nosuch")


def test_names_and_seats_that_are_taken(name: str) -> None:
    with extmem.publish(name, shape=4, dtype="uint8", subscribers=1) as source:
        if sys.platform != "win32":  # Wine lets two processes begin a pipe; Windows does not
            with pytest.raises(FileExistsError, match=f"somebody publishes '{name}' already"):
                extmem.publish(name, shape=4, dtype="uint8")
        wrong: Any
        for wrong in (2, -1):
            with pytest.raises(ValueError, match=r"takes 1 at most: publish\(subscribers=\)"):
                source.wait_for(wrong, timeout=1)
        for wrong in (2.5, "x", True):
            with pytest.raises(TypeError, match="expected a whole number"):
                source.wait_for(wrong, timeout=1)
        with (
            extmem.subscribe(name, timeout=PATIENCE),
            pytest.raises(extmem.StreamFull, match="publish with more: subscribers="),
        ):
            extmem.subscribe(name)


def test_fields_that_numpy_made() -> None:
    fields = {"a": np.float64(0.5), "b": [np.int32(3)], "c": np.bool_(True), "d": np.float32(2)}
    assert decode_fields(encode_fields(fields)) == {"a": 0.5, "b": [3], "c": True, "d": 2.0}
    for wrong in (np.zeros(2), np.datetime64("2020-01-01")):
        with pytest.raises(TypeError, match=r"give .item\(\) or .tolist\(\) of it"):
            encode_fields({"wrong": wrong})


def forked(home: Any, name: str) -> list[str]:
    """What a child says of the stream and the subscription of its parent."""
    with (
        extmem.publish(name, shape=4, dtype="uint8") as source,
        extmem.subscribe(name, timeout=1) as frames,
    ):
        read, write = os.pipe()
        if not os.fork():
            told = ""
            for act in (lambda: next(frames), lambda: source.readers):
                try:
                    told += f"{act()}\n"
                except Exception as error:
                    told += f"{error}\n"
            os.write(write, told.encode())
            os._exit(0)
        os.close(write)
        with open(read) as answer:
            return answer.read().splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no fork")
def test_a_forked_child_is_told_so(name: str) -> None:
    told = second.run(forked, name=name)
    assert len(told) == 2
    assert all("cannot be used here: it belongs to the process that" in each for each in told)
