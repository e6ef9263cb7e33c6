"""A rig in a second process, with the same methods as one in this.

with far.rig(driver) as other:
    block = other.import_fd(exported.export_fd(), exported.passport)
    assert block.read() == data                 # read over there
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from tests.support import second
from tests.support.leaks import held, left_over
from tests.support.rig import BYTES, OPAQUE_FD, Passport, Rig
from tests.support.second import Channel, Other, OtherFailed

__all__ = ["FarAllocation", "FarRig", "Processes", "far", "open_far", "serve"]


# -- over there -----------------------------------------------------------------------------------


def serve(channel: Channel) -> None:
    """Do what a FarRig says, for one rig after the other, until there is nobody to say it."""
    with suppress(EOFError):
        while True:
            (_, _, arguments), _ = channel.receive()
            before = held()
            with Rig(**arguments) as rig:
                channel.send(None)
                _serve(channel, rig)
            channel.send(left_over(before))


def _serve(channel: Channel, rig: Rig) -> None:
    made: dict[int, Any] = {}
    while True:
        (command, number, arguments), fds = channel.receive()
        if command == "close":
            return
        try:
            answer = None
            if command in ("import_fd", "import_image"):
                arguments["passport"] = Passport(**arguments["passport"])
                made[number] = getattr(rig, command)(*fds, **arguments)
            else:
                if "data" in arguments:
                    arguments["data"] = bytes.fromhex(arguments["data"])
                answer = getattr(made[number], command)(**arguments)
            if command == "export_fd":
                channel.send([True, None], [answer])
                os.close(answer)
            else:
                channel.send([True, answer.hex() if isinstance(answer, bytes) else answer])
        except Exception:
            channel.send([False, traceback.format_exc()])


# -- here -----------------------------------------------------------------------------------------


class FarRig:
    """A rig in a second process."""

    def __init__(self, other: Other) -> None:
        self.other = other
        self._made = 0

    def import_fd(
        self, fd: int, passport: Passport, *, handle_type: int = OPAQUE_FD, bind: bool = True
    ) -> FarAllocation:
        """Memory with a buffer, over there. The descriptor is gone from here, too."""
        return self._import("import_fd", fd, passport, handle_type=handle_type, bind=bind)

    def import_image(
        self,
        fd: int,
        passport: Passport,
        tiling: int,
        *,
        handle_type: int = OPAQUE_FD,
        bind: bool = True,
    ) -> FarAllocation:
        """Memory with an image, over there."""
        return self._import(
            "import_image", fd, passport, tiling=int(tiling), handle_type=handle_type, bind=bind
        )

    def _import(self, command: str, fd: int, passport: Passport, **more: Any) -> FarAllocation:
        self._made += 1
        self.ask(command, self._made, [fd], passport=passport.json(), **more)
        os.close(fd)
        size = BYTES if command == "import_image" else passport.size
        return FarAllocation(self, self._made, size)

    def ask(self, command: str, number: int, fds: list[int], **arguments: Any) -> Any:
        """Have something done over there; its answer, or the descriptor that it sends."""
        self.other.send([command, number, arguments], fds)
        (done, answer), got = self.other.receive()
        if not done:
            raise OtherFailed(f"in the second process:\n{answer}")
        return got[0] if got else answer


class FarAllocation:
    """A Block or a Picture in a second process."""

    def __init__(self, rig: FarRig, number: int, size: int) -> None:
        self._rig = rig
        self._number = number
        self.size = size  # bytes that are written and read

    def bind(self) -> None:
        self._ask("bind")

    def write(self, data: bytes) -> None:
        self._ask("write", data=data.hex())

    def read(self) -> bytes:
        return bytes.fromhex(self._ask("read"))

    def fill(self, word: int) -> None:
        self._ask("fill", word=word)

    def export_fd(self) -> int:
        found: int = self._ask("export_fd")
        return found

    def free(self) -> None:
        self._ask("free")

    def _ask(self, command: str, **arguments: Any) -> Any:
        return self._rig.ask(command, self._number, [], **arguments)


class Processes:
    """Second processes that serve one test after the other, one for each driver.

    Starting Python and a driver takes longer than most tests; that nothing is left behind is
    checked over there as well.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[ExitStack, Other]] = {}

    def get(self, driver: str) -> Other:
        """The process for a driver, which has used it before."""
        if driver not in self._running:
            stack = ExitStack()
            other = stack.enter_context(second.start(serve))
            self._running[driver] = stack, other
            for _ in range(2):
                with open_far(other, driver=driver, index=0, checks=None, new=True):
                    pass
        return self._running[driver][1]

    @contextmanager
    def rig(self, driver: str, *, index: int = 0, checks: str | None = None) -> Iterator[FarRig]:
        """A rig over there, which must leave nothing behind."""
        try:
            with open_far(self.get(driver), driver=driver, index=index, checks=checks) as rig:
                yield rig
        except (OtherFailed, OSError):
            self.stop(driver)  # the next test gets a new one
            raise

    def stop(self, driver: str) -> None:
        """End the process for a driver, if there is one."""
        if driver in self._running:
            stack, _ = self._running.pop(driver)
            stack.close()


@contextmanager
def open_far(other: Other, *, new: bool = False, **arguments: Any) -> Iterator[FarRig]:
    """A rig in a process that runs `serve`."""
    other.send(["open", 0, arguments])
    other.receive()
    try:
        yield FarRig(other)
    finally:
        other.send(["close", 0, {}])
        left, _ = other.receive()
    assert new or not left, "left behind in the second process:\n  " + "\n  ".join(left)


far = Processes()
