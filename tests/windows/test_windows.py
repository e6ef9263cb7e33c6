"""What of the package works on Windows, and what it says where something does not yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import extmem
from extmem import vk

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="hardware: needs Windows")

SIZE = 1 << 16


@pytest.fixture
def gpu() -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "extmem", *arguments], capture_output=True, text=True, timeout=100
    )


def test_it_is_windows_10_or_later() -> None:
    assert os.name == "nt"
    assert sys.getwindowsversion() >= (10, 0)


# -- memory that is not shared --------------------------------------------------------------------


def test_memory_is_seen_by_numpy_and_by_the_device(gpu: extmem.Device) -> None:
    with gpu.allocate(SIZE) as first, gpu.allocate(SIZE) as second:
        numbers = first.numpy("uint32")
        numbers[:] = np.arange(SIZE // 4)
        with gpu.buffer(first) as source, gpu.buffer(second) as target:
            gpu.copy(source, target)
            assert (second.numpy("uint32") == numbers).all()
            gpu.fill(target, 0x01020304)
        assert bytes(second.view()[:8]) == b"\4\3\2\1\4\3\2\1"
        del numbers


@pytest.mark.parametrize("memory", ["host_visible", "device_local"])
def test_each_kind_of_memory_is_allocated_and_freed(gpu: extmem.Device, memory: str) -> None:
    for _ in range(50):
        gpu.allocate(1 << 22, memory=memory).close()


def test_views_keep_memory(gpu: extmem.Device) -> None:
    memory = gpu.allocate(SIZE)
    array = memory.numpy()
    with pytest.raises(extmem.ViewsAlive):
        memory.close()
    del array
    memory.close()


def test_host_memory_is_imported(gpu: extmem.Device) -> None:
    raw = np.zeros(SIZE + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    pages = raw[start : start + SIZE]
    with gpu.import_memory(pages, handle_type="host_allocation") as memory:
        with gpu.buffer(memory) as target:
            gpu.fill(target, 0x07070707)
        assert (pages == 7).all()


# -- sharing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["opaque_fd", "dma_buf", "d3d11_texture", "d3d12_heap"])
def test_what_cannot_be_exported_is_said(gpu: extmem.Device, name: str) -> None:
    with pytest.raises(extmem.Unsupported, match=f"cannot export {name}; it can export "):
        gpu.allocate(SIZE, export=name)


def test_a_descriptor_is_not_imported(gpu: extmem.Device) -> None:
    with pytest.raises(ValueError, match="pass handle_type="):
        gpu.import_memory(3, size=SIZE)
    with pytest.raises(extmem.Unsupported, match="cannot import opaque_fd; it can import "):
        gpu.import_memory(3, handle_type="opaque_fd", size=SIZE)


def test_the_extension_of_descriptors_is_not_there(gpu: extmem.Device) -> None:
    kind = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT
    with gpu.allocate(SIZE) as memory:
        info = vk.VkMemoryGetFdInfoKHR(memory=memory.handle, handleType=kind)
        with pytest.raises(extmem.CommandUnavailable, match="VK_KHR_external_memory_fd"):
            vk.vkGetMemoryFdKHR(gpu.handle, info)


# -- the command line -----------------------------------------------------------------------------


def test_devices_are_listed_whatever_the_system_s_driver_can() -> None:
    done = command_line("devices", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    listed = {each["driver"] for each in found["devices"]}
    assert "embedded" in listed
    # The system's driver is listed with what it says, or is missing with the reason.
    assert "system" in listed or found["missing"][0]["reason"]
    assert found["default"]["reason"]


def test_the_demo_shares_by_name() -> None:
    done = command_line("demo", "--driver", "embedded", "--seconds", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["frames"] > 0
    assert report["frames_wrong"] == 0
    assert report["handle_type"] == "opaque_win32"
