"""Host pointers: to nothing, into the kernel, to too little, between pages, of no type."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import FOREIGN, HOST, OPAQUE_FD, SIZE

_HOST = "VUID-VkImportMemoryHostPointerInfoEXT"
_INFO = "VUID-VkMemoryAllocateInfo"
_ASKED = "VUID-vkGetMemoryHostPointerPropertiesEXT"
_NOTHING = f"{_HOST}-handleType-01750"
_POINTERS = "vkGetMemoryHostPointerPropertiesEXT"


def _at(here: Scene, address: int | None, handle_type: int = HOST, **members: Any) -> Any:
    info = vk.VkImportMemoryHostPointerInfoEXT(handleType=handle_type, pHostPointer=address)
    return here.allocate(info, **members)


def _pages(size: int = SIZE, rights: str = "rw") -> int:
    """Mapped pages that stay until the process ends, with nothing mapped behind them."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    protection = sum({"r": mmap.PROT_READ, "w": mmap.PROT_WRITE}[each] for each in rights)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, size + 2 * SIZE, protection, flags, -1, 0)
    libc.munmap(address + size, 2 * SIZE)
    return int(address)


# -- where nothing is -----------------------------------------------------------------------------


@trap(_NOTHING, f"{_HOST}-pHostPointer-parameter", needs=_POINTERS)
def pointer_to_null(here: Scene) -> None:
    _at(here, None)


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_nothing(here: Scene) -> None:
    _at(here, _pages() + SIZE)


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_the_first_page(here: Scene) -> None:
    _at(here, 4096)


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_into_the_kernel(here: Scene) -> None:
    _at(here, 0xFFFF_8000_0000_0000)


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_the_last_page(here: Scene) -> None:
    _at(here, (1 << 64) - 4096)


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_pages_without_access(here: Scene) -> None:
    _at(here, _pages(rights=""))


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_pages_for_reading(here: Scene) -> None:
    _at(here, _pages(rights="r"))


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_too_few_pages(here: Scene) -> None:
    _at(here, _pages(), size=2 * SIZE)


@trap(_NOTHING, on="linux", needs=_POINTERS)
def pointer_to_code(here: Scene) -> None:
    code = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value or 0
    _at(here, code & ~4095, size=4096)


# -- what is asked of it --------------------------------------------------------------------------


@trap(f"{_HOST}-pHostPointer-01749", on="linux", needs=_POINTERS)
def pointer_between_pages(here: Scene) -> None:
    _at(here, _pages(2 * SIZE) + 8)


@trap(f"{_INFO}-allocationSize-01745", on="linux", needs=_POINTERS)
def half_a_page(here: Scene) -> None:
    _at(here, _pages(), size=2048)


@trap(f"{_INFO}-allocationSize-01745", on="linux", needs=_POINTERS)
def pages_of_no_size(here: Scene) -> None:
    _at(here, _pages(), size=0)


@trap(_NOTHING, "VUID-vkAllocateMemory-pAllocateInfo-01713", on="linux", needs=_POINTERS)
def pages_of_almost_all_there_is(here: Scene) -> None:
    _at(here, _pages(), size=(1 << 64) - 4096)


@trap(f"{_HOST}-handleType-01747", on="linux", needs=_POINTERS)
def memory_of_a_foreign_device(here: Scene) -> None:
    _at(here, _pages(), FOREIGN)


@trap(f"{_HOST}-handleType-01748", needs=_POINTERS)
def pointer_that_is_called_a_descriptor(here: Scene) -> None:
    _at(here, 4096, OPAQUE_FD)


@trap(f"{_HOST}-handleType-parameter", needs=_POINTERS)
def pointer_of_two_types(here: Scene) -> None:
    _at(here, 4096, HOST | FOREIGN)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714", on="linux", needs=_POINTERS)
def pointer_into_memory_type_31(here: Scene) -> None:
    _at(here, _pages(), index=31)


@trap(f"{_INFO}-pNext-02806", on="linux", needs=_POINTERS)
def pointer_that_is_dedicated_to_a_buffer(here: Scene) -> None:
    info = vk.VkImportMemoryHostPointerInfoEXT(handleType=HOST, pHostPointer=_pages())
    here.allocate(info, vk.VkMemoryDedicatedAllocateInfo(buffer=here.buffer()))


@trap(ValueError, TypeError, says="pHostPointer|int too large|too big", needs=_POINTERS)
def pointer_of_more_than_64_bits(here: Scene) -> None:
    _at(here, 1 << 70)


# -- asking about them ----------------------------------------------------------------------------


@trap(f"{_ASKED}-handleType-01754", on="linux", needs=_POINTERS)
def question_about_an_address_of_nothing(here: Scene) -> None:
    vk.vkGetMemoryHostPointerPropertiesEXT(here.device, HOST, 4096)


@trap(f"{_ASKED}-pHostPointer-01753", on="linux", needs=_POINTERS)
def question_about_an_address_between_pages(here: Scene) -> None:
    vk.vkGetMemoryHostPointerPropertiesEXT(here.device, HOST, _pages() + 1)


@trap(f"{_ASKED}-handleType-01752", on="linux", needs=_POINTERS)
def question_about_an_address_of_no_type(here: Scene) -> None:
    vk.vkGetMemoryHostPointerPropertiesEXT(here.device, OPAQUE_FD, _pages())


@trap(f"{_ASKED}-handleType-01754", f"{_ASKED}-pHostPointer-parameter", on="linux", needs=_POINTERS)
def question_about_null(here: Scene) -> None:
    vk.vkGetMemoryHostPointerPropertiesEXT(here.device, HOST, None)
