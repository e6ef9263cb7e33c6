"""Rules of semaphores and fences where nothing is pretended: the embedded device, on both systems.

What it knows of its handles decides the rules; and what is legal passes, through to the signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from extmem import vk
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from tests.support.sync_side import SyncSide
from tests.support.win32 import unique_name

FD, NT, KMT, D3D12 = 1, 2, 4, 8
SYNC = {"semaphore": 16, "fence": 8}
SECOND = 1_000_000_000  # nanoseconds
TERMS = ACCESS_READ | ACCESS_WRITE
posix = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")
objects = pytest.mark.parametrize("what", ["semaphore", "fence"])


class Real(SyncSide):
    """A side whose objects are made to be exported, and whose handles are closed at the end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.handles = ExitStack()

    def __exit__(self, *problem: Any) -> None:
        self.handles.close()
        super().__exit__(*problem)

    def make(self, what: str, types: int = 0, *, timeline: bool = False, name: str = "") -> Any:
        kind = what.capitalize()
        info = getattr(vk, f"Vk{kind}CreateInfo")()
        if types:
            vk.link(info, getattr(vk, f"VkExport{kind}CreateInfo")(handleTypes=types))
        if name:
            terms = getattr(vk, f"VkExport{kind}Win32HandleInfoKHR")
            vk.link(info, terms(dwAccess=TERMS, name=name))
        if timeline:
            is_one = vk.VkSemaphoreTypeCreateInfo(semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE)
            vk.link(info, is_one)
        return getattr(vk, f"vkCreate{kind}")(self.device, info)

    def getting(self, what: str, made: Any, handle_type: int) -> tuple[Any, ...]:
        kind = what.capitalize()
        way = "Fd" if handle_type in (FD, SYNC[what]) else "Win32Handle"
        info = getattr(vk, f"Vk{kind}Get{way}InfoKHR")(**{what: made, "handleType": handle_type})
        return getattr(vk, f"vkGet{kind}{way}KHR"), self.device, info

    def get(self, what: str, made: Any, handle_type: int) -> int:
        command, *arguments = self.getting(what, made, handle_type)
        handle = int(command(*arguments))
        if handle_type == NT or (what == "semaphore" and handle_type == D3D12):
            self.handles.callback(kernel().close, handle)
        return handle

    def putting(self, what: str, made: Any, handle_type: int, **members: Any) -> tuple[Any, ...]:
        way = "Fd" if "fd" in members else "Win32Handle"
        kind = what.capitalize()
        info = getattr(vk, f"VkImport{kind}{way}InfoKHR")(
            **{what: made, "handleType": handle_type} | members
        )
        return getattr(vk, f"vkImport{kind}{way}KHR"), self.device, info

    def put(self, what: str, made: Any, handle_type: int, **members: Any) -> None:
        command, *arguments = self.putting(what, made, handle_type, **members)
        command(*arguments)

    def finished(self, fence: Any) -> bool:
        return bool(vk.vkWaitForFences(self.device, 1, [fence], 1, 10 * SECOND) == vk.VK_SUCCESS)


@pytest.fixture
def gpu() -> Iterator[Real]:
    with Real() as made:
        yield made


def rule(what: str, way: str, semaphore: str, fence: str) -> str:
    member, number = (semaphore if what == "semaphore" else fence).rsplit("-", 1)
    return f"VUID-VkImport{what.capitalize()}{way}InfoKHR-{member}-{number}"


def no_handle(what: str) -> str:
    return rule(what, "Win32Handle", "handleType-01468", "handleType-01461")


# -- what is refused ------------------------------------------------------------------------------


@objects
def test_handles_of_other_things(gpu: Real, what: str) -> None:
    other = {"semaphore": "fence", "fence": "semaphore"}[what]
    there = gpu.make(what)
    strange = gpu.get(other, gpu.make(other, NT), NT)
    told = gpu.breaks(no_handle(what), *gpu.putting(what, there, NT, handle=strange))
    assert f"is a {other}, not a {what}" in told
    section = kernel().create_section(65536)
    gpu.handles.callback(kernel().close, section)
    gpu.breaks(no_handle(what), *gpu.putting(what, there, NT, handle=section))
    export = vk.VkExportMemoryAllocateInfo(handleTypes=NT)
    info = vk.VkMemoryAllocateInfo(allocationSize=4096, memoryTypeIndex=1, pNext=export)
    memory = vk.vkAllocateMemory(gpu.device, info)
    get = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=NT)
    handle = vk.vkGetMemoryWin32HandleKHR(gpu.device, get)
    gpu.handles.callback(kernel().close, handle)
    gpu.breaks(no_handle(what), *gpu.putting(what, there, NT, handle=handle))
    own = gpu.get(what, gpu.make(what, NT), NT)
    gpu.put(what, there, NT, handle=own)


@objects
def test_names_of_other_things(gpu: Real, what: str) -> None:
    vuid = rule(what, "Win32Handle", "handleType-01467", "handleType-01460")
    other = {"semaphore": "fence", "fence": "semaphore"}[what]
    mine, strange, there = unique_name(), unique_name(), gpu.make(what)
    gpu.breaks(vuid, *gpu.putting(what, there, NT, name=mine))  # nobody has it yet
    gpu.get(what, gpu.make(what, NT, name=mine), NT)
    gpu.get(other, gpu.make(other, NT, name=strange), NT)
    gpu.breaks(vuid, *gpu.putting(what, there, NT, name=strange))
    gpu.put(what, there, NT, name=mine)


@objects
def test_numbers_that_are_stale(gpu: Real, what: str) -> None:
    there, exported = gpu.make(what), gpu.make(what, KMT)
    number = gpu.get(what, exported, KMT)
    gpu.put(what, there, KMT, handle=number)
    getattr(vk, f"vkDestroy{what.capitalize()}")(gpu.device, exported)
    gpu.breaks(no_handle(what), *gpu.putting(what, gpu.make(what), KMT, handle=number))
    gpu.breaks(no_handle(what), *gpu.putting(what, gpu.make(what), KMT, handle=number ^ 4))


@objects
def test_what_was_imported_is_exported_as_that_alone(gpu: Real, what: str) -> None:
    member = {"semaphore": "semaphore-01128", "fence": "fence-01450"}[what]
    vuid = f"VUID-Vk{what.capitalize()}GetWin32HandleInfoKHR-{member}"
    exported, there, again = gpu.make(what, KMT), gpu.make(what, NT), gpu.make(what)
    gpu.put(what, there, KMT, handle=gpu.get(what, exported, KMT))
    gpu.breaks(vuid, *gpu.getting(what, there, NT))
    gpu.put(what, again, KMT, handle=gpu.get(what, there, KMT))


def test_types_of_semaphores_that_differ(gpu: Real) -> None:
    owner = "VUID-VkImportSemaphoreWin32HandleInfoKHR"
    binary, timeline = gpu.make("semaphore", NT), gpu.make("semaphore", NT, timeline=True)
    by_binary, by_timeline = (gpu.get("semaphore", each, NT) for each in (binary, timeline))
    there, counts = gpu.make("semaphore"), gpu.make("semaphore", timeline=True)
    kind, temporary = f"{owner}-handleType-03262", f"{owner}-flags-03322"
    gpu.breaks(kind, *gpu.putting("semaphore", there, NT, handle=by_timeline))
    gpu.breaks(kind, *gpu.putting("semaphore", counts, NT, handle=by_binary))
    gpu.breaks(temporary, *gpu.putting("semaphore", counts, NT, handle=by_timeline, flags=1))
    gpu.put("semaphore", there, NT, handle=by_binary, flags=1)
    gpu.put("semaphore", counts, NT, handle=by_timeline)


def test_a_fence_of_direct3d_in_a_timeline_is_there_for_good(gpu: Real) -> None:
    temporary = "VUID-VkImportSemaphoreWin32HandleInfoKHR-flags-03322"
    exported = gpu.make("semaphore", D3D12, timeline=True)
    handle = gpu.get("semaphore", exported, D3D12)
    there = gpu.make("semaphore", timeline=True)
    gpu.breaks(temporary, *gpu.putting("semaphore", there, D3D12, handle=handle, flags=1))
    gpu.put("semaphore", there, D3D12, handle=handle)


def test_a_new_payload_tells_nothing_of_what_was_submitted(gpu: Real) -> None:
    """A timeline at 5 becomes one at 0; what had waited for 5 has ended all the same."""
    there, other = gpu.make("semaphore", timeline=True), gpu.make("semaphore", KMT, timeline=True)
    gpu.submit(gpu.info(waits=[(there, 5)]))
    vuid = "VUID-vkDestroySemaphore-semaphore-05149"
    gpu.breaks(vuid, vk.vkDestroySemaphore, gpu.device, there)
    gpu.open(there, 5)
    gpu.put("semaphore", there, KMT, handle=gpu.get("semaphore", other, KMT))
    assert vk.vkGetSemaphoreCounterValue(gpu.device, there) == 0
    vk.vkDestroySemaphore(gpu.device, there)


@objects
def test_handles_of_another_device(gpu: Real, what: str) -> None:
    vuid = rule(what, "Win32Handle", "handle-01542", "handle-01539")
    physical = vk.vkEnumeratePhysicalDevices(gpu.instance)[1]
    extension = f"VK_KHR_external_{what}_win32"
    info = vk.VkDeviceCreateInfo(
        pQueueCreateInfos=[vk.VkDeviceQueueCreateInfo(pQueuePriorities=[1.0])],
        ppEnabledExtensionNames=[extension],
    )
    handle = gpu.get(what, gpu.make(what, NT), NT)
    other = vk.vkCreateDevice(physical, info)
    kind = what.capitalize()
    there = getattr(vk, f"vkCreate{kind}")(other, getattr(vk, f"Vk{kind}CreateInfo")())
    try:
        command, _, info = gpu.putting(what, there, NT, handle=handle)
        known = gpu.dispatch
        gpu.dispatch = other.dispatch  # whose driver must not be reached
        gpu.breaks(vuid, command, other, info)
        gpu.dispatch = known
    finally:
        getattr(vk, f"vkDestroy{kind}")(other, there)
        vk.vkDestroyDevice(other)


@posix
@objects
def test_descriptors_of_other_things(gpu: Real, what: str) -> None:
    vuid = rule(what, "Fd", "fd-01544", "fd-01541")
    other = {"semaphore": "fence", "fence": "semaphore"}[what]
    there = gpu.make(what)
    plain = os.memfd_create("no payload")
    os.truncate(plain, 4096)
    strange = gpu.get(other, gpu.make(other, FD), FD)
    exported = gpu.make(what, SYNC[what])
    gpu.submit(*_signals(gpu, what, exported), fence=exported if what == "fence" else None)
    vk.vkQueueWaitIdle(gpu.queue)
    try:
        for wrong in (plain, strange):
            gpu.breaks(vuid, *gpu.putting(what, there, FD, fd=wrong))
            gpu.breaks(vuid, *gpu.putting(what, there, SYNC[what], fd=wrong, flags=1))
    finally:
        os.close(plain)
        os.close(strange)
    snapshot = gpu.get(what, exported, SYNC[what])
    if snapshot >= 0:
        gpu.breaks(vuid, *gpu.putting(what, there, FD, fd=snapshot))
    gpu.put(what, there, SYNC[what], fd=snapshot, flags=1)


def _signals(gpu: Real, what: str, made: Any) -> list[Any]:
    return [gpu.info(signals=[made])] if what == "semaphore" else []


# -- what is legal --------------------------------------------------------------------------------


@pytest.mark.parametrize("handle_type", [pytest.param(FD, marks=posix), NT, KMT])
@pytest.mark.parametrize("flags", [0, 1])
def test_a_binary_semaphore_in_two_devices(gpu: Real, handle_type: int, flags: int) -> None:
    """Signalled here and waited for there, over and over; a temporary one is imported each time."""
    with Real() as there:
        exported, imported = gpu.make("semaphore", handle_type), there.make("semaphore")
        handle = gpu.get("semaphore", exported, handle_type)
        fence = there.fence()
        try:
            for turn in range(3):
                if flags or not turn:
                    word = {"fd": os.dup(handle)} if handle_type == FD else {"handle": handle}
                    there.put("semaphore", imported, handle_type, flags=flags, **word)
                there.submit(there.info(waits=[imported]), fence=fence)
                gpu.submit(gpu.info(signals=[exported]))
                assert there.finished(fence)
                vk.vkResetFences(there.device, 1, [fence])
        finally:
            if handle_type == FD:
                os.close(handle)


@pytest.mark.parametrize("handle_type", [pytest.param(FD, marks=posix), NT, KMT, D3D12])
def test_a_timeline_in_two_devices(gpu: Real, handle_type: int) -> None:
    with Real() as there:
        exported = gpu.make("semaphore", handle_type, timeline=True)
        imported = there.make("semaphore", timeline=True)
        there._timelines.append(imported)
        handle = gpu.get("semaphore", exported, handle_type)
        there.put(
            "semaphore",
            imported,
            handle_type,
            **({"fd": handle} if handle_type == FD else {"handle": handle}),
        )
        fence = there.fence()
        there.submit(there.info(waits=[(imported, 5)], signals=[(imported, 7)]), fence=fence)
        vk.vkSignalSemaphore(gpu.device, vk.VkSemaphoreSignalInfo(semaphore=exported, value=4))
        gpu.submit(gpu.info(waits=[(exported, 4)], signals=[(exported, 5)]))
        assert there.finished(fence)
        assert vk.vkGetSemaphoreCounterValue(gpu.device, exported) == 7
        vk.vkSignalSemaphore(gpu.device, vk.VkSemaphoreSignalInfo(semaphore=exported, value=8))


@pytest.mark.parametrize("handle_type", [pytest.param(FD, marks=posix), NT, KMT])
def test_a_fence_in_two_devices(gpu: Real, handle_type: int) -> None:
    """Reset by the one while the other has it: never "still to be signalled"."""
    with Real() as there:
        exported, imported = gpu.make("fence", handle_type), there.make("fence")
        handle = gpu.get("fence", exported, handle_type)
        word = {"fd": handle} if handle_type == FD else {"handle": handle}
        there.put("fence", imported, handle_type, **word)
        for _ in range(3):
            gpu.submit(fence=exported)
            assert there.finished(imported)
            vk.vkResetFences(there.device, 1, [imported])
            assert vk.vkGetFenceStatus(gpu.device, exported) == vk.VK_NOT_READY
            there.submit(fence=imported)
            assert gpu.finished(exported)
            vk.vkResetFences(gpu.device, 1, [exported])


@posix
@objects
def test_snapshots_over_and_over(gpu: Real, what: str) -> None:
    made, there = gpu.make(what, SYNC[what]), gpu.make(what)
    fence = gpu.fence()
    for _ in range(3):
        gpu.submit(*_signals(gpu, what, made), fence=made if what == "fence" else None)
        snapshot = gpu.get(what, made, SYNC[what])
        gpu.put(what, there, SYNC[what], fd=snapshot, flags=1)
        if what == "fence":
            assert gpu.finished(there)
            vk.vkResetFences(gpu.device, 1, [there])
        else:
            gpu.submit(gpu.info(waits=[there]), fence=fence)
            assert gpu.finished(fence)
            vk.vkResetFences(gpu.device, 1, [fence])


def test_memory_is_freed_when_another_device_says_so(gpu: Real) -> None:
    """Only a timeline of both tells: nothing was waited for here."""
    with Real() as there:
        exported = gpu.make("semaphore", KMT, timeline=True)
        imported = there.make("semaphore", timeline=True)
        number = gpu.get("semaphore", exported, KMT)
        there.put("semaphore", imported, KMT, handle=number)
        info = vk.VkBufferCreateInfo(size=4096, usage=vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT)
        buffer = vk.vkCreateBuffer(gpu.device, info)
        needs = vk.vkGetBufferMemoryRequirements(gpu.device, buffer)
        index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
        allocate = vk.VkMemoryAllocateInfo(allocationSize=needs.size, memoryTypeIndex=index)
        memory = vk.vkAllocateMemory(gpu.device, allocate)
        vk.vkBindBufferMemory(gpu.device, buffer, memory, 0)
        commands = gpu.commands(record=lambda made: vk.vkCmdFillBuffer(made, buffer, 0, 4096, 7))
        gpu.submit(gpu.info([(exported, 1)], [(exported, 2)], [commands]), fence=gpu.fence())
        vuid = "VUID-vkFreeMemory-memory-00677"
        gpu.breaks(vuid, vk.vkFreeMemory, gpu.device, memory)
        vk.vkSignalSemaphore(there.device, vk.VkSemaphoreSignalInfo(semaphore=imported, value=1))
        wait = vk.VkSemaphoreWaitInfo(pSemaphores=[imported], pValues=[2])
        assert vk.vkWaitSemaphores(there.device, wait, 10 * SECOND) == vk.VK_SUCCESS
        vk.vkFreeMemory(gpu.device, memory)
