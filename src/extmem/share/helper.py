"""The process in which imports are tried first, as the one that wants them sees it.

It is a fresh interpreter that runs `extmem.share.examiner`. It inherits its end of a connection
(and on Windows a handle by which it sees this process end), and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import extmem
from extmem.errors import QuarantineError
from extmem.handles.system import kernel
from extmem.share.parcels import Lie
from extmem.share.trials import (
    Answer,
    Failed,
    Passed,
    Ready,
    Step,
    Try,
    answer_of,
    encode,
    said_by,
)

if sys.platform == "win32":
    import _winapi

    from extmem.share.pipes import End, pair
else:
    from extmem.share.sockets import End, pair

__all__ = ["Broken", "Helper", "Target", "start"]

log = logging.getLogger("extmem")

START_PATIENCE = 30.0  # seconds until it has opened its device
_END_PATIENCE = 2.0  # seconds until a process that was killed, or closed its end, is gone
_DUPLICATE = 0x40  # PROCESS_DUP_HANDLE
_SYNCHRONIZE = 0x100000

# What Windows says of how a process ended.
_EXCEPTIONS = {
    0xC0000005: "an access violation",
    0xC0000006: "an error in reading a page",
    0xC000001D: "an illegal instruction",
    0xC00000FD: "a stack overflow",
    0xC0000374: "a corrupted heap",
    0xC0000409: "a failed check of its own",
}


@dataclass(frozen=True, slots=True)
class Target:
    """The device that it opens."""

    driver: str  # as `open_device` takes it
    device_uuid: bytes
    driver_uuid: bytes
    checks: str
    name: str  # for people


class Broken(Exception):
    """The helper is of no use any more: how it ended, as a sentence goes on after "the process"."""

    def __init__(self, how: str, step: Step | None, code: int | None = None) -> None:
        super().__init__(how)
        self.how = how
        self.step = step  # what it was at, if it had begun
        self.code = code  # what it ended with, if it ended by itself


class Helper:
    """One that runs, or did. Whoever has it ends it; at the latest it ends with this process."""

    def __init__(self, process: subprocess.Popen[bytes], end: End, errors: int) -> None:
        """errors: a descriptor to read what it writes to stderr, or -1; all three are its own."""
        self._process = process
        self._end = end
        self._errors = errors
        self._finish = weakref.finalize(self, _finish, process, end, errors)

    @property
    def process_id(self) -> int:
        """Of the helper."""
        return self._process.pid

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it: between trials it has nothing that would need to be saved, and within one
        nothing that can be. Safe to call again.
        """
        self._finish()

    def give_up(self) -> None:
        """In a forked child: it is the parent's."""
        if self._finish.detach() is not None:
            self._end.let_go()
            if self._errors >= 0:
                os.close(self._errors)
            self._process.returncode = 0  # nobody here can wait for it

    # -- what it is asked -----------------------------------------------------------------------

    def given(self, handle: int) -> int:
        """The number over there of a duplicate of a Windows handle, which is closed over there.

        OSError if the handle is not open, Broken if nobody is over there.
        """
        try:
            process = kernel().open_process(_DUPLICATE, False, self._process.pid)
            try:
                return kernel().duplicate(handle, target=process)
            finally:
                kernel().let_go(process)
        except OSError:
            if not self.runs():
                raise self._gone(None) from None
            raise

    def greet(self) -> Ready | Failed:
        """Wait until it has opened its device. Broken if it ends, or takes too long."""
        answer = self._receive(time.monotonic() + START_PATIENCE, START_PATIENCE, None)
        if not isinstance(answer, (Ready, Failed)):
            raise Broken(f"answers {answer!r} to nothing", None)
        return answer

    def ask(self, trial: Try, descriptors: list[int], patience: float) -> Passed | Failed:
        """Have something tried. Broken if it ends, or takes longer than `patience` seconds."""
        step = None
        until = time.monotonic() + patience
        try:
            self._end.send(encode(trial), descriptors, patience)
        except BrokenPipeError:
            raise self._gone(None) from None
        except TimeoutError:
            raise Broken(f"has taken nothing on for {patience:g} s; is it stopped?", None) from None
        while True:
            answer = self._receive(until, patience, step)
            if isinstance(answer, Ready):
                raise Broken("says hello for a second time", step)
            if not isinstance(answer, Step):
                return answer
            step = answer

    def _receive(self, until: float, patience: float, step: Step | None) -> Answer:
        """What it says next. Broken if that is nothing until then.

        patience: how long that is in all, for people
        """
        try:
            data, descriptors = self._end.receive(max(until - time.monotonic(), 0))
        except EOFError:
            raise self._gone(step) from None
        except TimeoutError:
            if not self.runs():  # somebody else has its end, so that nothing told us
                raise self._gone(step) from None
            how = f"did not come to an end within {patience:g} s, and was killed"
            raise Broken(how, step) from None
        except (Lie, OSError) as error:
            raise Broken(f"could not be understood ({error})", step) from None
        for fd in descriptors:  # which it has no reason to send
            os.close(fd)
        try:
            return answer_of(data)
        except Lie as lie:
            raise Broken(f"sent {lie}", step) from None

    def _gone(self, step: Step | None) -> Broken:
        """What became of one whose end is closed."""
        try:
            code = self._process.wait(_END_PATIENCE)
        except subprocess.TimeoutExpired:
            return Broken("closed its connection", step)
        how = _how(code)
        said = self._said()
        return Broken(f"{how}, and wrote {said!r}" if said else how, step, code)

    def _said(self) -> str:
        """The end of what it wrote to stderr."""
        if self._errors < 0:
            return ""
        parts = []
        with contextlib.suppress(OSError):
            while part := os.read(self._errors, 1 << 16):
                parts.append(part)
        return b"".join(parts)[-300:].decode(errors="replace").strip()


def start(target: Target) -> Helper:
    """A helper that has opened that device. QuarantineError if there is none to be had."""
    here, there = pair()
    try:
        process, errors = _spawned(target, there)
    except OSError as error:
        here.close()
        raise QuarantineError(f"{_NO_HELPER} cannot be started: {error}") from None
    except BaseException:
        here.close()
        raise
    finally:
        there.let_go()
    helper = Helper(process, here, errors)
    try:
        answer = helper.greet()
        if isinstance(answer, Failed):
            raise QuarantineError(f"{_NO_HELPER} cannot open {target.name}: {said_by(answer)}")
        if (answer.device_uuid, answer.driver_uuid) != (target.device_uuid, target.driver_uuid):
            raise QuarantineError(
                f"{_NO_HELPER} opened the device {answer.device_uuid.hex()} of the driver build "
                f"{answer.driver_uuid.hex()}, and {target.name} is {target.device_uuid.hex()} of "
                f"{target.driver_uuid.hex()}; was the driver replaced, or the environment that "
                "chooses it, since this process opened it?"
            )
    except Broken as broken:
        helper.end()
        raise QuarantineError(
            f"{_NO_HELPER} {broken.how} before it had opened {target.name}", broken.code
        ) from None
    except BaseException:
        helper.end()
        raise
    log.info("process %d tries the imports of %s first", helper.process_id, target.name)
    return helper


_NO_HELPER = "nothing was imported: the process in which imports are tried"


def _spawned(target: Target, there: End) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and a descriptor of what it writes to stderr, or -1."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError("this program has no Python to start it with (sys.executable)")
    # A token of the directory's is for one child, and not for this one.
    environment = {key: value for key, value in os.environ.items() if key != "EXTMEM_INHERIT"}
    root = str(Path(extmem.__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    device = [target.driver, target.device_uuid.hex(), target.checks]
    return _popen(device, there, environment)


_PROGRAM = ("-P", "-m", "extmem.share.examiner")  # `-P`: no modules of the working directory

if sys.platform == "win32":

    def _popen(
        device: list[str], there: End, environment: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], int]:
        python = sys.executable
        base = getattr(sys, "_base_executable", python)
        if base != python:  # in a venv, whose python.exe starts another one and is in the way
            python, environment["__PYVENV_LAUNCHER__"] = base, python
        this = _winapi.GetCurrentProcess()
        parent = _winapi.DuplicateHandle(this, this, this, _SYNCHRONIZE, True, 0)
        try:
            os.set_handle_inheritable(there.fileno(), True)
            inherited = [there.fileno(), parent]
            process = subprocess.Popen(
                [python, *_PROGRAM, *map(str, inherited), *device],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                creationflags=subprocess.CREATE_NO_WINDOW,
                startupinfo=subprocess.STARTUPINFO(lpAttributeList={"handle_list": inherited}),
            )
        finally:
            _winapi.CloseHandle(parent)
        return process, -1

else:

    def _popen(
        device: list[str], there: End, environment: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], int]:
        # Whatever a driver says: nobody reads it in time, and nobody waits for a reader.
        errors, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            process = subprocess.Popen(
                [sys.executable, *_PROGRAM, str(there.fileno()), str(os.getpid()), *device],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=theirs,
                env=environment,
                pass_fds=(there.fileno(),),
            )
        except BaseException:
            os.close(errors)
            raise
        finally:
            os.close(theirs)
        return process, errors


def _finish(process: subprocess.Popen[bytes], end: End, errors: int) -> None:
    end.close()
    process.kill()
    try:
        process.wait(_END_PATIENCE)
    except subprocess.TimeoutExpired:  # a driver has it in a call that nothing interrupts
        log.warning("process %d was killed, and does not end", process.pid)
    if errors >= 0:
        os.close(errors)


def _how(code: int) -> str:
    """How a process ended, by its exit code."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        meaning = signal.strsignal(-code)
        return f"was killed by {name} ({meaning})" if meaning else f"was killed by {name}"
    if code >> 31:
        known = _EXCEPTIONS.get(code)
        return f"ended with {code:#x} ({known})" if known else f"ended with {code:#x}"
    return f"ended with exit code {code}"
