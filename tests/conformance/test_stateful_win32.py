"""Payloads, handles, numbers and names in any order, on the embedded device and in a model.

    EXTMEM_TEST_STEPS=100000 EXTMEM_TEST_SEED=7 ./test tests/conformance/test_stateful_win32.py -s

Steps are drawn at random from a seed; each is done on the device and in `payload_model.Model`, and
both must agree on whether it succeeds and on what is alive afterwards. A failure shows the seed and
the last steps.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import foreign
from extmem.drivers.embedded.objects import Failure
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from extmem.handles.winerror import code_of
from tests.support.payload_machine import TYPES, Machine
from tests.support.payload_model import Carrier, Payload, ReadOnly, Refused, Way
from tests.support.sharing import (
    INVALID,
    SIZE,
    UNKNOWN,
    from_handle,
    from_handle_nv,
    terms,
)

STEPS = int(os.environ.get("EXTMEM_TEST_STEPS", "2000"))
SEED = int(os.environ.get("EXTMEM_TEST_SEED", "0")) or random.randrange(1, 1 << 32)
WAYS: tuple[Way, ...] = ("khr", "nv")
CARRIERS: tuple[Carrier, ...] = ("nt", "kmt")


class Steps(Machine):
    """What is done, at random."""

    # -- steps ----------------------------------------------------------------------------------

    def step_export(self) -> None:
        which, carrier = self.any_gpu(), self.random.choice(CARRIERS)
        way, write = self.random.choice(WAYS), self.random.random() < 0.7
        named = carrier == "nt" and way == "khr"
        name = self.name_or_none() if named else None
        write = write or carrier == "kmt"
        self.say(f"{carrier} {way} {'write' if write else 'read'} {name} on {which}")
        access = ACCESS_READ | ACCESS_WRITE if write else ACCESS_READ
        handle_type, chain = TYPES["vulkan", carrier, way], []
        if named:
            chain = [terms(access, name)]
        elif carrier == "nt":
            chain = [vk.VkExportMemoryWin32HandleInfoNV(dwAccess=access)]
        gpu = self.gpus[which]
        make = gpu.export if way == "khr" else gpu.export_nv
        done = self.both(
            lambda: self.model.export(carrier, way, write, name),
            lambda: make(handle_type, *chain),
            INVALID,
        )
        if done:
            self.real[done[0]] = (which, done[1])

    def step_fetch(self) -> None:
        memory = self.any_memory()
        if memory is None:
            return
        which, real = self.real[memory]
        way = memory.export or "khr"
        if self.random.random() < 0.1:
            way = self.random.choice(WAYS)
        payload, gpu = memory.payload, self.gpus[which]
        if memory.first and memory.first not in payload.handles and _is_open(memory.first):
            # The number of a first handle that was closed is in use again. If it is a handle that
            # the device has of the same payload, with the same rights, a second fetch (which is
            # undefined) duplicates it.
            return
        handle_type = TYPES["vulkan", payload.carrier, way]
        self.say(f"{payload.carrier} {way} from {int(real):#x} on {which}")
        get = gpu.get if way == "khr" else gpu.get_nv
        if memory.first in payload.handles:
            self._looked_at(payload, payload.handles[memory.first])
        done = self.both(
            lambda: self.model.fetch(memory, way, gpu.checks != "off"),
            lambda: get(real, handle_type),
            UNKNOWN,
        )
        if not done:
            return
        write, value = done
        self.say(f"is {value:#x}")
        if write is None:
            assert payload.number in (0, value), "the number is another"
            payload.number = value
        else:
            assert value not in self.model.handles()
            self.model.fetched(memory, value, write)

    def step_duplicate(self) -> None:
        handle = self.any_handle()
        if handle is None:
            return
        write = self.random.choice([None, None, False, True])
        self.say(f"{handle:#x} {write}")
        here = win32.GetCurrentProcess()
        access = ACCESS_READ | ACCESS_WRITE if write else ACCESS_READ
        same = win32.DUPLICATE_SAME_ACCESS if write is None else 0
        payload = self.model.behind(handle)
        if write and payload.name and payload.readers_only and not payload.handles[handle]:
            # Whether it is sealed is known only from what was looked at in between.
            try:
                copy = win32.DuplicateHandle(here, handle, here, access, False, same)
            except OSError as error:
                assert code_of(error) == 5  # noqa: PT017
                payload.sealed = True
            else:
                assert not payload.sealed, "it was sealed before"
                payload.readers_only = False
                payload.handles[copy] = True
            return
        done = self.both(
            lambda: self.model.duplicate(handle, write),
            lambda: win32.DuplicateHandle(here, handle, here, access, False, same),
            5,  # ERROR_ACCESS_DENIED
        )
        if done:
            granted, copy = done
            assert copy not in self.model.handles()
            self.model.behind(handle).handles[copy] = granted
            assert win32.CompareObjectHandles(handle, copy)

    def step_close(self) -> None:
        handle = self.any_handle()
        if handle is not None:
            self.say(f"{handle:#x}")
            self.both(lambda: self.model.close(handle), lambda: win32.CloseHandle(handle), 0)
            self.closed.append(handle)

    def step_close_again(self) -> None:
        handle = self.any_closed()
        if handle is not None:
            self.say(f"{handle:#x}")
            not_open = 6  # ERROR_INVALID_HANDLE
            self.both(lambda: self.model.close(handle), lambda: win32.CloseHandle(handle), not_open)

    def any_closed(self) -> int | None:
        """A number that was closed and that nobody has now, neither we nor the device."""
        return next((each for each in self.closed if not _is_open(each)), None)

    def _take(self, payload: Callable[[], Payload], write: bool, **by: Any) -> None:
        """Import in one of the ways that there are."""
        which, way = self.any_gpu(), self.random.choice(WAYS)
        again = self.random.random() < 0.3
        try:
            found = payload()
        except Refused:
            found = None
        maker = found.maker if found is not None else "vulkan"
        carrier = by.pop("carrier")
        if maker == "heap" or "name" in by:
            way = "khr"
        handle_type = TYPES[maker, carrier, way]
        info = from_handle(by.get("handle"), handle_type, by.get("name"))
        if way == "nv":
            info = from_handle_nv(by["handle"], handle_type)
        gpu = self.gpus[which]
        chain: list[Any] = []
        if maker == "texture" and way == "khr":
            image = self.images[which][handle_type]
            chain.append(vk.VkMemoryDedicatedAllocateInfo(image=image))
        elif maker == "texture":
            image = self.images[which][-handle_type]
            chain.append(vk.VkDedicatedAllocationMemoryAllocateInfoNV(image=image))
        if again:
            nv = way == "nv"
            export = vk.VkExportMemoryAllocateInfoNV if nv else vk.VkExportMemoryAllocateInfo
            chain.append(export(handleTypes=handle_type))
        self.say(f"{maker} {carrier} {way} {by}{' again' if again else ''} on {which}")
        done = self.both(
            lambda: self.model.take(payload(), write, way, again),
            lambda: gpu.allocate(info, *chain),
            INVALID,
        )
        if done:
            memory, real = done
            self.real[memory] = (which, real)
            if "name" in by and gpu.reads_only(real):
                assert memory.payload.readers_only, "a name grants all"
                memory.payload.sealed = True
                memory.writable = False
                memory.own = None if memory.own is None else False
            elif "name" in by:
                assert not memory.payload.sealed, "it was sealed before"
                memory.payload.readers_only = False

    def step_take_handle(self) -> None:
        handle = self.any_handle()
        if handle is not None:
            payload = self.model.behind(handle)
            write = payload.handles[handle]
            self._take(lambda: payload, write, carrier="nt", handle=handle)
            self._looked_at(payload, write)

    def _looked_at(self, payload: Payload, write: bool) -> None:
        if sys.platform != "win32" and not write and not payload.has_writers:
            payload.readers_only = True

    def step_take_closed(self) -> None:
        handle = self.any_closed()
        if handle is not None:
            self._take(lambda: self.model.behind(handle), True, carrier="nt", handle=handle)

    def step_take_name(self) -> None:
        name = self.random.choice(self.names)

        def found() -> Payload:
            payload = self.model.named(name)
            if payload is None:
                raise Refused(f"nobody has the name {name}")
            return payload

        self._take(found, True, carrier="nt", name=name)

    def step_take_number(self) -> None:
        numbers = [each.number for each in self.model.payloads if each.number]
        if self.stale and self.random.random() < 0.3:
            numbers = list(self.stale)
        if numbers:
            number = self.random.choice(numbers)
            self._take(lambda: self.model.numbered(number), True, carrier="kmt", handle=number)

    def step_free(self) -> None:
        memory = self.any_memory()
        if memory is None:
            return
        which, real = self.real.pop(memory)
        self.say(f"{int(real):#x} on {which}, {'the owner' if memory.owner else 'an import'}")
        if memory.owner and memory.payload.number:
            self.stale.append(memory.payload.number)
        self.both(lambda: self.model.free(memory), lambda: self.gpus[which].free(real), 0)

    def step_write(self) -> None:
        memory = self.any_memory()
        if memory is None:
            return
        which, real = self.real[memory]
        data = self.random.randbytes(8)
        self.say(f"{int(real):#x} on {which}")

        def mine() -> None:
            if not memory.mappable:
                raise Refused("it is stale")
            if not memory.writable:
                raise ReadOnly("its handle granted reading alone")
            memory.payload.content = data

        done = self.both(
            mine,
            lambda: self.gpus[which].write(real, data),
            vk.VK_ERROR_MEMORY_MAP_FAILED,
        )
        if done:
            self.same_everywhere(memory.payload)

    def step_make(self) -> None:
        """Something of another API."""
        if len(self.made) > 6:
            return
        maker = self.random.choice(["texture", "heap"])
        carrier: Carrier = self.random.choice(CARRIERS) if maker == "texture" else "nt"
        name = self.name_or_none() if carrier == "nt" else None
        self.say(f"{maker} {carrier} {name}")
        make: Any = foreign.texture11 if maker == "texture" else foreign.heap12
        more: dict[str, Any] = {"kmt": True} if carrier == "kmt" else {"name": name}

        def device() -> foreign.Foreign:
            try:
                made: foreign.Foreign = make(size=SIZE, memory_types=0b010, **more)
            except Failure as problem:
                raise extmem.DriverError(problem.result, "stand-in") from None
            return made

        done = self.both(lambda: self.model.made_elsewhere(carrier, maker, name), device, INVALID)
        if done:
            payload, made = done
            payload.number = made.kmt
            self.made[payload] = made

    def step_copy_from_maker(self) -> None:
        """An NT handle of what another API made, for us."""
        found = [each for each in self.made if each.carrier == "nt"]
        if found:
            payload = self.random.choice(found)
            copy = kernel().duplicate(self.made[payload].handle)
            self.say(f"{payload.maker}, {copy:#x}")
            payload.handles[copy] = True

    def step_release(self) -> None:
        if self.made:
            payload = self.random.choice(list(self.made))
            self.say(f"{payload.maker} {payload.carrier} {payload.number:#x}")
            if payload.number:
                self.stale.append(payload.number)
            self.made.pop(payload).close()
            self.model.released(payload)

    def step_squat(self) -> None:
        """Somebody else's object has the name."""
        name = self.random.choice(self.names)
        self.say(name)
        if name in self.model.squatted:
            kernel().close(self.model.squatted.pop(name))
            return
        done = self.both(
            lambda: self.model.free_name(name),
            lambda: kernel().create_section(2 * SIZE, name=name),
            183,  # ERROR_ALREADY_EXISTS
        )
        if done:
            self.model.squatted[name] = done[1]

    # -- the run ----------------------------------------------------------------------------------

    WEIGHTS = {  # noqa: RUF012
        step_export: 12,
        step_fetch: 16,
        step_duplicate: 8,
        step_close: 12,
        step_close_again: 2,
        step_take_handle: 12,
        step_take_closed: 2,
        step_take_name: 8,
        step_take_number: 8,
        step_free: 18,
        step_write: 12,
        step_make: 4,
        step_copy_from_maker: 4,
        step_release: 3,
        step_squat: 2,
    }

    def run(self, steps: int) -> None:
        choices, weights = list(self.WEIGHTS), list(self.WEIGHTS.values())
        for number in range(1, steps + 1):
            (step,) = self.random.choices(choices, weights)
            # The world stays small enough that things meet.
            if len(self.real) > 20:
                step = Steps.step_free
            elif len(self.model.handles()) > 25:
                step = Steps.step_close
            kind = step.__name__.removeprefix("step_")
            self.log.append(f"{number}: {kind}")
            self.kind = kind
            self.counts[kind] += 1
            step(self)
            self.check(number)

    def end(self) -> None:
        """Let everything go, in any order."""
        while self.model.payloads or self.model.squatted:
            self.log.append("end:")
            if self.made:
                self.step_release()
            elif self.model.squatted:
                kernel().close(self.model.squatted.popitem()[1])
            elif self.real and self.random.random() < 0.5:
                self.step_free()
            elif self.model.handles():
                self.step_close()
            else:
                self.step_free()
        assert not self.real
        self.check(0)


def _is_open(handle: int) -> bool:
    try:
        kernel().info(handle)
    except OSError:
        return False
    return True


def run(seed: int, steps: int) -> tuple[Counter[str], Counter[str]]:
    """How many steps of each kind there were, and how many of them both refused."""
    machine = Steps(seed)
    try:
        machine.run(steps)
        machine.end()
    except BaseException as error:
        last = "\n  ".join(machine.log)
        error.add_note(f"EXTMEM_TEST_SEED={seed}, and the last steps were:\n  {last}")
        raise
    machine.close()
    return machine.counts, machine.refusals


@pytest.mark.timeout(max(120, STEPS // 20))
def test_any_order_of_steps(used_before: None) -> None:
    begun = time.monotonic()
    counts, refusals = run(SEED, STEPS)
    took = time.monotonic() - begun
    print(f"\nseed {SEED}: {STEPS} steps in {took:.1f} s, by kind (and refused by both):")
    for kind, count in counts.most_common():
        print(f"  {kind} {count} ({refusals[kind]})")
    # Where it was long enough, everything has come up.
    assert STEPS < 1000 or len(counts) == len(Steps.WEIGHTS)
