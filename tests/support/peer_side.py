"""What a process can be told to do with shared memory: one command, one answer.

`nursery.py` starts such processes, and `process_machine.py` says what they do.
"""

from __future__ import annotations

import itertools
import traceback
from typing import Any

import extmem
from extmem import vk, win32
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.winerror import code_of
from tests.support.leaks import held
from tests.support.payload_machine import TYPES
from tests.support.second import Channel
from tests.support.sharing import Gpu, from_handle, from_handle_nv, terms, use_once

__all__ = ["serve", "totals"]

# Of the machine and not of a process: what is left of them, all tests see.
_OF_ALL = ("files in /dev/shm", "sockets with a name")


def serve(channel: Channel, checks: str) -> None:
    """Do what is asked, until there is nobody to ask."""
    use_once()
    with Gpu(checks) as gpu:
        side = _Side(gpu)
        channel.send(["done", 0, None])
        while True:
            try:
                (command, *arguments), _ = channel.receive()
            except EOFError:
                return
            channel.send(_answer(getattr(side, command), arguments))


def totals() -> dict[str, int]:
    """What this process holds. A connection to another directory has another name, and is one."""
    found = held()
    return {what: found[what].total() for what in found if what not in _OF_ALL}


def _answer(call: Any, arguments: list[Any]) -> list[Any]:
    try:
        return ["done", 0, call(*arguments)]
    except extmem.RuleViolation as error:
        return ["RuleViolation", 0, str(error)]
    except extmem.DriverError as error:
        return ["DriverError", int(error.result), str(error)]
    except OSError as error:
        return ["OSError", code_of(error) or 0, str(error)]
    except TypeError as error:  # a view for reading alone
        return ["TypeError", 0, str(error)]
    except Exception:
        return ["a mistake", 0, traceback.format_exc()[-6000:]]


class _Side:
    """The commands."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.memories: dict[int, Any] = {}
        self.numbers = itertools.count(1)
        self.before = totals()

    def _keep(self, memory: Any) -> int:
        number = next(self.numbers)
        self.memories[number] = memory
        return number

    # -- memory

    def export(self, carrier: str, way: str, write: bool, name: str | None) -> int:
        access = ACCESS_READ | ACCESS_WRITE if write else ACCESS_READ
        handle_type = TYPES["vulkan", carrier, way]
        if way == "khr":
            chain = [terms(access, name)] if carrier == "nt" else []
            return self._keep(self.gpu.export(handle_type, *chain))
        more = [vk.VkExportMemoryWin32HandleInfoNV(dwAccess=access)] if carrier == "nt" else []
        return self._keep(self.gpu.export_nv(handle_type, *more))

    def take(
        self, carrier: str, way: str, again: bool, handle: int | None, name: str | None
    ) -> int:
        """Import by a handle, a number or a name, perhaps to export it again."""
        handle_type = TYPES["vulkan", carrier, way]
        nv = way == "nv"
        info = from_handle_nv(handle or 0, handle_type) if nv else None
        chain = [info or from_handle(handle, handle_type, name)]
        if again:
            export = vk.VkExportMemoryAllocateInfoNV if nv else vk.VkExportMemoryAllocateInfo
            chain.append(export(handleTypes=handle_type))
        return self._keep(self.gpu.allocate(*chain))

    def fetch(self, number: int, carrier: str, way: str) -> int:
        get = self.gpu.get if way == "khr" else self.gpu.get_nv
        return int(get(self.memories[number], TYPES["vulkan", carrier, way]))

    def free(self, number: int) -> None:
        self.gpu.free(self.memories.pop(number))

    def write(self, number: int, data: str) -> None:
        self.gpu.write(self.memories[number], bytes.fromhex(data))

    def read(self, numbers: list[int]) -> list[str]:
        """The first bytes of each."""
        return [self.gpu.read(self.memories[each], 8).hex() for each in numbers]

    # -- handles

    def open_process(self, pid: int) -> int:
        return win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, pid)

    def duplicate(
        self,
        source: int | None,  # the handle of a process; None: this
        handle: int,
        target: int | None,
        write: bool | None,  # None: as the handle has it
        close: bool,
    ) -> int:
        here = win32.GetCurrentProcess()
        options = win32.DUPLICATE_SAME_ACCESS if write is None else 0
        options |= win32.DUPLICATE_CLOSE_SOURCE if close else 0
        access = ACCESS_READ | ACCESS_WRITE if write else ACCESS_READ
        return win32.DuplicateHandle(
            here if source is None else source,
            handle,
            here if target is None else target,
            access,
            False,
            options,
        )

    def close(self, handle: int) -> None:
        win32.CloseHandle(handle)

    def same(self, first: int, second: int) -> bool:
        return win32.CompareObjectHandles(first, second)

    # -- what is left

    def left(self) -> dict[str, list[int]]:
        """What is more or less than in the beginning."""
        now = totals()
        return {
            what: [count, now[what]] for what, count in self.before.items() if now[what] != count
        }
