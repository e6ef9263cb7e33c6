"""What the inspector makes of streams: it takes no seat and no slot, and knows what it saw."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import extmem
from extmem import StreamFull
from extmem.inspector.programs import program_of
from extmem.inspector.streams import Watch, taken
from extmem.share.looking import Onlooker, streams


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")


@pytest.fixture
def name() -> str:
    return f"test-{secrets.token_hex(6)}"


def put(stream: Any, value: int) -> None:
    with stream.frame() as frame:
        frame.numpy()[...] = value
        frame.fields["value"] = value


def first(array: Any) -> int:
    return int(array.flat[0])


def test_a_look_takes_no_seat_and_no_slot(name: str) -> None:
    with (
        extmem.publish(name, shape=4, dtype="int64", slots=2, subscribers=1) as stream,
        Onlooker(name) as one,
        Onlooker(name) as two,
    ):
        assert stream.readers == []
        assert one.sample(first) == (None, None, False)
        with extmem.subscribe(name, timeout=20) as frames:  # on the only seat there is
            for value in range(1, 50):  # with two slots, each claim of another would end it
                put(stream, value)
                for each in (one, two):
                    got, seen, whole = each.sample(first)
                    assert (got, seen and seen.sequence, whole) == (value, value, True)
                assert next(frames).sequence == value
                frames._release()
            seen = one.newest()
            assert seen is not None
            assert one.fields(seen) == {"value": 49}
            assert (one.process_id, one.format.shape) == (two.process_id, (4,))
            with pytest.raises(StreamFull, match="subscribers"):
                Onlooker(name)


def test_who_looks_sees_the_end_of_nothing(name: str) -> None:
    """The publisher may end, and what is looked at stays until it is let go of."""
    with extmem.publish(name, shape=4, dtype="uint8") as stream:
        look = Onlooker(name)
        put(stream, 7)
    with look:
        assert look.sample(first)[0] == 7
    look.close()


def test_what_is_overwritten_meanwhile_is_known(name: str) -> None:
    with extmem.publish(name, shape=4, dtype="int64", slots=2) as stream, Onlooker(name) as look:
        put(stream, 1)
        looks = []

        def once(array: Any) -> int:
            looks.append(first(array))
            if len(looks) == 1:
                put(stream, 2)
                put(stream, 3)  # in the slot that is looked at
            return first(array)

        got, seen, whole = look.sample(once)
        assert (got, seen and seen.sequence, whole) == (3, 3, True)
        assert looks == [1, 3]

        def always(array: Any) -> int:
            put(stream, 4)
            put(stream, 5)
            return first(array)

        assert look.sample(always)[2] is False


def test_a_frame_that_is_being_written_is_not_shown(name: str) -> None:
    with extmem.publish(name, shape=4, dtype="int64", slots=2) as stream, Onlooker(name) as look:
        put(stream, 1)
        with stream.frame() as frame:
            frame.numpy()[...] = 2
            assert look.sample(first)[0] == 1
        assert look.sample(first)[0] == 2


def test_what_readers_miss_is_told(name: str) -> None:
    with extmem.publish(name, shape=4, dtype="int64") as stream, Onlooker(name) as look:
        with extmem.subscribe(name, timeout=20) as frames:
            for value in range(1, 8):
                put(stream, value)  # 1 to 6 are replaced
            assert next(frames).sequence == 7
            put(stream, 8)
            assert next(frames).sequence == 8
            assert stream.readers  # which says it to everybody
            tally = look.readers()
            assert [(each.process_id, each.missed) for each in tally] == [(look.process_id, 6)]
        stream.readers  # noqa: B018
        assert look.readers() == []


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has a list of another kind")
def test_streams_are_listed(name: str) -> None:
    assert name not in streams()
    with extmem.publish(name, shape=4, dtype="uint8"):
        mark = streams()[name]
        assert mark
    assert name not in streams()
    with extmem.publish(name, shape=4, dtype="uint8"):
        assert streams()[name] != mark
    assert name not in streams()


def test_frames_that_only_the_device_sees(name: str) -> None:
    with extmem.open_device(driver="embedded") as gpu, gpu.allocate(24) as source:
        source.numpy()[:] = range(24)
        with (
            extmem.publish(
                name, shape=(2, 3, 4), dtype="uint8", memory="device_local", device=gpu
            ) as stream,
            gpu.buffer(source) as written,
            Onlooker(name) as look,
        ):
            with stream.frame() as frame:
                gpu.copy(written, frame.buffer)
            picture, _, whole = taken(look)
            assert whole
            assert picture is not None
            assert picture.pixels[1, 2].tolist() == [20, 21, 22, 255]


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [("bfloat16", 0x3F00, 128), ("float32", 0.5, 128), ("bool", True, 255)],
)
def test_numbers_of_every_kind(name: str, dtype: str, value: Any, expected: int) -> None:
    with extmem.publish(name, shape=(2, 3), dtype=dtype) as stream, Onlooker(name) as look:
        with stream.frame() as frame:
            if dtype == "bfloat16":
                frame.memory.numpy("uint16")[:6] = value
            else:
                frame.numpy()[...] = value
        picture, _, _ = taken(look)
        assert picture is not None
        assert picture.pixels[0, 0].tolist() == [expected] * 3 + [255]


def test_the_figures_of_a_watch(name: str) -> None:
    """Rate and latency of a publisher with a steady beat, and its end."""
    ended = threading.Event()

    def publish(stream: Any) -> None:
        value = 0
        while not ended.wait(0.02):
            value += 1
            put(stream, value)

    with ThreadPoolExecutor(1) as pool, extmem.publish(name, shape=4, dtype="int64") as stream:
        beat = threading.Thread(target=publish, args=(stream,))
        beat.start()
        watch = Watch(name, pool)
        try:
            until = time.monotonic() + 30
            while not any(each[2] for each in watch.history):
                watch.look("mark", True, 0.2)
                assert time.monotonic() < until, watch.plain()
                time.sleep(0.05)
            found = watch.plain()
            assert (found["state"], found["publishers"]) == ("running", 1)
            assert 0 < found["rate"] <= 51
            assert found["fields"].startswith("value: ")
            latencies = [each[2] for each in watch.history if each[2]]
            assert all(0 < each < 1e6 for each in latencies)
            watch.look(None, True, 0)
            assert watch.plain()["state"] == "died"
            watch.look(None, False, 0)
            assert watch.plain()["state"] == "ended"
            assert watch.picture() is None
        finally:
            watch.close()
            ended.set()
            beat.join()


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: the system does not tell")
def test_programs_have_names() -> None:
    import os

    assert program_of(os.getpid())
    assert program_of(None) == ""
    assert program_of(1 << 30) == ""


def test_rows_of_the_board_are_bounded(name: str) -> None:
    """What a publisher may say of its readers, whatever number it says first."""
    from extmem.share import ring

    pages, handle = ring.board_pages(2)
    with handle:
        board = ring.Board(pages)
        board._raw[pages.size - 4096 : pages.size] = b"\xff" * 4096
        found = board.readers()
        assert len(found) == (4096 - 8) // 24
        assert {each.process_id for each in found} == {(1 << 64) - 1}
        board.tell([ring.Tally(1, 2, 3)])
        assert board.readers() == [ring.Tally(1, 2, 3)]
        del board, pages
