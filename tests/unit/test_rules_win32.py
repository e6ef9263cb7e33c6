"""Rules of the Win32 and NV structures that need no driver: each broken, on the embedded device.

They are checked before any driver is called, so they hold wherever the device is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.handles.system import kernel
from tests.support.bare import Bare

WIN32 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)
HEAP = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
FD = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)
INVALID = (1 << 64) - 1


@pytest.fixture
def gpu() -> Iterator[Bare]:
    with Bare("embedded") as made:
        yield made


@pytest.fixture
def section() -> Iterator[int]:
    """A handle of a section that is no payload."""
    handle = kernel().create_section(65536)
    yield handle
    kernel().close(handle)


def broken(gpu: Bare, *chain: Any, size: int = 4096) -> set[str]:
    with pytest.raises(extmem.RuleViolation) as error:
        gpu.allocate(*chain, size=size)
    return {problem.vuid for problem in error.value.problems}


IMPORT = "VUID-VkImportMemoryWin32HandleInfoKHR"


@pytest.mark.parametrize(
    ("members", "vuid"),
    [
        ({"handleType": FD, "handle": 4}, f"{IMPORT}-handleType-00660"),
        ({"handleType": KMT, "name": "Local\\x"}, f"{IMPORT}-handleType-01439"),
        ({"handleType": 0, "name": "Local\\x"}, f"{IMPORT}-handleType-01439"),
        ({"handleType": WIN32, "handle": 4, "name": "Local\\x"}, f"{IMPORT}-handle-01441"),
        ({"handleType": 0, "handle": 4, "name": "Local\\x"}, f"{IMPORT}-handle-01441"),
        ({"handleType": WIN32 | KMT, "handle": 4}, f"{IMPORT}-handleType-parameter"),
    ],
)
def test_what_the_import_structure_says(gpu: Bare, members: dict[str, Any], vuid: str) -> None:
    assert vuid in broken(gpu, vk.VkImportMemoryWin32HandleInfoKHR(**members))


def test_core_and_nv_imports_are_not_mixed(gpu: Bare) -> None:
    found = broken(
        gpu,
        vk.VkImportMemoryWin32HandleInfoKHR(handleType=0),
        vk.VkImportMemoryWin32HandleInfoNV(handleType=0),
    )
    assert "VUID-VkMemoryAllocateInfo-pNext-00641" in found


def test_one_nv_type_at_most(gpu: Bare) -> None:
    found = broken(gpu, vk.VkImportMemoryWin32HandleInfoNV(handleType=3, handle=4))
    assert "VUID-VkImportMemoryWin32HandleInfoNV-handleType-01327" in found


@pytest.mark.parametrize("handle", [4, 12344, INVALID])
def test_nv_handles_are_open(gpu: Bare, handle: int) -> None:
    found = broken(gpu, vk.VkImportMemoryWin32HandleInfoNV(handleType=1, handle=handle))
    assert "VUID-VkImportMemoryWin32HandleInfoNV-handle-01328" in found


@pytest.mark.parametrize("mask", [0, FD, KMT])
def test_attributes_need_an_opaque_win32_export(gpu: Bare, mask: int) -> None:
    chain = [vk.VkExportMemoryWin32HandleInfoKHR(dwAccess=0x10000000)]
    if mask:
        chain.append(vk.VkExportMemoryAllocateInfo(handleTypes=mask))
    found = broken(gpu, *chain)
    assert "VUID-VkExportMemoryWin32HandleInfoKHR-handleTypes-00657" in found


def test_an_open_handle_is_no_closed_one(section: int) -> None:
    from extmem.rules.import_win32 import unfit_nt

    assert unfit_nt(section, "Section") is None
    assert "no open handle" in str(unfit_nt(section + 4000, "Section"))
    assert "INVALID_HANDLE_VALUE" in str(unfit_nt(INVALID, None))
    assert "not of memory" in str(unfit_nt(section, "Event"))


def test_names_that_somebody_holds() -> None:
    from extmem.handles.nt_lookup import why_not_by_name

    name = "Local\\extmem-test-rules-name"
    assert why_not_by_name(name)
    handle = kernel().create_section(4096, name=name)
    assert why_not_by_name(name) is None
    kernel().close(handle)
    assert why_not_by_name(name)
