"""The program of a helper, in which imports are tried first: see `share.quarantine`.

    python -m extmem.share.examiner CONNECTION PARENT DRIVER DEVICE CHECKS

CONNECTION: the number of its end, which it inherited
PARENT: the process that it works for and ends with: its number, or on Windows a handle of it
DRIVER, DEVICE (its UUID), CHECKS: as `open_device` takes them
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from typing import Any

from extmem.device import Device
from extmem.handle_types import memory_type
from extmem.handles.handle import Handle
from extmem.memory import Memory
from extmem.opening import open_device
from extmem.share import trials
from extmem.share.trials import Answer, Passed, Ready, Step, Try

if sys.platform == "win32":
    import _winapi

    from extmem.share.pipes import End
else:
    import resource
    import select
    import socket

    from extmem.share.sockets import End

__all__: list[str] = []

_POLL = 1.0  # seconds between two looks, where the system does not tell when a process ends
_NO_BOXES = 0x1 | 0x2  # SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX


def main(connection: int, parent: int, driver: str, device: str, checks: str) -> int:
    """Open the device, and try what one is asked to until nobody is there to ask."""
    _die_quietly()
    end = _inherited(connection)
    threading.Thread(target=_end_with, args=(end, parent), daemon=True).start()

    def say(answer: Answer) -> None:
        end.send(trials.encode(answer), [], None)

    try:
        opened = open_device(driver=driver, uuid=device, checks=checks)
    except Exception as error:
        say(trials.failure_of(error))
        return 1
    say(Ready(opened.physical.device_uuid, opened.physical.driver_uuid))
    while True:
        data, descriptors = end.receive(None)
        try:
            _try(opened, trials.try_of(data), descriptors, say)
        except Exception as error:
            failed = trials.failure_of(error)
            say(failed)
            if not failed.well:
                return 1
        else:
            say(Passed())


def _try(device: Device, trial: Try, descriptors: list[int], say: Any) -> None:
    """Import, look, and leave nothing behind. What was sent is ours, and closed."""
    kind = memory_type(trial.type)
    name = None if trial.name is None else trial.name.decode("utf-16-le", "surrogatepass")
    with contextlib.ExitStack() as stack:
        handle: Handle | int | None = None
        if name is None:
            value = descriptors[0] if kind.kind == "fd" else trial.value
            assert value is not None
            about = trial.about
            owner = Handle(
                value,
                kind,
                size=about.size if about else None,
                memory_type_index=about.memory_type_index if about else None,
                device_uuid=about.device_uuid if about else None,
                dedicated=about.dedicated if about else False,
            )
            stack.enter_context(owner)
            handle = owner if about else value
        say(Step("importing"))
        memory = device.import_memory(
            handle,
            name=name,
            handle_type=trial.type,
            size=trial.size,
            memory_type=trial.memory_type,
            dedicated=trial.dedicated,
            passport=trial.passport,
        )
        with memory:
            say(Step("reading"))
            if memory.host_visible:
                _touch(memory)
            say(Step("freeing"))


def _touch(memory: Memory) -> None:
    """Read the first and the last byte of what is mapped. A write could undo what others write."""
    whole: Any = memory.view().obj  # a ctypes array over the whole allocation
    first, box = ctypes.addressof(whole), ctypes.create_string_buffer(1)
    for address in (first, first + ctypes.sizeof(whole) - 1):
        # By a function that lets other threads go on, should this never return.
        ctypes.memmove(box, address, 1)


# -- the process ----------------------------------------------------------------------------------


def _inherited(number: int) -> End:
    if sys.platform == "win32":
        os.set_handle_inheritable(number, False)
        return End(number, listening=False)
    else:
        return End(socket.socket(fileno=number))


def _die_quietly() -> None:
    """A crash is what this process is for: nothing is dumped, and nobody is shown a box."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is meant for the program that we serve
    if sys.platform == "win32":
        ctypes.WinDLL("kernel32").SetErrorMode(_NO_BOXES)
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(end: End, parent: int) -> None:
    """End when the parent does, or has closed its end, whatever a driver is doing here."""
    if sys.platform == "win32":
        _winapi.WaitForSingleObject(parent, _winapi.INFINITE)
        _winapi.TerminateProcess(_winapi.GetCurrentProcess(), 0)
    else:
        poll = select.poll()
        poll.register(end, 0)  # a hang-up is told all the same
        patience: float | None = _POLL * 1000
        with contextlib.suppress(OSError, AttributeError):  # of old systems
            poll.register(os.pidfd_open(parent), select.POLLIN)
            patience = None
        while os.getppid() == parent and not poll.poll(patience):
            pass
        os._exit(0)


if __name__ == "__main__":
    code = 0
    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody is there to ask any more
        code = main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    # A device that has seen strangers' handles is not taken down. It goes with the process.
    os._exit(code)
