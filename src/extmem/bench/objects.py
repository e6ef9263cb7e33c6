"""What the steps of a hand-over cost by how many memories are alive already, 1 to 100,000.

Of 4 KiB each, on the embedded device. It allows 32,768 allocations, so they are spread over several
devices, and the one that is full first is measured: what is looked for in all devices is looked for
in all of them. As many of them can be shared as there are descriptors for; the others are private.
The peer is bare ctypes on a Vulkan driver, with as many memories of its own, all private.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from extmem import vk
from extmem.bench import cycles
from extmem.bench.report import Measurement, Missing
from extmem.bench.rounds import Effort, Tally
from extmem.drivers.embedded.limits import MAX_ALLOCATIONS
from extmem.errors import DriverNotFound

__all__ = ["measure"]

_NUMBERS = (1, 10, 100, 1_000, 10_000, 100_000)
_QUICK = (1, 100)
_SIZE = 4096
_TYPE = 1  # host-visible
_PER_DEVICE = 25_000
_SHARED = 8_192  # that can be shared, at the most: each takes a descriptor and a mapping
_STEPS = ("allocate", "fetch a handle", "import", "free", "map and unmap")


def measure(effort: Effort) -> list[Measurement]:
    """By the number of memories; the whole hand-over beside a driver's own, where there is one."""
    rounds, count = effort.of(5), effort.some(200, 20)
    numbers = effort.some_of(_NUMBERS, _QUICK)
    effort.watch.steps(len(numbers) * (rounds * 2 + 1))
    missing: list[Missing] = []
    tally, whole = Tally(), Tally()
    with contextlib.ExitStack() as stack:
        alive = _Alive("embedded", "full", max(numbers), stack)
        unchecked = _Alive("embedded", "off", max(numbers), stack)
        kept = [alive, unchecked]
        cycle_full = cycles.in_extmem(alive.last, _TYPE, _SIZE)
        cycle_off = cycles.in_extmem(unchecked.last, _TYPE, _SIZE)
        peer = None
        try:
            kept.append(
                driver := _Alive(
                    effort.driver, "off", max(numbers), stack, False, cycles.in_library
                )
            )
            peer = f"bare ctypes, {driver.name.partition(' (')[0]}"
            bare = cycles.in_ctypes(driver.last, 0, _SIZE)
        except DriverNotFound as problem:
            missing.append(Missing("bare ctypes on a Vulkan driver", str(problem), cycles.REMEDY))
        for number in numbers:
            effort.watch.step(f"{number:,} memories are made")
            for each in kept:
                each.grow(number)
            _round(alive.last, count)  # warm up
            for now in range(rounds):
                effort.watch.step(f"{number:,} memories, round {now + 1} of {rounds}: steps")
                for step, taken in _round(alive.last, count).items():
                    tally.add(step, taken, number)
                effort.watch.step(f"{number:,} memories, round {now + 1} of {rounds}: whole")
                whole.add("extmem, full checks", cycle_full(count), number)
                whole.add("extmem, checks off", cycle_off(count), number)
                if peer is not None:
                    whole.add(peer, bare(count), number)
        facts: dict[str, object] = {
            "shared of them": min(max(numbers), alive.most_shared),
            "devices": alive.devices,
        }
        facts["allocations that a device allows"] = MAX_ALLOCATIONS
    return [
        Measurement(
            "objects",
            "objects",
            "Each step with full checks, by the memories that are alive",
            tally.rows(),
            axis="memories alive",
            facts=facts,
        ),
        Measurement(
            "objects-handover",
            "objects",
            "A hand-over of 4 KiB, by the memories that are alive",
            whole.rows([peer] if peer else []),
            axis="memories alive",
            missing=missing,
        ),
    ]


class _Alive:
    """So many memories, on devices of one instance."""

    def __init__(
        self,
        driver: str,
        checks: str,
        most: int,
        stack: contextlib.ExitStack,
        shared: bool = True,
        of: Callable[[str, str], contextlib.AbstractContextManager[cycles.Opened]] = cycles.opened,
    ) -> None:
        self.devices = max(1, -(-most // _PER_DEVICE))
        self._opened = [stack.enter_context(of(driver, checks))]
        while len(self._opened) < self.devices:
            self._opened.append(stack.enter_context(of(driver, checks)))
        self.name = self._opened[0].name
        stack.callback(self._free)
        self._made: list[tuple[vk.VkDevice, vk.VkDeviceMemory]] = []
        self.most_shared = min(_SHARED, _descriptors() // 4) if shared else 0

    @property
    def last(self) -> vk.VkDevice:
        """Where it is measured."""
        return self._opened[-1].device

    def grow(self, number: int) -> None:
        """Make more. The last device is filled first, so that it has as many as it may."""
        while (made := len(self._made)) < number:
            device = self._opened[-1 - made // _PER_DEVICE].device
            if made < self.most_shared:
                memory = cycles.steps(device, _TYPE, _SIZE).allocate()
            else:
                memory = vk.vkAllocateMemory(
                    device, vk.VkMemoryAllocateInfo(allocationSize=_SIZE, memoryTypeIndex=_TYPE)
                )
            self._made.append((device, memory))

    def _free(self) -> None:
        while self._made:
            vk.vkFreeMemory(*self._made.pop())


def _round(device: vk.VkDevice, count: int) -> dict[str, list[float]]:
    """Each step of so many hand-overs, and of looking a memory up: mapping finds it twice."""
    allocate, fetch, take, free = cycles.steps(device, _TYPE, _SIZE)
    taken: dict[str, list[float]] = {each: [] for each in _STEPS}
    clock = time.perf_counter_ns

    for _ in range(count):
        start = clock()
        first = allocate()
        allocated = clock()
        handle = fetch(first)
        fetched = clock()
        second = take(handle)
        imported = clock()
        vk.vkMapMemory(device, first, 0, _SIZE)
        vk.vkUnmapMemory(device, first)
        found = clock()
        free(first)
        free(second)
        freed = clock()
        taken["allocate"].append((allocated - start) / 1000)
        taken["fetch a handle"].append((fetched - allocated) / 1000)
        taken["import"].append((imported - fetched) / 1000)
        taken["map and unmap"].append((found - imported) / 1000)
        taken["free"].append((freed - found) / 2000)
    return taken


def _descriptors() -> int:
    """How many this process may have."""
    if sys.platform == "win32":
        return 1 << 16
    import resource

    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
