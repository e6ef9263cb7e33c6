"""Handles of semaphores and fences: fetched from and imported into what they are not."""

from __future__ import annotations

import os
from typing import Any

from extmem import DriverError, vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import Bare

_FD, _NT, _KMT, _SYNC, _FENCE_SYNC = 0x1, 0x2, 0x4, 0x10, 0x8
_TEMPORARY = 1

_BY_FD = "VUID-VkImportSemaphoreFdInfoKHR"
_BY_NT = "VUID-VkImportSemaphoreWin32HandleInfoKHR"
_FENCE_BY_FD = "VUID-VkImportFenceFdInfoKHR"
_FENCE_BY_NT = "VUID-VkImportFenceWin32HandleInfoKHR"
_GET_FD = "VUID-VkSemaphoreGetFdInfoKHR"
_GET_NT = "VUID-VkSemaphoreGetWin32HandleInfoKHR"

_INVALID = "returned VK_ERROR_INVALID_EXTERNAL_HANDLE: the driver does not accept this handle"

_S_FD, _S_NT = "vkGetSemaphoreFdKHR", "vkGetSemaphoreWin32HandleKHR"
_F_FD, _F_NT = "vkGetFenceFdKHR", "vkGetFenceWin32HandleKHR"


def _get_fd(here: Scene, semaphore: Any, handle_type: int = _FD) -> int:
    info = vk.VkSemaphoreGetFdInfoKHR(semaphore=semaphore, handleType=handle_type)
    return vk.vkGetSemaphoreFdKHR(here.device, info)


def _get_nt(here: Scene, semaphore: Any, handle_type: int = _NT) -> int:
    info = vk.VkSemaphoreGetWin32HandleInfoKHR(semaphore=semaphore, handleType=handle_type)
    return here.handle(vk.vkGetSemaphoreWin32HandleKHR(here.device, info))


def _by_fd(here: Scene, fd: int, handle_type: int = _FD, flags: int = 0, into: Any = "") -> None:
    """Import a descriptor, by default into a new binary semaphore."""
    semaphore = here.semaphore() if into == "" else into
    vk.vkImportSemaphoreFdKHR(
        here.device,
        vk.VkImportSemaphoreFdInfoKHR(
            semaphore=semaphore, flags=flags, handleType=handle_type, fd=fd
        ),
    )


def _by_nt(
    here: Scene,
    handle: int | None,
    handle_type: int = _NT,
    flags: int = 0,
    into: Any = "",
    name: str | None = None,
) -> None:
    semaphore = here.semaphore() if into == "" else into
    vk.vkImportSemaphoreWin32HandleKHR(
        here.device,
        vk.VkImportSemaphoreWin32HandleInfoKHR(
            semaphore=semaphore, flags=flags, handleType=handle_type, handle=handle, name=name
        ),
    )


def _fence_by_fd(
    here: Scene, fd: int, handle_type: int = _FD, flags: int = 0, into: Any = ""
) -> None:
    fence = here.fence() if into == "" else into
    vk.vkImportFenceFdKHR(
        here.device,
        vk.VkImportFenceFdInfoKHR(fence=fence, flags=flags, handleType=handle_type, fd=fd),
    )


def _fence_by_nt(
    here: Scene, handle: int | None, handle_type: int = _NT, name: str | None = None
) -> None:
    vk.vkImportFenceWin32HandleKHR(
        here.device,
        vk.VkImportFenceWin32HandleInfoKHR(
            fence=here.fence(), handleType=handle_type, handle=handle, name=name
        ),
    )


# -- descriptors of semaphores --------------------------------------------------------------------


@trap(f"{_GET_FD}-handleType-01132", on="linux", needs=_S_FD)
def descriptor_of_a_private_semaphore(here: Scene) -> None:
    _get_fd(here, here.semaphore())


@trap(f"{_GET_FD}-semaphore-parameter", on="linux", needs=_S_FD)
def descriptor_of_no_semaphore(here: Scene) -> None:
    _get_fd(here, None)


@trap(f"{_GET_FD}-semaphore-parameter", on="linux", needs=_S_FD)
def descriptor_of_a_destroyed_semaphore(here: Scene) -> None:
    semaphore = here.semaphore(types=_FD)
    vk.vkDestroySemaphore(here.device, semaphore)
    _get_fd(here, semaphore)


@trap(f"{_GET_FD}-handleType-01136", on="linux", needs=_S_FD)
def descriptor_of_a_semaphore_of_a_windows_type(here: Scene) -> None:
    _get_fd(here, here.semaphore(types=_FD), _NT)


@trap(f"{_GET_FD}-handleType-01135", f"{_GET_FD}-handleType-01132", on="linux", needs=_S_FD)
def snapshot_of_what_nobody_signals(here: Scene) -> None:
    _get_fd(here, here.semaphore(types=_FD), _SYNC)


@trap(f"{_BY_FD}-fd-01544", on="linux", needs=_S_FD)
def pipe_as_a_semaphore(here: Scene) -> None:
    reading, writing = os.pipe()
    here.fd(writing)
    _by_fd(here, here.fd(reading))


@trap(f"{_BY_FD}-fd-01544", on="linux", needs=_S_FD)
def event_counter_as_a_semaphore(here: Scene) -> None:
    _by_fd(here, here.fd(os.eventfd(0)))


@trap(f"{_BY_FD}-fd-01544", on="linux", needs=_S_FD)
def device_of_nothing_as_a_semaphore(here: Scene) -> None:
    _by_fd(here, here.fd(os.open("/dev/null", os.O_RDWR)))


@trap(f"{_BY_FD}-fd-01544", on="linux", needs=_S_FD)
def closed_number_as_a_semaphore(here: Scene) -> None:
    _by_fd(here, 9999)


@trap(f"{_BY_FD}-fd-01544", on="linux", needs=_S_FD)
def negative_number_as_a_semaphore(here: Scene) -> None:
    _by_fd(here, -1)


@trap(f"{_BY_FD}-fd-01544", DriverError, says=_INVALID, on="linux", needs=_S_FD)
def memfd_of_zeros_as_a_semaphore(here: Scene) -> None:
    fd = here.fd(os.memfd_create("zeros"))
    os.truncate(fd, 65536)
    _by_fd(here, fd)


@trap(f"{_BY_FD}-fd-01544", DriverError, says=_INVALID, on="linux", needs=_S_FD)
def empty_memfd_as_a_semaphore(here: Scene) -> None:
    _by_fd(here, here.fd(os.memfd_create("empty")))


@trap(f"{_BY_FD}-fd-01544", on="linux", needs=(_S_FD, "vkGetMemoryFdKHR"))
def memory_as_a_semaphore(here: Scene) -> None:
    _by_fd(here, here.fd(here.telling(here.fd_of(here.exportable()))))


@trap("VUID-VkImportMemoryFdInfoKHR-handleType-00670", on="linux",
      needs=(_S_FD, "vkGetMemoryFdKHR"))  # fmt: skip
def semaphore_as_memory(here: Scene) -> None:
    here.import_fd(here.fd(here.telling(_get_fd(here, here.semaphore(types=_FD)))))


@trap(f"{_BY_FD}-handleType-01143", on="linux", needs=_S_FD)
def descriptor_as_a_windows_semaphore(here: Scene) -> None:
    _by_fd(here, here.fd(_get_fd(here, here.semaphore(types=_FD))), _NT)


@trap(f"{_BY_FD}-handleType-parameter", on="linux", needs=_S_FD)
def descriptor_as_a_semaphore_of_no_type(here: Scene) -> None:
    _by_fd(here, here.fd(_get_fd(here, here.semaphore(types=_FD))), 0)


@trap(f"{_BY_FD}-handleType-03264", f"{_BY_FD}-handleType-01143", on="linux", needs=_S_FD)
def binary_semaphore_into_a_timeline(here: Scene) -> None:
    fd = here.fd(here.telling(_get_fd(here, here.semaphore(types=_FD))))
    _by_fd(here, fd, into=here.semaphore(timeline=True))


@trap(f"{_BY_FD}-semaphore-parameter", on="linux", needs=_S_FD)
def descriptor_into_no_semaphore(here: Scene) -> None:
    _by_fd(here, here.fd(_get_fd(here, here.semaphore(types=_FD))), into=None)


@trap(f"{_BY_FD}-semaphore-parameter", on="linux", needs=_S_FD)
def descriptor_into_a_destroyed_semaphore(here: Scene) -> None:
    fd = here.fd(_get_fd(here, here.semaphore(types=_FD)))
    gone = here.semaphore()
    vk.vkDestroySemaphore(here.device, gone)
    _by_fd(here, fd, into=gone)


@trap(f"{_BY_FD}-flags-parameter", on="linux", needs=_S_FD)
def descriptor_with_flags_that_nobody_knows(here: Scene) -> None:
    _by_fd(here, here.fd(_get_fd(here, here.semaphore(types=_FD))), flags=0x40)


@trap(f"{_BY_FD}-handleType-07307", f"{_BY_FD}-handleType-01143", on="linux", needs=_S_FD)
def snapshot_for_good(here: Scene) -> None:
    _by_fd(here, -1, _SYNC)


@trap(f"{_BY_FD}-fd-01544", f"{_BY_FD}-handleType-01143", on="linux", needs=_S_FD)
def socket_as_a_snapshot(here: Scene) -> None:
    _by_fd(here, here.fd(os.open("/", os.O_RDONLY)), _SYNC, _TEMPORARY)


@trap(f"{_BY_FD}-fd-01544", f"{_BY_FD}-fd-01141", on="linux", needs=_S_FD)
def semaphore_of_another_driver(here: Scene) -> None:
    stranger = "embedded" if here.driver != "embedded" else "system"
    with Bare(stranger) as other:
        _by_fd(here, here.fd(other.fd_of(other.exportable())))


# -- Windows handles of semaphores ----------------------------------------------------------------


@trap(f"{_GET_NT}-handleType-01126", needs=_S_NT)
def nt_handle_of_a_private_semaphore(here: Scene) -> None:
    _get_nt(here, here.semaphore())


@trap(f"{_GET_NT}-handleType-01127", needs=_S_NT)
def nt_handle_of_a_semaphore_fetched_twice(here: Scene) -> None:
    semaphore = here.semaphore(types=_NT)
    _get_nt(here, semaphore)
    _get_nt(here, semaphore)


@trap(f"{_GET_NT}-handleType-01131", needs=_S_NT)
def nt_handle_of_a_semaphore_that_is_a_descriptor(here: Scene) -> None:
    _get_nt(here, here.semaphore(types=_NT), _FD)


@trap(f"{_GET_NT}-semaphore-parameter", needs=_S_NT)
def nt_handle_of_no_semaphore(here: Scene) -> None:
    _get_nt(here, None)


@trap(f"{_BY_NT}-handleType-01468", needs=_S_NT)
def dead_handle_as_a_semaphore(here: Scene) -> None:
    _by_nt(here, 0x7FFC)


@trap(f"{_BY_NT}-handleType-01468", needs=_S_NT)
def null_handle_as_a_semaphore(here: Scene) -> None:
    _by_nt(here, None)


@trap(f"{_BY_NT}-handleType-01468", needs=(_S_NT, "vkGetMemoryWin32HandleKHR"))
def handle_of_memory_as_a_semaphore(here: Scene) -> None:
    _by_nt(here, here.nt_of(here.shared()))


@trap(f"{_BY_NT}-handleType-01468", needs=_S_NT)
def kmt_value_of_nobody_as_a_semaphore(here: Scene) -> None:
    _by_nt(here, 0xC0000FF2, _KMT)


@trap(f"{_BY_NT}-handleType-01467", needs=_S_NT)
def name_of_a_semaphore_that_nobody_holds(here: Scene) -> None:
    _by_nt(here, None, name=r"Local\no-such-semaphore")


@trap(f"{_BY_NT}-handle-01469", needs=_S_NT)
def name_and_handle_of_a_semaphore(here: Scene) -> None:
    _by_nt(here, _get_nt(here, here.semaphore(types=_NT)), name=r"Local\both")


@trap(f"{_BY_NT}-handleType-01466", needs=_S_NT)
def name_of_a_kmt_semaphore(here: Scene) -> None:
    _by_nt(here, None, _KMT, name=r"Local\kmt")


@trap(f"{_BY_NT}-handleType-03262", needs=_S_NT)
def nt_handle_of_a_binary_semaphore_into_a_timeline(here: Scene) -> None:
    handle = _get_nt(here, here.semaphore(types=_NT))
    _by_nt(here, handle, into=here.semaphore(timeline=True))


@trap(f"{_BY_NT}-semaphore-parameter", needs=_S_NT)
def nt_handle_into_a_fence(here: Scene) -> None:
    _by_nt(here, _get_nt(here, here.semaphore(types=_NT)), into=int(here.fence()))


# -- handles of fences ----------------------------------------------------------------------------


@trap("VUID-VkFenceGetFdInfoKHR-handleType-01453", on="linux", needs=_F_FD)
def descriptor_of_a_private_fence(here: Scene) -> None:
    vk.vkGetFenceFdKHR(here.device, vk.VkFenceGetFdInfoKHR(fence=here.fence(), handleType=_FD))


@trap("VUID-VkFenceGetFdInfoKHR-fence-parameter", on="linux", needs=_F_FD)
def descriptor_of_no_fence(here: Scene) -> None:
    vk.vkGetFenceFdKHR(here.device, vk.VkFenceGetFdInfoKHR(handleType=_FD))


@trap("VUID-VkFenceGetFdInfoKHR-handleType-01456", on="linux", needs=_F_FD)
def descriptor_of_a_fence_of_a_windows_type(here: Scene) -> None:
    info = vk.VkFenceGetFdInfoKHR(fence=here.fence(_FD), handleType=_NT)
    vk.vkGetFenceFdKHR(here.device, info)


@trap(f"{_FENCE_BY_FD}-fd-01541", on="linux", needs=_F_FD)
def directory_as_a_fence(here: Scene) -> None:
    _fence_by_fd(here, here.fd(os.open("/", os.O_RDONLY)))


@trap(f"{_FENCE_BY_FD}-fd-01541", on="linux", needs=_F_FD)
def closed_number_as_a_fence(here: Scene) -> None:
    _fence_by_fd(here, 9999)


@trap(f"{_FENCE_BY_FD}-fd-01541", on="linux", needs=(_F_FD, _S_FD))
def semaphore_as_a_fence(here: Scene) -> None:
    _fence_by_fd(here, here.fd(here.telling(_get_fd(here, here.semaphore(types=_FD)))))


@trap(f"{_FENCE_BY_FD}-handleType-07306", on="linux", needs=_F_FD)
def snapshot_of_a_fence_for_good(here: Scene) -> None:
    _fence_by_fd(here, -1, _FENCE_SYNC)


@trap(f"{_FENCE_BY_FD}-fence-parameter", on="linux", needs=_F_FD)
def descriptor_into_no_fence(here: Scene) -> None:
    _fence_by_fd(here, -1, _FENCE_SYNC, _TEMPORARY, into=None)


@trap("VUID-VkFenceGetWin32HandleInfoKHR-handleType-01448", needs=_F_NT)
def nt_handle_of_a_private_fence(here: Scene) -> None:
    info = vk.VkFenceGetWin32HandleInfoKHR(fence=here.fence(), handleType=_NT)
    vk.vkGetFenceWin32HandleKHR(here.device, info)


@trap(f"{_FENCE_BY_NT}-handleType-01461", needs=_F_NT)
def dead_handle_as_a_fence(here: Scene) -> None:
    _fence_by_nt(here, 0x7FFC)


@trap(f"{_FENCE_BY_NT}-handleType-01460", needs=_F_NT)
def name_of_a_fence_that_nobody_holds(here: Scene) -> None:
    _fence_by_nt(here, None, name=r"Local\no-such-fence")


@trap(f"{_FENCE_BY_NT}-handleType-01457", needs=_F_NT)
def handle_as_a_fence_of_a_descriptors_type(here: Scene) -> None:
    _fence_by_nt(here, 0x7FFC, _FD)


# -- several types at once ------------------------------------------------------------------------


@trap(f"{_BY_NT}-handleType-01140", needs=_S_NT)
def semaphore_imported_as_two_types_at_once(here: Scene) -> None:
    handle = _get_nt(here, here.semaphore(types=_NT))
    _by_nt(here, handle, _NT | _KMT)


@trap(f"{_FENCE_BY_NT}-handleType-01457", needs=_F_NT)
def fence_imported_as_two_types_at_once(here: Scene) -> None:
    _fence_by_nt(here, 8, _NT | _KMT)


@trap(f"{_BY_FD}-handleType-01143", on="linux", needs=_S_FD)
def descriptor_imported_as_two_types_at_once(here: Scene) -> None:
    _by_fd(here, here.fd(_get_fd(here, here.semaphore(types=_FD))), _FD | _SYNC, _TEMPORARY)
