"""Whom the survey shows where there are many names, and that nobody can keep it waiting."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import extmem
from extmem.errors import ExtmemError
from extmem.inspector import survey
from extmem.inspector.reaching import Threads
from extmem.inspector.streams import Watch
from extmem.inspector.survey import MOST_STREAMS, Survey
from extmem.share.channel import Listener

linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no list")
PATIENCE = 60.0

# Listeners whose process is killed: their names stay with the system.
_KILLED = """
import os, signal, sys
from extmem.share.channel import Listener
doors = [Listener(f"stream-{name}") for name in sys.argv[1:]]
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")


@pytest.fixture
def dead() -> Iterator[list[str]]:
    """More names of killed publishers than there are places."""
    from extmem.handles.directory.folder import where

    tag = secrets.token_hex(4)
    names = [f"a-{tag}-{number:02}" for number in range(MOST_STREAMS + 2)]
    command = [sys.executable, "-c", _KILLED, *names]
    subprocess.run(command, timeout=PATIENCE, check=False)
    yield names
    for name in names:
        (where() / f"channel-stream-{name}.sock").unlink()


def until(check: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := check()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def states(looked: Survey) -> dict[str, str]:
    return {each["name"]: each["state"] for each in looked.latest["streams"]}


@linux
def test_the_living_come_before_the_dead(dead: list[str]) -> None:
    name = f"z-{secrets.token_hex(4)}"
    with extmem.publish(name, shape=4, dtype="uint8"), Survey() as looked:
        until(lambda: looked.latest["looks"])
        assert name in states(looked)
        assert len(states(looked)) == MOST_STREAMS
        assert looked.latest["unwatched"] == len(dead) + 1 - MOST_STREAMS


@linux
def test_the_living_take_the_places_of_the_dead(dead: list[str]) -> None:
    name = f"z-{secrets.token_hex(4)}"
    with Survey() as looked:
        until(lambda: len(states(looked)) == MOST_STREAMS)
        assert set(states(looked).values()) == {"died"}
        with extmem.publish(name, shape=4, dtype="uint8"):
            until(lambda: states(looked).get(name) == "running")
        until(lambda: states(looked).get(name) == "ended")
        assert len(states(looked)) == MOST_STREAMS


@linux
def test_the_dead_are_forgotten_unless_they_were_named(
    dead: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_REMEMBERED", 1.0)
    with Survey((dead[5],)) as looked:
        until(lambda: states(looked) == {dead[5]: "died"})
        assert looked.latest["unwatched"] == 0
        with extmem.publish(dead[7], shape=4, dtype="uint8"):  # who comes back is shown again
            until(lambda: states(looked).get(dead[7]) == "running")
        until(lambda: states(looked) == {dead[5]: "died"})
    # The socket of `dead[7]` went with its publisher; the fixture removes what is left of each.
    Listener(f"stream-{dead[7]}").close()
    from extmem.handles.directory.folder import where

    (where() / f"channel-stream-{dead[7]}.sock").touch()


@linux
def test_who_does_not_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those who look at others, nor those who want to end."""
    tag = secrets.token_hex(4)
    freed = threading.Event()
    reach = Watch._reach

    def caught(watch: Watch) -> Any:
        if watch.name.startswith("a-"):
            freed.wait()
            raise TimeoutError
        return reach(watch)

    monkeypatch.setattr(Watch, "_reach", caught)
    traps = [Listener(f"stream-a-{tag}-{number}") for number in range(8)]
    try:
        with extmem.publish(f"z-{tag}", shape=4, dtype="uint8"), Survey() as looked:
            try:
                until(lambda: states(looked).get(f"z-{tag}") == "running")
            except BaseException:
                freed.set()
                raise
            assert sum(state == "reaching" for state in states(looked).values()) == len(traps)
        asking = [each for each in threading.enumerate() if each.name == "extmem inspector reach"]
        assert len(asking) == len(traps)  # and it has ended all the same
    finally:
        freed.set()
        for trap in traps:
            trap.close()
    for each in asking:
        each.join(PATIENCE)


_STUCK = """
import threading
from extmem.inspector.reaching import Threads
threads = Threads(4)
for _ in range(4):
    threads.submit(threading.Event().wait)
threads.close(0.1)
print("ended")
"""


def test_a_call_that_never_comes_back_does_not_keep_the_process() -> None:
    command = [sys.executable, "-c", _STUCK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ended", "")


def test_more_calls_than_there_are_threads_are_refused() -> None:
    freed = threading.Event()
    threads = Threads(2)
    waiting = [threads.submit(freed.wait) for _ in range(2)]
    with pytest.raises(ExtmemError, match="2 publishers are being asked"):
        threads.submit(freed.wait).result(timeout=PATIENCE)
    freed.set()
    assert [each.result(timeout=PATIENCE) for each in waiting] == [True, True]
    threads.close(PATIENCE)
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(timeout=PATIENCE)
    threads.close(PATIENCE)
