"""The shared word between two processes: change, sleep, death, timeouts, Ctrl-C, wrong pages."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from extmem.handles.kernel import ACCESS_READ
from extmem.handles.system import kernel
from extmem.handles.words import WORD_SIZE, Hold, Pages, Watcher, Word
from tests.support import second
from tests.support.clock import lasted
from tests.support.second import Channel

SIZE = 4096
LONG = 60.0  # what takes so long has failed; nothing waits for it to pass


@pytest.fixture(autouse=True)
def _namespace() -> None:
    """The first name in a process opens the namespace, for good."""
    kernel().close(kernel().create_section(64, name=f"Local\\extmem-test-{os.getpid()}"))


def pages_of(handle: int, identity: bytes) -> Pages:
    return Pages.of_section(handle, SIZE, identity=identity)


class Shared:
    """A section with words in it, and what closes them."""

    def __init__(self) -> None:
        self.identity = secrets.token_bytes(16)
        self.handle = kernel().create_section(SIZE)
        self.pages = pages_of(self.handle, self.identity)
        self.words: list[Word] = []

    def word(self, index: int = 0, pages: Pages | None = None) -> Word:
        self.words.append(Word(pages or self.pages, index * WORD_SIZE))
        return self.words[-1]

    def again(self) -> Pages:
        """The same pages, as another process would have them."""
        return pages_of(self.handle, self.identity)

    def close(self) -> None:
        for each in self.words:
            each.close()
        self.words.clear()
        kernel().close(self.handle)
        del self.pages  # which are unmapped with their last reference


@contextmanager
def sections() -> Iterator[Shared]:
    shared = Shared()
    try:
        yield shared
    finally:
        shared.close()
        del shared
        gc.collect()


@pytest.fixture
def shared() -> Iterator[Shared]:
    with sections() as found:
        yield found


@contextmanager
def taken(channel: Channel, index: int = 0) -> Iterator[tuple[Word, Any]]:
    """In the second process: the word that the first has given, and the rest of its message."""
    message, _ = channel.receive()
    pages = pages_of(message["handle"], bytes.fromhex(message["identity"]))
    word = Word(pages, index * WORD_SIZE)
    try:
        yield word, message
    finally:
        word.close()
        kernel().close(message["handle"])


def give(other: second.Other, shared: Shared, **more: Any) -> None:
    handle = other.give(shared.handle)
    other.send({"handle": handle, "identity": shared.identity.hex(), **more})


# -- in one process -------------------------------------------------------------------------------


def test_a_change_is_seen_through_other_pages(shared: Shared) -> None:
    here, there = shared.word(), shared.word(pages=shared.again())
    assert here.value == 0
    assert here.change(lambda value: value + (1 << 63) + 5) == (1 << 63) + 5
    assert there.value == (1 << 63) + 5
    there.put((1 << 64) - 1)
    assert here.value == (1 << 64) - 1


def test_none_leaves_the_value(shared: Shared) -> None:
    word = shared.word()
    word.put(7)
    assert word.change(lambda value: None) is None
    assert word.value == 7


def test_an_error_in_the_change_leaves_the_value_and_the_lock_free(shared: Shared) -> None:
    word, same = shared.word(), shared.word(pages=shared.again())
    with pytest.raises(ZeroDivisionError):
        word.change(lambda value: 1 // 0)
    assert word.value == 0
    assert same.change(lambda value: 3) == 3


def test_words_of_one_page_are_apart(shared: Shared) -> None:
    first, second_one = shared.word(0), shared.word(1)
    first.put((1 << 64) - 1)
    assert second_one.value == 0
    assert first.change(lambda value: second_one.change(lambda other: 9)) == 9


def test_a_wait_that_is_over_returns_at_once(shared: Shared) -> None:
    word = shared.word()
    assert word.wait(lambda value: value == 0)
    assert not word.wait(lambda value: value == 1, 0.0)


def test_a_wait_times_out(shared: Shared) -> None:
    word = shared.word()
    start = time.monotonic()
    assert not word.wait(lambda value: value == 1, 0.05)
    assert lasted(start, 0.05)


def test_many_threads_count(shared: Shared) -> None:
    words = [shared.word(pages=shared.again()) for _ in range(4)]

    def count(word: Word) -> None:
        for _ in range(50):
            word.change(lambda value: value + 1, 20.0)

    threads = [threading.Thread(target=count, args=(word,)) for word in words for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words[0].value == 400


def test_a_closed_word_says_so(shared: Shared) -> None:
    word = shared.word()
    word.close()
    word.close()
    for use in (
        lambda: word.value,
        lambda: word.change(lambda value: 1),
        lambda: word.put(1),
        lambda: word.wait(bool),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_closing_ends_the_waits_of_other_threads(shared: Shared) -> None:
    word = shared.word()
    ended: list[str] = []

    def sleep() -> None:
        try:
            word.wait(bool)
        except ValueError as problem:
            ended.append(str(problem))

    thread = threading.Thread(target=sleep)
    thread.start()
    time.sleep(0.05)
    word.close()
    thread.join(LONG)
    assert ended == ["this word was closed while it was waited for"]


def test_pages_outlive_their_word_while_somebody_looks(shared: Shared) -> None:
    word = shared.word(pages=shared.again())
    seen: list[int] = []

    closing = threading.Thread(target=word.close)

    def look(value: int) -> int:
        closing.start()
        closing.join(0.2)  # the pages stay until this change is done
        return value + 1

    seen.append(word.change(look) or 0)
    closing.join(LONG)
    assert seen == [1]
    assert shared.word().value == 1


def test_more_sleepers_than_places_for_them(shared: Shared) -> None:
    word = shared.word()
    done: list[bool] = []
    threads = [
        threading.Thread(target=lambda: done.append(word.wait(lambda value: value == 1, LONG)))
        for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    word.put(1)
    for thread in threads:
        thread.join()
    assert done == [True] * 40


def test_pages_for_reading_alone(shared: Shared) -> None:
    reading = kernel().duplicate(shared.handle, access=ACCESS_READ)
    word = shared.word()
    # This process may still write through what it has mapped.
    seen = shared.word(pages=pages_of(reading, shared.identity))
    kernel().close(reading)
    assert not seen.writable
    for use in (lambda: seen.put(1), lambda: seen.change(lambda value: 1)):
        with pytest.raises(PermissionError):
            use()
    timer = threading.Timer(0.05, word.put, (5,))
    timer.start()
    assert seen.wait(lambda value: value == 5, LONG)
    timer.join()


# -- several words --------------------------------------------------------------------------------


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher()
    yield watcher
    watcher.close()


def test_a_watcher_sees_each_of_its_words(shared: Shared, watcher: Watcher) -> None:
    words = [shared.word(index) for index in range(3)]
    for index, word in enumerate(words):
        timer = threading.Timer(0.03, word.put, (index + 1,))
        timer.start()
        assert watcher.wait(words, lambda word=word: word.value > 0, LONG)  # type: ignore[misc]
        timer.join()


def test_a_watcher_is_rung(shared: Shared, watcher: Watcher) -> None:
    word, rung = shared.word(), threading.Event()

    def ring() -> None:
        rung.set()
        watcher.ring()

    for words in ([], [word]):
        rung.clear()
        timer = threading.Timer(0.03, ring)
        timer.start()
        assert watcher.wait(words, rung.is_set, LONG)
        timer.join()


def test_a_watcher_times_out(shared: Shared, watcher: Watcher) -> None:
    start = time.monotonic()
    assert not watcher.wait([shared.word()], lambda: False, 0.05)
    assert lasted(start, 0.05)


def test_a_watcher_of_more_words_than_the_kernel_takes(watcher: Watcher) -> None:
    with sections() as first:
        words = [first.word() for _ in range(150)]
        last = first.word(1)
        timer = threading.Timer(0.03, last.put, (1,))
        timer.start()
        assert watcher.wait([*words, last], lambda: last.value == 1, LONG)
        timer.join()


# -- two processes --------------------------------------------------------------------------------


def _adds(channel: Channel, times: int) -> int:
    with taken(channel) as (word, _):
        for _ in range(times):
            word.change(lambda value: value + 1, 20.0)
        return word.value


def test_two_processes_count(shared: Shared) -> None:
    word = shared.word()
    with second.start(_adds, timeout=90.0, times=300) as other:
        give(other, shared)
        for _ in range(300):
            word.change(lambda value: value + 1, 20.0)
        assert other.result() >= 300
    assert word.value == 600


def _answers(channel: Channel, times: int) -> None:
    with taken(channel) as (word, _):
        for turn in range(times):
            assert word.wait(lambda value, turn=turn: value == 2 * turn + 1, LONG)
            word.put(2 * turn + 2)


def test_two_processes_take_turns(shared: Shared) -> None:
    word = shared.word()
    with second.start(_answers, timeout=90.0, times=100) as other:
        give(other, shared)
        for turn in range(100):
            word.put(2 * turn + 1)
            assert word.wait(lambda value, turn=turn: value == 2 * turn + 2, LONG)
        other.result()


def _keeps_the_lock(channel: Channel) -> None:
    with taken(channel) as (word, _):

        def stay(value: int) -> int:
            channel.send("mine")
            time.sleep(60)
            return 99

        word.change(stay)


def test_a_lock_that_is_kept_times_out(shared: Shared) -> None:
    word = shared.word()
    with second.start(_keeps_the_lock, timeout=90.0) as other:
        give(other, shared)
        assert other.receive()[0] == "mine"
        with pytest.raises(TimeoutError, match="kept the lock"):
            word.change(lambda value: 1, 0.1)
        assert word.value == 0


def test_a_killed_owner_of_the_lock_blocks_nobody(shared: Shared) -> None:
    word = shared.word()
    with second.start(_keeps_the_lock, timeout=90.0) as other:
        give(other, shared)
        assert other.receive()[0] == "mine"
        other.kill()
        assert word.change(lambda value: value + 1, LONG) == 1


def _sleeps(channel: Channel) -> bool:
    with taken(channel) as (word, _):
        channel.send("asleep soon")
        return word.wait(lambda value: value == 1, LONG)


def test_killed_sleepers_cost_nothing(shared: Shared) -> None:
    word = shared.word()
    for _ in range(3):
        with second.start(_sleeps, timeout=90.0) as other:
            give(other, shared)
            other.receive()
            time.sleep(0.1)
            other.kill()
    with second.start(_sleeps, timeout=90.0) as other:
        give(other, shared)
        other.receive()
        time.sleep(0.1)
        word.put(1)
        assert other.result() is True


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX' signals")
def test_ctrl_c_ends_a_sleep() -> None:
    with sections() as shared:
        word = shared.word()
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            word.wait(bool, LONG)
        timer.join()
        watcher = Watcher()
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            watcher.wait([word], lambda: False, LONG)
        timer.join()
        assert word.change(lambda value: 1) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX' signals")
def test_a_signal_that_is_handled_does_not_end_a_sleep(shared: Shared) -> None:
    if sys.platform == "win32":
        return
    word, heard = shared.word(), threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        late = threading.Timer(0.15, word.put, (1,))
        late.start()
        assert word.wait(lambda value: value == 1, LONG)
        assert heard.is_set()
        timer.join()
        late.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_long_sleep_costs_next_to_nothing(shared: Shared) -> None:
    word = shared.word()
    before = time.thread_time()
    assert not word.wait(bool, 2.0)
    # 8 slices. A loop would have taken all of the two seconds.
    assert time.thread_time() - before < 0.2


# -- pages that are none --------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX' descriptors")
def test_wrong_descriptors_are_refused() -> None:
    if sys.platform == "win32":
        return
    read, write = os.pipe()
    short = os.memfd_create("extmem-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with pytest.raises(ValueError, match="no memfd"):
            Pages.of_descriptor(read, SIZE)
        os.ftruncate(short, SIZE)
        with pytest.raises(ValueError, match="shortened"):
            Pages.of_descriptor(short, SIZE)
        import fcntl

        os.ftruncate(short, SIZE - 1)
        fcntl.fcntl(short, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        with pytest.raises(ValueError, match="fewer than"):
            Pages.of_descriptor(short, SIZE)
    finally:
        for each in (read, write, short):
            os.close(each)


def test_a_page_full_of_rubbish_only_holds_numbers(shared: Shared) -> None:
    shared.pages.put(0, b"\xff" * SIZE)
    word = shared.word()
    assert word.value == (1 << 64) - 1
    assert not word.wait(lambda value: value == 0, 0.05)
    assert word.change(lambda value: 0) == 0
    assert word.wait(lambda value: value == 0, LONG)


# -- holds ----------------------------------------------------------------------------------------


def test_a_hold_is_alive_until_it_is_dropped(shared: Shared) -> None:
    mine, other = Hold(shared.pages, 100), Hold(shared.again(), 100)
    number = mine.take()
    assert number > 1
    assert mine.alive(number)
    assert other.alive(number)
    mine.drop()
    mine.drop()
    assert not mine.alive(number)
    assert not other.alive(number)


def _holds(channel: Channel) -> None:
    with taken(channel) as (_, message):
        pages = pages_of(message["handle"], bytes.fromhex(message["identity"]))
        channel.send(Hold(pages, 100).take())
        time.sleep(60)


def test_the_hold_of_who_is_killed_is_gone(shared: Shared) -> None:
    hold = Hold(shared.pages, 100)
    with second.start(_holds, timeout=90.0) as other:
        give(other, shared)
        number = other.receive()[0]
        assert hold.alive(number)
        other.kill()
        until = time.monotonic() + LONG  # Wine's server notices when it gets to it
        while hold.alive(number) and time.monotonic() < until:
            time.sleep(0.01)
        assert not hold.alive(number)
