"""What a bridged device answers: its own commands, and those of the driver below changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from extmem.drivers.bridge import resources
from extmem.drivers.bridge.memories import Memories, Resource
from extmem.drivers.bridge.sorts import FENCES, SEMAPHORES, SORTS, Sort
from extmem.drivers.bridge.synchronisation import Signals
from extmem.drivers.chains import asked_before, rebuilt
from extmem.drivers.driver import Command
from extmem.vk import _constants as c

__all__ = ["Bridged"]

_INVALID = int(c.VK_ERROR_INVALID_EXTERNAL_HANDLE)


@dataclass(slots=True)
class Bridged:
    """A device that was made with some of the extensions."""

    memories: Memories | None = None
    signals: dict[Sort, Signals] = field(default_factory=dict)
    resources: dict[int, Resource] = field(default_factory=dict)  # how each was created

    def own(self, spelling: str) -> Command | None:
        """A command that the driver below does not have."""
        if self.memories is not None:
            if spelling == "vkGetMemoryWin32HandleKHR":
                return self.memories.get
            if spelling == "vkGetMemoryWin32HandlePropertiesKHR":
                return _nothing_to_ask
        for sort, signals in self.signals.items():
            if spelling == f"vkGet{sort.kind}Win32HandleKHR":
                return signals.get
            if spelling == f"vkImport{sort.kind}Win32HandleKHR":
                return signals.import_win32
        return None

    def changed(self, spelling: str, below: Command) -> Command:
        """A command of the driver below as it is here."""
        name = spelling.removesuffix("KHR")  # of what became core
        if self.memories is not None and name in _OF_MEMORIES:
            return _OF_MEMORIES[name](below, self)
        for sort, signals in self.signals.items():
            make = _OF_SIGNALS[sort].get(name)
            if make is not None:
                return make(below, signals)
        return below

    def forget(self) -> None:
        """The device is destroyed."""
        if self.memories is not None:
            self.memories.forget()
        for signals in self.signals.values():
            signals.forget()


# -- memory, buffers and images -------------------------------------------------------------------


def _nothing_to_ask(device: int, handle_type: int, handle: Any, properties: Any) -> int:
    # Only other APIs' handles can be asked about, and here is none of those APIs.
    return _INVALID


def _memories(bridged: Bridged) -> Memories:
    assert bridged.memories is not None
    return bridged.memories


def _create(below: Command, bridged: Bridged) -> Command:
    def create(device: int, info: Any, allocator: Any, box: Any) -> int:
        result = int(below(device, rebuilt(info, resources.EXCHANGES), None, box))
        if result == 0:
            bridged.resources[box.value] = resources.how_made(info)
        return result

    return create


def _destroy(below: Command, bridged: Bridged) -> Command:
    def destroy(device: int, resource: int, allocator: Any) -> None:
        bridged.resources.pop(resource, None)
        below(device, resource, None)

    return destroy


def _needs(below: Command, bridged: Bridged) -> Command:
    return asked_before(below, resources.EXCHANGES)


def _allocate(below: Command, bridged: Bridged) -> Command:
    def allocate(device: int, info: Any, allocator: Any, box: Any) -> int:
        return _memories(bridged).allocate(below, device, info, bridged.resources, box)

    return allocate


def _free(below: Command, bridged: Bridged) -> Command:
    def free(device: int, memory: int, allocator: Any) -> None:
        _memories(bridged).forget(memory)
        below(device, memory, None)

    return free


def _unless_stale(
    memories_of: Callable[[tuple[Any, ...]], list[int]], result: int
) -> Callable[[Command, Bridged], Command]:
    """A command that fails on memory that was imported by a number whose owner is gone."""

    def make(below: Command, bridged: Bridged) -> Command:
        def command(*given: Any) -> int:
            if any(_memories(bridged).stale(each) for each in memories_of(given)):
                return result
            return int(below(*given))

        return command

    return make


def _bound(given: tuple[Any, ...]) -> list[int]:
    return [given[2][index].memory for index in range(given[1])]


_STALE = int(c.VK_ERROR_VALIDATION_FAILED)
_NOT_MAPPED = int(c.VK_ERROR_MEMORY_MAP_FAILED)

# By the command's name without the suffix of an extension.
_OF_MEMORIES: dict[str, Callable[[Command, Bridged], Command]] = {
    "vkAllocateMemory": _allocate,
    "vkFreeMemory": _free,
    "vkCreateBuffer": _create,
    "vkCreateImage": _create,
    "vkDestroyBuffer": _destroy,
    "vkDestroyImage": _destroy,
    "vkGetDeviceBufferMemoryRequirements": _needs,
    "vkGetDeviceImageMemoryRequirements": _needs,
    "vkGetDeviceImageSparseMemoryRequirements": _needs,
    "vkMapMemory": _unless_stale(lambda given: [given[1]], _NOT_MAPPED),
    "vkMapMemory2": _unless_stale(lambda given: [given[1].memory], _NOT_MAPPED),
    "vkBindBufferMemory": _unless_stale(lambda given: [given[2]], _STALE),
    "vkBindImageMemory": _unless_stale(lambda given: [given[2]], _STALE),
    "vkBindBufferMemory2": _unless_stale(_bound, _STALE),
    "vkBindImageMemory2": _unless_stale(_bound, _STALE),
}


# -- semaphores and fences ------------------------------------------------------------------------


def _create_signal(below: Command, signals: Signals) -> Command:
    return lambda device, info, allocator, box: signals.create(below, device, info, box)


def _destroy_signal(below: Command, signals: Signals) -> Command:
    def destroy(device: int, signal: int, allocator: Any) -> None:
        signals.forget(signal)
        below(device, signal, None)

    return destroy


def _import_fd(below: Command, signals: Signals) -> Command:
    return lambda device, info: signals.imports_fd(below, device, info)


def _get_fd(below: Command, signals: Signals) -> Command:
    return lambda device, info, box: signals.gets_fd(below, device, info, box)


def _ends_what_is_temporary(
    ended_by: Callable[[tuple[Any, ...]], Iterable[int]],
) -> Callable[[Command, Signals], Command]:
    """A command after which these semaphores or fences have their permanent payloads again."""

    def make(below: Command, signals: Signals) -> Command:
        borrowing = signals.borrowing

        def command(*given: Any) -> int:
            if not borrowing:  # nearly always, and submissions are waited for
                return below(*given)  # type: ignore[no-any-return]
            ended = list(ended_by(given))
            result = int(below(*given))
            if ended and result == 0:
                signals.restore(ended)
            return result

        return command

    return make


def _waited(given: tuple[Any, ...]) -> Iterator[int]:
    for index in range(given[1]):
        item = given[2][index]
        for each in range(item.waitSemaphoreCount):
            yield item.pWaitSemaphores[each]


def _waited_2(given: tuple[Any, ...]) -> Iterator[int]:
    for index in range(given[1]):
        item = given[2][index]
        for each in range(item.waitSemaphoreInfoCount):
            yield item.pWaitSemaphoreInfos[each].semaphore


def _reset(given: tuple[Any, ...]) -> Iterator[int]:
    return (given[2][index] for index in range(given[1]))


# By the command's name without the suffix of an extension.
_OF_SIGNALS: dict[Sort, dict[str, Callable[[Command, Signals], Command]]] = {
    sort: {
        f"vkCreate{sort.kind}": _create_signal,
        f"vkDestroy{sort.kind}": _destroy_signal,
        f"vkImport{sort.kind}Fd": _import_fd,
        f"vkGet{sort.kind}Fd": _get_fd,
    }
    for sort in SORTS
}
_OF_SIGNALS[SEMAPHORES] |= {
    "vkQueueSubmit": _ends_what_is_temporary(_waited),
    "vkQueueSubmit2": _ends_what_is_temporary(_waited_2),
    "vkQueueBindSparse": _ends_what_is_temporary(_waited),
}
_OF_SIGNALS[FENCES] |= {"vkResetFences": _ends_what_is_temporary(_reset)}
