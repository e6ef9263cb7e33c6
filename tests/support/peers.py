"""A rig in a second process, with the same methods as one in this.

with far.rig(driver) as other:
    block = other.import_fd(exported.export_fd(), exported.passport)
    assert block.read() == data                 # read over there

Windows handles go over by DuplicateHandle, where the system has handles of several processes.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any

from extmem import win32
from tests.support import second
from tests.support.leaks import held, left_over
from tests.support.rig import BYTES, OPAQUE_FD, Form, Passport, Rig
from tests.support.second import Channel, Other, OtherFailed

__all__ = ["FarAllocation", "FarRig", "Processes", "far", "importing", "open_far", "serve"]


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
            _unpack(arguments)
            if command == "import_win32":
                made[number] = _import_win32(rig, **arguments)
                channel.send([True, None])
            elif command.startswith("import"):
                made[number] = getattr(rig, command)(*fds, **arguments)
                channel.send([True, None])
            elif command == "export_fd":
                fd = made[number].export_fd()
                channel.send([True, None], [fd])
                os.close(fd)
            elif command == "export_win32":
                channel.send([True, _export_win32(channel, made[number], **arguments)])
            else:
                answer = getattr(made[number], command)(**arguments)
                channel.send([True, answer.hex() if isinstance(answer, bytes) else answer])
        except Exception:
            channel.send([False, traceback.format_exc()])


def _unpack(arguments: dict[str, Any]) -> None:
    """Arguments as they were before they became JSON."""
    if "passport" in arguments:
        arguments["passport"] = Passport(**arguments["passport"])
    if "form" in arguments:
        arguments["form"] = Form(**arguments["form"])
    if "data" in arguments:
        arguments["data"] = bytes.fromhex(arguments["data"])


def _import_win32(
    rig: Rig, handle: int | None, form: Form, tiling: int | None, name: str | None, **more: Any
) -> Any:
    """Import a handle that was duplicated into this process, and close it."""
    try:
        if tiling is not None:
            return rig.import_image_win32(handle, tiling=tiling, form=form, **more)
        return rig.import_win32(handle, form=form, name=name, **more)
    finally:
        if handle is not None and not form.kmt:
            win32.CloseHandle(handle)


def _export_win32(channel: Channel, allocation: Any, form: Form) -> int:
    """A handle that means something to the test."""
    handle: int = allocation.export_win32(form)
    if form.kmt:
        return handle
    try:
        return channel.give(handle)
    finally:
        win32.CloseHandle(handle)


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

    def import_win32(
        self,
        handle: int | None,
        passport: Passport,
        form: Form,
        *,
        name: str | None = None,
        bind: bool = True,
    ) -> FarAllocation:
        """Memory with a buffer, over there. The handle stays the caller's."""
        return self._import_win32(handle, passport, form, passport.size, name=name, bind=bind)

    def import_image_win32(
        self, handle: int | None, passport: Passport, tiling: int, form: Form, *, bind: bool = True
    ) -> FarAllocation:
        """Memory with an image, over there. The handle stays the caller's."""
        return self._import_win32(handle, passport, form, BYTES, tiling=int(tiling), bind=bind)

    def _import_win32(
        self,
        handle: int | None,
        passport: Passport,
        form: Form,
        size: int,
        *,
        bind: bool,
        name: str | None = None,
        tiling: int | None = None,
    ) -> FarAllocation:
        self._made += 1
        if handle is not None and not form.kmt:
            handle = self.other.give(handle)
        more = {"passport": passport.json(), "form": asdict(form), "bind": bind}
        self.ask("import_win32", self._made, [], handle=handle, name=name, tiling=tiling, **more)
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

    def export_win32(self, form: Form) -> int:
        """A handle of this process, which the caller owns."""
        found: int = self._ask("export_win32", form=asdict(form))
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
def importing(where: str, driver: str, rig: Rig) -> Iterator[Any]:
    """The importing device: the exporter's own, one of another instance, or one far away."""
    if where == "same_device":
        yield rig
    elif where == "second_instance":
        with Rig(driver) as other:
            yield other
    else:
        with far.rig(driver) as other:
            yield other


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
