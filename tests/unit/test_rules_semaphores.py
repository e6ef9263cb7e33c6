"""Rules of semaphores alone: their two types, imports of them, snapshots. Each broken and kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import vk
from extmem.drivers.driver import SyncOrigin
from extmem.vk.queries import External, Queries
from tests.support.sync_side import SyncSide, offering

FD, NT, KMT, D3D12, SYNC = 1, 2, 4, 8, 16
GET = "VUID-VkSemaphoreGetFdInfoKHR"
posix = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncSide]:
    offering(monkeypatch)
    monkeypatch.setattr(Queries, "sync_origin", lambda self, *asked: None)
    with SyncSide() as made:
        made.pretend("vkImportSemaphoreFdKHR")
        made.pretend("vkImportSemaphoreWin32HandleKHR")
        made.pretend("vkGetSemaphoreFdKHR")  # leaves -1: signalled already
        yield made


def create(gpu: SyncSide, **members: Any) -> tuple[Any, ...]:
    kind = vk.VkSemaphoreTypeCreateInfo(**members)
    return vk.vkCreateSemaphore, gpu.device, vk.VkSemaphoreCreateInfo(pNext=kind)


def snapshot(gpu: SyncSide, semaphore: Any) -> tuple[Any, ...]:
    info = vk.VkSemaphoreGetFdInfoKHR(semaphore=semaphore, handleType=SYNC)
    return vk.vkGetSemaphoreFdKHR, gpu.device, info


def taken(gpu: SyncSide, semaphore: Any) -> int:
    fetch, *arguments = snapshot(gpu, semaphore)
    return int(fetch(*arguments))


# -- the two types --------------------------------------------------------------------------------


def test_timelines_where_the_feature_is_on(gpu: SyncSide) -> None:
    vuid = "VUID-VkSemaphoreTypeCreateInfo-timelineSemaphore-03252"
    timeline = int(vk.VK_SEMAPHORE_TYPE_TIMELINE)
    with SyncSide(timeline=False) as other:
        other.breaks(vuid, *create(other, semaphoreType=timeline))
        command, *arguments = create(other, semaphoreType=0)
        command(*arguments)
    command, *arguments = create(gpu, semaphoreType=timeline, initialValue=7)
    assert vk.vkGetSemaphoreCounterValue(gpu.device, command(*arguments)) == 7


def test_binary_semaphores_start_at_zero(gpu: SyncSide) -> None:
    vuid = "VUID-VkSemaphoreTypeCreateInfo-semaphoreType-03279"
    gpu.breaks(vuid, *create(gpu, semaphoreType=0, initialValue=1))
    command, *arguments = create(gpu, semaphoreType=0)
    command(*arguments)


def test_values_are_of_timelines(gpu: SyncSide) -> None:
    binary, timeline = gpu.semaphore(), gpu.timeline(3)
    read = vk.vkGetSemaphoreCounterValue
    gpu.breaks("VUID-vkGetSemaphoreCounterValue-semaphore-03255", read, gpu.device, binary)
    assert read(gpu.device, timeline) == 3
    info = vk.VkSemaphoreSignalInfo(semaphore=binary, value=1)
    vuid = "VUID-VkSemaphoreSignalInfo-semaphore-03257"
    gpu.breaks(vuid, vk.vkSignalSemaphore, gpu.device, info)
    info = vk.VkSemaphoreSignalInfo(semaphore=timeline, value=4)
    vk.vkSignalSemaphore(gpu.device, info)
    assert read(gpu.device, timeline) == 4


def test_hosts_wait_for_timelines(gpu: SyncSide) -> None:
    binary, timeline = gpu.semaphore(), gpu.timeline(3)

    def wait(*semaphores: Any) -> tuple[Any, ...]:
        info = vk.VkSemaphoreWaitInfo(pSemaphores=list(semaphores), pValues=[3] * len(semaphores))
        return vk.vkWaitSemaphores, gpu.device, info, 0

    vuid = "VUID-VkSemaphoreWaitInfo-pSemaphores-03256"
    assert "pSemaphores[1]" in gpu.breaks(vuid, *wait(timeline, binary))
    command, *arguments = wait(timeline)
    assert command(*arguments) == vk.VK_SUCCESS


# -- what is imported -----------------------------------------------------------------------------


def importing(semaphore: Any, handle_type: int, flags: int = 0) -> tuple[Any, Any]:
    if handle_type in (FD, SYNC):
        info: Any = vk.VkImportSemaphoreFdInfoKHR(
            semaphore=semaphore, handleType=handle_type, flags=flags, fd=os.dup(1)
        )
        return vk.vkImportSemaphoreFdKHR, info
    info = vk.VkImportSemaphoreWin32HandleInfoKHR(
        semaphore=semaphore, handleType=handle_type, flags=flags, handle=6
    )
    return vk.vkImportSemaphoreWin32HandleKHR, info


_WAYS = [pytest.param(FD, marks=posix), KMT]


def known(patch: pytest.MonkeyPatch, handle_type: int, **members: Any) -> None:
    found = SyncOrigin(object="semaphore", types=handle_type, **members)
    patch.setattr(Queries, "sync_origin", lambda self, *asked: found)


@pytest.mark.parametrize("way", _WAYS)
def test_imported_as_its_exporter_made_it(
    gpu: SyncSide, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {FD: "VkImportSemaphoreFdInfoKHR", KMT: "VkImportSemaphoreWin32HandleInfoKHR"}[way]
    flags = f"VUID-{owner}-handleType-{'03263' if way == FD else '03261'}"
    kind = f"VUID-{owner}-handleType-{'03264' if way == FD else '03262'}"
    temporary = f"VUID-{owner}-flags-{'03323' if way == FD else '03322'}"
    binary, timeline = gpu.semaphore(), gpu.timeline()

    def refused(vuids: str | set[str], semaphore: Any, flags: int = 0) -> None:
        command, info = importing(semaphore, way, flags)
        try:
            gpu.breaks(vuids, command, gpu.device, info)
        finally:
            if way == FD:
                os.close(info.fd)

    def kept(semaphore: Any, flags: int = 0) -> None:
        command, info = importing(semaphore, way, flags)
        gpu.pretend("vkImportSemaphoreFdKHR", lambda device, given: os.close(given.fd) or 0)
        command(gpu.device, info)

    known(monkeypatch, way, timeline=False, flags=1)
    refused(flags, binary)
    known(monkeypatch, way, timeline=True, flags=0)
    refused(kind, binary)
    refused({kind, temporary}, binary, 1)
    refused(temporary, timeline, 1)
    kept(timeline)
    known(monkeypatch, way, timeline=False, flags=0)
    refused(kind, timeline)
    kept(binary)
    kept(binary, 1)
    # Where nothing is known, one of the two rules is broken all the same.
    known(monkeypatch, way)
    refused(temporary, timeline, 1)
    kept(timeline)
    kept(binary, 1)


def test_a_fence_of_direct3d_goes_into_both_types(
    gpu: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extmem.handles.system import kernel

    known(monkeypatch, D3D12, timeline=True, flags=1)
    section = kernel().create_section(4096)
    try:
        for semaphore in (gpu.semaphore(), gpu.timeline()):
            command, info = importing(semaphore, D3D12)
            info.handle = section
            command(gpu.device, info)
    finally:
        kernel().close(section)


@posix
def test_a_semaphore_that_no_queue_uses(gpu: SyncSide) -> None:
    vuid = "VUID-vkImportSemaphoreFdKHR-semaphore-01142"
    waiting, signalled, other = gpu.semaphore(), gpu.semaphore(), gpu.semaphore()
    gate = gpu.blocked([waiting, signalled])

    def snapshot_of_nothing(semaphore: Any) -> Any:
        return vk.VkImportSemaphoreFdInfoKHR(semaphore=semaphore, handleType=SYNC, flags=1, fd=-1)

    for busy in (waiting, signalled):
        gpu.breaks(vuid, vk.vkImportSemaphoreFdKHR, gpu.device, snapshot_of_nothing(busy))
    vk.vkImportSemaphoreFdKHR(gpu.device, snapshot_of_nothing(other))
    gpu.open(gate)
    vk.vkImportSemaphoreFdKHR(gpu.device, snapshot_of_nothing(signalled))


# -- snapshots ------------------------------------------------------------------------------------


@posix
def test_snapshots_are_of_binary_semaphores(gpu: SyncSide) -> None:
    timeline, binary = gpu.timeline(1, SYNC), gpu.semaphore(SYNC)
    gpu.breaks(f"{GET}-handleType-03253", *snapshot(gpu, timeline))
    gpu.submit(gpu.info(signals=[binary]))
    assert taken(gpu, binary) == -1


@posix
def test_snapshots_that_nobody_waits_for(gpu: SyncSide) -> None:
    # Two queues: on one the wait would be behind the signal.
    semaphore, done = gpu.semaphore(SYNC), gpu.timeline()
    gpu.submit(gpu.info(signals=[semaphore]))
    gate = gpu.timeline()
    gpu.submit(gpu.info(waits=[semaphore, (gate, 1)], signals=[(done, 1)]))
    vuids = {f"{GET}-handleType-01134", f"{GET}-handleType-01135"}
    gpu.breaks({f"{GET}-handleType-01135"}, *snapshot(gpu, semaphore))  # found before any question
    gpu.facts(semaphore)["payload"].signaled = True
    gpu.breaks(vuids - {f"{GET}-handleType-01135"}, *snapshot(gpu, semaphore))
    gpu.open(gate)
    assert taken(gpu, semaphore) == -1


@posix
def test_snapshots_of_what_is_signalled_or_will_be(gpu: SyncSide) -> None:
    vuid, semaphore = f"{GET}-handleType-01135", gpu.semaphore(SYNC)
    gpu.breaks(vuid, *snapshot(gpu, semaphore))
    gpu.submit(gpu.info(signals=[semaphore]))
    assert taken(gpu, semaphore) == -1
    gpu.breaks(vuid, *snapshot(gpu, semaphore))  # the fetch took the signal
    gpu.dispatch.vkDeviceWaitIdle(gpu.device)
    given = vk.VkImportSemaphoreFdInfoKHR(semaphore=semaphore, handleType=SYNC, flags=1, fd=-1)
    vk.vkImportSemaphoreFdKHR(gpu.device, given)  # signalled, for once
    assert taken(gpu, semaphore) == -1
    gpu.breaks(vuid, *snapshot(gpu, semaphore))


@posix
def test_snapshots_that_depend_on_nothing_to_come(gpu: SyncSide) -> None:
    vuid, semaphore = f"{GET}-handleType-03254", gpu.semaphore(SYNC)
    gate = gpu.blocked([semaphore])
    assert "has come to 1" in gpu.breaks(vuid, *snapshot(gpu, semaphore))
    second = vk.vkGetDeviceQueue(gpu.device, 0, 0)
    assert second == gpu.queue
    gpu.facts(gate)["payload"].shared = True  # others may signal it
    assert taken(gpu, semaphore) == -1
    gpu.facts(gate)["payload"].shared = False
    gpu.facts(semaphore)["payload"].signaled = True
    gpu.open(gate)
    assert taken(gpu, semaphore) == -1


def test_what_others_may_have_signalled_is_not_known(
    gpu: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    offering(monkeypatch, External(3, 0x1F, 0x1F))
    semaphore = gpu.semaphore(SYNC | KMT)

    def fetch(device: int, info: Any, box: Any) -> int:
        box.value = 6
        return 0

    gpu.pretend("vkGetSemaphoreWin32HandleKHR", fetch)
    get = vk.VkSemaphoreGetWin32HandleInfoKHR(semaphore=semaphore, handleType=KMT)
    vk.vkGetSemaphoreWin32HandleKHR(gpu.device, get)
    assert gpu.facts(semaphore)["payload"].shared
    if sys.platform != "win32":
        assert taken(gpu, semaphore) == -1
