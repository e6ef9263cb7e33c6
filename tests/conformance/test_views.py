"""No view of mapped memory outlives the memory: freeing under a view is an error that counts.

Whatever is done in whatever order, no process may die of it: the wildest orders run in a second
process, which reports what was raised where nothing should be, and the other way round.
"""

from __future__ import annotations

import ctypes
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import extmem
from extmem import RuleViolation, ViewsAlive, vk
from tests.support import second
from tests.support.rig import Block, Kind, Rig
from tests.support.second import Channel

KIND = Kind(dedicated=False, host_visible=True)


@pytest.fixture
def block(rig: Rig) -> Block:
    return rig.allocate(KIND, export=0)


@pytest.fixture(params=["full", "off"])
def rig(request: pytest.FixtureRequest, driver: str) -> Iterator[Rig]:
    with Rig(driver, checks=request.param) as made:
        yield made


def mapped(block: Block) -> memoryview:
    return vk.vkMapMemory(block.rig.device, block.memory, 0, vk.VK_WHOLE_SIZE)


# What looks at memory, made from the view that vkMapMemory returns.
LOOKERS: dict[str, Callable[[memoryview], Any]] = {
    "view": lambda view: view,
    "slice": lambda view: view[8:64],
    "slice of a slice": lambda view: view[8:64][::4],
    "cast": lambda view: view.cast("I"),
    "read-only": lambda view: view.toreadonly(),
    "memoryview of it": memoryview,
    "frombuffer": lambda view: np.frombuffer(view, "uint16"),
    "array of a slice": lambda view: np.asarray(view[16:80])[::2],
    "reshaped array": lambda view: np.frombuffer(view, "uint8")[:64].reshape(8, 8).T,
    "ctypes": (ctypes.c_uint32 * 16).from_buffer,
    "iterator": iter,
    "the exporting object": lambda view: view.obj,
    "in a cycle": lambda view: cycle(view),
    "closure": lambda view: lambda: view[0],
}


def cycle(view: memoryview) -> list[Any]:
    found: list[Any] = [view]
    found.append(found)
    return found


@pytest.mark.parametrize("looker", LOOKERS)
def test_what_looks_at_memory_keeps_it(rig: Rig, block: Block, looker: str) -> None:
    view = mapped(block)
    looking = LOOKERS[looker](view)
    if looker not in ("view", "iterator", "in a cycle", "closure"):  # those use the view itself
        with suppress(BufferError):  # something needs it: as good
            view.release()
    del view
    for end in (
        lambda: vk.vkUnmapMemory(rig.device, block.memory),
        lambda: vk.vkFreeMemory(rig.device, block.memory),
        lambda: vk.vkDestroyDevice(rig.device),
    ):
        with pytest.raises(ViewsAlive) as raised:
            end()
        assert raised.value.count >= 1
        assert str(raised.value.count) in str(raised.value)
        del raised
    del looking
    gc.collect()
    vk.vkUnmapMemory(rig.device, block.memory)


def test_copies_do_not_count(rig: Rig, block: Block) -> None:
    view = mapped(block)
    view[:4] = b"abcd"
    copies = [bytes(view[:4]), view.tobytes(), np.array(view), view.tolist(), bytearray(view)]
    view.release()
    vk.vkUnmapMemory(rig.device, block.memory)
    assert copies[0] == copies[1][:4] == bytes(copies[2][:4]) == bytes(copies[4][:4]) == b"abcd"


def test_a_released_view_is_unusable(rig: Rig, block: Block) -> None:
    view = mapped(block)
    view.release()
    vk.vkUnmapMemory(rig.device, block.memory)
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_unmap_and_map_again(rig: Rig, block: Block) -> None:
    for count in range(20):
        view = mapped(block)
        assert count == 0 or view[0] == count - 1
        view[0] = count
        del view
        vk.vkUnmapMemory(rig.device, block.memory)


def test_freed_while_mapped(rig: Rig, block: Block) -> None:
    """Free unmaps, as the specification says; only views are in the way."""
    view = mapped(block)
    part = view[4:8]
    view.release()
    with pytest.raises(ViewsAlive):
        vk.vkFreeMemory(rig.device, block.memory)
    part[:] = b"1234"  # memory and mapping are as before
    assert bytes(part) == b"1234"
    part.release()
    del part
    block.free()


def test_a_mapped_part(rig: Rig, block: Block) -> None:
    view = vk.vkMapMemory(rig.device, block.memory, 4096, 256)
    assert len(view) == 256
    with pytest.raises(IndexError):
        view[256]
    with pytest.raises(ViewsAlive):
        vk.vkUnmapMemory(rig.device, block.memory)
    del view
    vk.vkUnmapMemory(rig.device, block.memory)


def test_other_memory_is_free_to_go(rig: Rig, block: Block) -> None:
    other = rig.allocate(KIND, export=0)
    view = mapped(block)
    mapped(other).release()
    other.free()
    view[0] = 1
    del view


def test_a_view_in_a_traceback(rig: Rig, block: Block) -> None:
    def fails() -> None:
        view = mapped(block)
        raise ZeroDivisionError(view[0])

    with pytest.raises(ZeroDivisionError) as raised:
        fails()
    with pytest.raises(ViewsAlive):
        vk.vkUnmapMemory(rig.device, block.memory)
    del raised
    gc.collect()
    vk.vkUnmapMemory(rig.device, block.memory)


# -- in a second process ----------------------------------------------------------------------


class Wild:
    """One device with some memory, and a model of what may be freed."""

    def __init__(self, driver: str, seed: int, checks: str) -> None:
        self.rig = Rig(driver, checks=checks)
        self.random = random.Random(seed)
        self.memories: dict[int, Any] = {}
        self.passports: dict[int, Any] = {}
        self.views: dict[int, list[Any]] = {}  # the living views of those that are mapped

    def step(self) -> None:
        action = self.random.choice(
            ["allocate", "map", "look", "look", "look", "drop", "drop", "unmap", "free", "destroy"]
        )
        getattr(self, action)()
        for views in self.views.values():
            for view in views:
                touch(view)

    def allocate(self) -> None:
        if len(self.memories) < 4:
            passport = self.rig._passport(KIND, Needs, 4096)
            memory = self.rig.allocate_memory(passport)
            self.memories[int(memory)] = memory

    def some(self, among: Any) -> Any:
        return self.random.choice(sorted(among)) if among else None

    def map(self) -> None:
        key = self.some(self.memories.keys() - self.views.keys())
        if key is not None:
            whole = vk.vkMapMemory(self.rig.device, self.memories[key], 0, vk.VK_WHOLE_SIZE)
            self.views[key] = [whole]

    def look(self) -> None:
        key = self.some([key for key, views in self.views.items() if views])
        if key is None or len(self.views[key]) > 6:
            return
        view = self.random.choice(self.views[key])
        if isinstance(view, np.ndarray):
            new: Any = view[len(view) // 4 :]
        else:
            new = self.random.choice(
                [lambda v: v[len(v) // 4 :], lambda v: np.frombuffer(v, "uint8"), memoryview]
            )(view)
        if len(new):
            self.views[key].append(new)

    def drop(self) -> None:
        key = self.some([key for key, views in self.views.items() if views])
        if key is not None:
            views = self.views[key]
            view = views.pop(self.random.randrange(len(views)))
            if isinstance(view, memoryview) and self.random.random() < 0.5:
                try:
                    view.release()
                except BufferError:
                    views.append(view)  # a NumPy array needs it

    def expect(self, views: int, action: Callable[[], None]) -> bool:
        """Whether it was done; it must be exactly if nobody looks."""
        counted = 0
        try:
            action()
        except ViewsAlive as error:
            counted = error.count
        assert (counted > 0) == (views > 0), f"{counted} views counted, and {views} are alive"
        return not views

    def unmap(self) -> None:
        key = self.some(self.views)
        if key is not None and self.expect(
            len(self.views[key]), lambda: vk.vkUnmapMemory(self.rig.device, self.memories[key])
        ):
            del self.views[key]

    def free(self) -> None:
        key = self.some(self.memories)
        if key is not None and self.expect(
            len(self.views.get(key, ())),
            lambda: vk.vkFreeMemory(self.rig.device, self.memories[key]),
        ):
            del self.memories[key]
            self.views.pop(key, None)

    def destroy(self) -> None:
        looking = sum(map(len, self.views.values()))
        if looking and self.random.random() < 0.3:
            self.expect(looking, lambda: vk.vkDestroyDevice(self.rig.device))

    def end(self) -> None:
        self.views.clear()
        for memory in self.memories.values():
            vk.vkFreeMemory(self.rig.device, memory)
        self.rig.close()


class Needs:
    """Requirements for memory without a resource."""

    alignment, size, memoryTypeBits = 4096, 4096, 0xFFFFFFFF


def touch(view: Any) -> None:
    view[0] = (int(view[0]) + 1) % 256
    _ = view[-1]


def run_wild(channel: Channel, driver: str, seeds: list[int], checks: str) -> int:
    for seed in seeds:
        wild = Wild(driver, seed, checks)
        for number in range(150):
            try:
                wild.step()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {number}: {error}") from error
        wild.end()
    return len(seeds)


@pytest.mark.parametrize("checks", ["full", "off"])
def test_random_orders(driver: str, checks: str) -> None:
    seeds = list(range(8))
    assert second.run(run_wild, driver=driver, seeds=seeds, checks=checks) == len(seeds)


def close_under_readers(channel: Channel, driver: str) -> dict[str, int]:
    """Threads that look at memory while another tries to close it, again and again."""
    refused = closed = 0
    with extmem.open_device(driver=driver) as gpu:
        for _ in range(15):
            memory = gpu.allocate(65536)
            arrays = [memory.numpy(), memory.numpy()]
            stop = threading.Event()
            threads = [
                threading.Thread(target=read, args=(arrays.pop(), stop), daemon=True)
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for _ in range(5):
                try:
                    memory.close()
                except ViewsAlive as error:
                    refused += error.count
            stop.set()
            for thread in threads:
                thread.join()
            del threads, thread
            gc.collect()
            memory.close()
            closed += memory.closed
    return {"refused": refused, "closed": closed}


def read(array: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        array[:] += 1


def test_threads_that_look(driver: str) -> None:
    assert second.run(close_under_readers, driver=driver) == {"refused": 150, "closed": 15}


def look_first(channel: Channel, driver: str, checks: str) -> list[int]:
    """How many views are counted when several threads look at new memory at the same moment."""
    sys.setswitchinterval(1e-6)
    counts = set()
    with extmem.open_device(driver=driver, checks=checks) as gpu:
        for _ in range(200):
            memory = gpu.allocate(4096)
            start = threading.Barrier(4)
            arrays: list[Any] = []

            def look(memory: Any = memory, start: Any = start, arrays: Any = arrays) -> None:
                start.wait()
                arrays.append(memory.numpy())

            threads = [threading.Thread(target=look, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            counts.add(memory.views)
            arrays.clear()
            memory.close()
    return sorted(counts)


@pytest.mark.parametrize("checks", ["full", "off"])
def test_threads_that_look_first(driver: str, checks: str) -> None:
    """All of them get views of one mapping, and every view is counted."""
    assert second.run(look_first, driver=driver, checks=checks) == [4]


kept: list[Any] = []  # what a process still holds when Python ends


def end_holding(channel: Channel, driver: str, what: list[str], checks: str) -> None:
    """Leave the process with things alive, in an order of all sorts."""
    gpu = extmem.open_device(driver=driver, checks=checks)
    memory = gpu.allocate(4096, export="opaque_win32" if sys.platform == "win32" else "opaque_fd")
    array = memory.numpy()
    array[:] = 1
    things: dict[str, Any] = {
        "array": array,
        "slice": array[4:][::2],
        "memory": memory,
        "device": gpu,
        "view": memory.view()[10:],
        "buffer": gpu.buffer(memory),
        "handle": memory.export(),
        "cycle": cycle(memory.view()),
        "reader": Reader(array),
        "import": gpu.import_memory(memory.export()),
    }
    kept.extend(things[name] for name in what)


class Reader:
    """Looks at memory in the very end."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __del__(self) -> None:
        self.array[:] = self.array + 1


ENDS = [
    ["array"],
    ["device", "memory", "array"],
    ["array", "memory", "device"],
    ["reader", "device", "slice"],
    ["device", "buffer", "cycle", "reader"],
    ["import", "view", "handle"],
    ["cycle", "slice", "import", "memory", "buffer", "device", "handle"],
    [],
]


@pytest.mark.parametrize("what", ENDS, ids="+".join)
def test_python_ends_with_things_alive(driver: str, what: list[str]) -> None:
    second.run(end_holding, driver=driver, what=what, checks="full")


def wrong_orders(channel: Channel, driver: str) -> list[str]:
    """Calls on what is gone: each must be an error of ours."""
    problems = []

    def refused(name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except RuleViolation:
            return
        problems.append(name)

    rig = Rig(driver)
    block = rig.allocate(KIND, export=0)
    memory, device = block.memory, rig.device
    mapped(block).release()
    block.free()
    refused("map after free", lambda: vk.vkMapMemory(device, memory, 0, vk.VK_WHOLE_SIZE))
    refused("unmap after free", lambda: vk.vkUnmapMemory(device, memory))
    refused("free after free", lambda: vk.vkFreeMemory(device, memory))
    rig.close()
    refused("map after destroy", lambda: vk.vkMapMemory(device, memory, 0, vk.VK_WHOLE_SIZE))
    refused("free after destroy", lambda: vk.vkFreeMemory(device, memory))
    refused("destroy after destroy", lambda: vk.vkDestroyDevice(device))
    refused("destroy the instance twice", lambda: vk.vkDestroyInstance(rig.instance))
    return problems


def test_wrong_orders_are_refused(driver: str) -> None:
    assert second.run(wrong_orders, driver=driver) == []
