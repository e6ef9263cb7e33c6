"""A glance lets through what kept all rules before, and nothing else."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from ctypes import addressof, c_uint64
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.rules import engine, glances
from tests.support.doubt import UNDOUBTED

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")

OPAQUE_FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
DMA_BUF = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
SIZE = 8192


@pytest.fixture(params=["full", "cheap"])
def checks(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(checks: str) -> Iterator[vk.VkDevice]:
    with extmem.open_device(driver="embedded", checks=checks) as gpu:
        yield gpu.handle


def exportable(size: int = SIZE, types: int = OPAQUE_FD, index: int = 0) -> Any:
    chained = vk.VkExportMemoryAllocateInfo(handleTypes=types)
    return vk.VkMemoryAllocateInfo(pNext=chained, allocationSize=size, memoryTypeIndex=index)


def importing(fd: int, size: int = SIZE, types: int = OPAQUE_FD, index: int = 0) -> Any:
    chained = vk.VkImportMemoryFdInfoKHR(handleType=types, fd=fd)
    return vk.VkMemoryAllocateInfo(pNext=chained, allocationSize=size, memoryTypeIndex=index)


def fetching(memory: Any, types: int = OPAQUE_FD) -> Any:
    return vk.VkMemoryGetFdInfoKHR(memory=memory, handleType=types)


def hand_over(device: vk.VkDevice, size: int = SIZE) -> None:
    first = vk.vkAllocateMemory(device, exportable(size))
    fd = vk.vkGetMemoryFdKHR(device, fetching(first))
    second = vk.vkAllocateMemory(device, importing(fd, size))
    vk.vkFreeMemory(device, second)
    vk.vkFreeMemory(device, first)


def broken(action: Any) -> set[str]:
    try:
        action()
    except extmem.RuleViolation as violation:
        return {each.vuid for each in violation.problems}
    return set()


def test_the_second_hand_over_runs_no_rule(
    device: vk.VkDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over(device)
    asked: list[str] = []
    check = engine.check

    def counted(call: Any, level: str) -> None:
        asked.append(call.name)
        check(call, level)

    monkeypatch.setattr(engine, "check", counted)
    for name, each in UNDOUBTED.items():
        monkeypatch.setattr(glances, name, each)
    hand_over(device)
    assert asked == []


def test_what_is_alive_is_looked_at_each_time(device: vk.VkDevice, checks: str) -> None:
    hand_over(device)
    hand_over(device, 4096)
    first = vk.vkAllocateMemory(device, exportable())
    fd = vk.vkGetMemoryFdKHR(device, fetching(first))
    if checks == "full":
        short = broken(lambda: vk.vkAllocateMemory(device, importing(fd, 4096)))
        assert short == {"VUID-VkMemoryAllocateInfo-allocationSize-01742"}
        reader, writer = os.pipe()
        piped = broken(lambda: vk.vkAllocateMemory(device, importing(reader)))
        assert piped == {"VUID-VkImportMemoryFdInfoKHR-handleType-00670"}
        os.close(reader)
        os.close(writer)
        closed = broken(lambda: vk.vkAllocateMemory(device, importing(reader)))
        assert closed == {"VUID-VkImportMemoryFdInfoKHR-handleType-00670"}
    os.close(fd)
    assert broken(lambda: vk.vkGetMemoryFdKHR(device, fetching(first, 3))) != set()
    plain = vk.vkAllocateMemory(device, vk.VkMemoryAllocateInfo(allocationSize=SIZE))
    if checks == "full":
        assert broken(lambda: vk.vkGetMemoryFdKHR(device, fetching(plain))) == {
            "VUID-VkMemoryGetFdInfoKHR-handleType-00671"
        }
    for each in (first, plain):
        vk.vkFreeMemory(device, each)
        assert broken(lambda gone=each: vk.vkFreeMemory(device, gone)) != set()
        assert broken(lambda gone=each: vk.vkGetMemoryFdKHR(device, fetching(gone))) != set()


def test_values_that_were_changed_behind_python_are_seen(device: vk.VkDevice) -> None:
    hand_over(device)
    info = exportable()
    info.sType = 7
    assert broken(lambda: vk.vkAllocateMemory(device, info)) != set()
    info = exportable()
    info.pNext.sType = 7
    assert broken(lambda: vk.vkAllocateMemory(device, info)) != set()
    info = exportable()
    other = vk.VkBufferCreateInfo()
    c_uint64.from_address(addressof(info) + 8).value = addressof(other)  # pNext, as C would
    assert glances.allocation(device.dispatch, info) is None


def test_the_count_of_allocations_is_looked_at() -> None:
    with extmem.open_device(driver="embedded") as gpu:
        hand_over(gpu.handle)
        dispatch: Any = gpu.handle.dispatch
        for known in dispatch.world.plain.values():
            known.most = 0
        assert glances.allocation(dispatch, exportable()) is None


def test_a_trained_device_says_what_a_fresh_one_says(checks: str) -> None:
    """Random calls, to a device that has let all of these shapes through before."""
    chosen = random.Random(6)
    with (
        extmem.open_device(driver="embedded", checks=checks) as trained,
        extmem.open_device(driver="embedded", checks=checks) as fresh,
    ):
        for size in (4096, SIZE):
            hand_over(trained.handle, size)
        for _ in range(300):
            answers = []
            size, other = chosen.choice((4096, SIZE)), chosen.choice((4096, SIZE, 0))
            types, index = chosen.choice((OPAQUE_FD, DMA_BUF, 3, 0)), chosen.choice((0, 0, 0, 5))
            wrong = chosen.choice((None, None, -1, 999))
            for gpu in (trained, fresh):
                if gpu is fresh:
                    dispatch: Any = gpu.handle.dispatch
                    dispatch.world.plain.clear()
                source = vk.vkAllocateMemory(gpu.handle, exportable(size))
                fd = vk.vkGetMemoryFdKHR(gpu.handle, fetching(source))
                given = importing(fd if wrong is None else wrong, other, types, index)
                try:
                    vk.vkFreeMemory(gpu.handle, vk.vkAllocateMemory(gpu.handle, given))
                    answers.append({"fine"})
                except extmem.RuleViolation as violation:
                    answers.append({each.vuid for each in violation.problems})
                except extmem.DriverError as error:
                    answers.append({str(error.result)})
                except OSError as error:  # cheap checks do not ask whether it is open
                    answers.append({str(error.errno)})
                try:
                    os.close(fd)
                except OSError:
                    assert answers[-1] == {"fine"}
                vk.vkFreeMemory(gpu.handle, source)
            assert answers[0] == answers[1]
