"""Many short-lived processes that use Windows handles, each ready within milliseconds.

    with open_nursery(environment) as nursery:
        peer = nursery.spawn("full")
        handle = peer.ask("fetch", ...).value
        os.kill(peer.pid, signal.SIGKILL)
        nursery.bury(peer)

Starting Python takes longer than hundreds of steps of a test. So one process imports everything
and uses nothing of it, and the others are its forks: what they open and map is their own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from extmem.handles import system
from tests.support import peer_side, second, wire
from tests.support.second import Channel
from tests.support.sharing import Gpu, use_once
from tests.support.wire import Wire

__all__ = ["Answer", "Nursery", "Peer", "open_nursery"]

_PATIENCE = 60.0  # seconds for an answer


class Answer(NamedTuple):
    """How a command ended over there."""

    kind: str  # "done", or the exception's class
    code: int  # a VkResult, or Windows' number; 0 where there is none
    value: Any  # what it returned, or the exception's sentence

    def __str__(self) -> str:
        return f"{self.kind} {self.code}: {self.value}"


class Peer:
    """One of the processes."""

    def __init__(self, pid: int, checks: str, channel: Channel, log: deque[str]) -> None:
        self.pid = pid
        self.checks = checks
        self._channel = channel
        self._log = log

    def tell(self, command: str, *arguments: Any) -> None:
        """Have something done, without waiting for it."""
        self._log.append(f"{self} {command} {arguments}")
        self._channel.send([command, *arguments])

    def hear(self) -> Answer:
        """How what was told ended."""
        answer = Answer(*self._channel.receive()[0])
        self._log.append(f"{self} -> {answer}"[:150])
        return answer

    def ask(self, command: str, *arguments: Any) -> Answer:
        self.tell(command, *arguments)
        return self.hear()

    def close(self) -> None:
        """Our end of the wire; without it, it ends."""
        self._channel.close()

    def __repr__(self) -> str:
        return f"<{self.checks} {self.pid}>"


class Nursery:
    """The process that the others are forked from."""

    def __init__(self, other: second.Other) -> None:
        self._other = other
        self.log: deque[str] = deque(maxlen=100)  # what was said to all, and what they answered

    def spawn(self, checks: str) -> Peer:
        """A new process with a device that checks so much; it has used handles already."""
        self._other.send(["spawn", checks])
        pid, (end,) = self._other.receive()
        here = Wire.inherited(end)
        here.timeout = _PATIENCE
        peer = Peer(pid, checks, Channel(here, pid), self.log)
        answer = peer.hear()
        assert answer.kind == "done", answer
        return peer

    def bury(self, peer: Peer) -> None:
        """Wait until a process that was killed is no more; it was not dead of anything else."""
        peer.close()
        assert self._end(peer) == -signal.SIGKILL, "it ended before it was killed"

    def forget(self, peer: Peer) -> None:
        """Wait until a process is no more, whatever becomes of it."""
        peer.close()
        self._end(peer)

    def dismiss(self, peer: Peer) -> None:
        """Let a process end by itself."""
        peer.close()
        assert self._end(peer) == 0

    def children(self) -> list[int]:
        """Those that are there, dead ones that nobody waited for included."""
        self._other.send(["children", 0])
        found, _ = self._other.receive()
        return sorted(found)

    def close(self) -> None:
        self._other.send(["end", 0])
        self._other.result()

    def _end(self, peer: Peer) -> int:
        self._other.send(["wait", peer.pid])
        code, _ = self._other.receive()
        return int(code)


@contextmanager
def open_nursery(environment: Mapping[str, str]) -> Iterator[Nursery]:
    """environment: what all of them have beside this process'."""
    # NumPy would start threads, and of a process that has some only one goes on in a fork.
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **environment}
    with second.start(_serve, timeout=2 * _PATIENCE, environment=alone) as other:
        nursery = Nursery(other)
        yield nursery
        nursery.close()


# -- over there -----------------------------------------------------------------------------------


def _serve(channel: Channel) -> None:
    # What loads with the first use is loaded; the client of the directory is the forks' own.
    use_once()
    with Gpu("off"):
        pass
    system.directory().disconnect()
    system._made.clear()
    gc.freeze()
    while True:
        try:
            (command, argument), _ = channel.receive()
        except EOFError:
            return
        match command:
            case "spawn":
                _fork(channel, argument)
            case "wait":
                channel.send(_wait(argument))
            case "children":
                with open(f"/proc/self/task/{os.getpid()}/children") as file:
                    channel.send([int(each) for each in file.read().split()])
            case "end":
                return


def _fork(channel: Channel, checks: str) -> None:
    here, there = wire.pair()
    pid = os.fork()
    if pid:
        there.close()
        channel.send(pid, [here.fileno()])
        here.close()
        return
    code = 1
    try:
        here.close()
        channel.close()
        peer_side.serve(Channel(there, os.getppid()), checks)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    """How a child ended; it is killed if it does not end by itself."""
    until = time.monotonic() + _PATIENCE / 3
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # it was waited for
            return 0
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0002)
