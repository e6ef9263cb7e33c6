"""Fences of the embedded device between devices and processes, by every handle type."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.drivers.embedded import EmbeddedDriver
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ
from extmem.handles.system import kernel
from tests.support import second
from tests.support.second import Channel
from tests.support.signals import (
    FENCE_SYNC_FD,
    KMT,
    NT,
    OPAQUE_FD,
    Station,
    name_of,
    shared_types,
)

REFUSED = vk.VK_ERROR_INVALID_EXTERNAL_HANDLE
SHORT = 50_000_000  # nanoseconds
LATER = 0.05

linux = pytest.mark.skipif(sys.platform != "linux", reason="hardware: POSIX' descriptors")
by_type = pytest.mark.parametrize("handle_type", shared_types(fences=True), ids=name_of)


@pytest.fixture(autouse=True)
def _namespace() -> None:
    """The first name in a process opens the namespace, for good."""
    kernel().close(kernel().create_section(64, name=f"Local\\extmem-test-{os.getpid()}"))


@pytest.fixture
def here() -> Iterator[Station]:
    with Station() as station:
        yield station


@pytest.fixture
def there() -> Iterator[Station]:
    with Station() as station:
        yield station


def refuses(result: int, use: Any, *arguments: Any, **more: Any) -> None:
    with pytest.raises(extmem.DriverError) as error:
        use(*arguments, **more)
    assert error.value.result == result


def taken(station: Station, handle: int, handle_type: int, **more: Any) -> Any:
    fence = station.fence()
    station.take_fence(fence, handle, handle_type, **more)
    return fence


def reset(station: Station, *fences: Any) -> None:
    vk.vkResetFences(station.device, len(fences), list(fences))


@by_type
def test_one_payload_for_both(here: Station, there: Station, handle_type: int) -> None:
    mine = here.fence(handle_type)
    other = taken(there, here.get_fence(mine, handle_type), handle_type)
    assert not there.signalled(other)
    assert not there.over(other, timeout=0)
    here.submit(fence=mine)
    assert there.over(other)
    assert there.signalled(other)
    reset(there, other)
    assert not here.signalled(mine)
    there.submit(fence=other)
    assert here.over(mine)


@by_type
def test_made_signalled(here: Station, there: Station, handle_type: int) -> None:
    mine = here.fence(handle_type, signaled=True)
    other = taken(there, here.get_fence(mine, handle_type), handle_type)
    assert here.signalled(mine)
    assert there.over(other)


@by_type
def test_a_sleeping_host_is_woken(here: Station, there: Station, handle_type: int) -> None:
    mine = here.fence(handle_type)
    other = taken(there, here.get_fence(mine, handle_type), handle_type)
    assert not there.over(other, timeout=SHORT)
    timer = threading.Timer(LATER, lambda: here.submit(fence=mine))
    timer.start()
    assert there.over(other)
    timer.join()


def test_any_and_all_of_several_kinds(here: Station) -> None:
    fences = [here.fence(), here.fence(NT), here.fence(NT)]
    if sys.platform == "linux":
        gate, mine = here.semaphore(timeline=True), here.fence(FENCE_SYNC_FD)
        here.submit(wait=[(gate, 1)], fence=mine, queue=here.other_queue)
        fd = here.get_fence(mine, FENCE_SYNC_FD)
        fences.append(taken(here, fd, FENCE_SYNC_FD, temporary=True))
    for index, fence in enumerate(fences):
        assert not here.over(*fences, timeout=SHORT // 5)

        def late(index: int = index, fence: Any = fence) -> None:
            if index == 3:
                here.signal(gate, 1)
            else:
                here.submit(fence=fence)

        timer = threading.Timer(LATER, late)
        timer.start()
        assert here.over(*fences[index:], all=False)
        timer.join()
    assert here.over(*fences)


@by_type
def test_a_temporary_payload_is_gone_with_a_reset(
    here: Station, there: Station, handle_type: int
) -> None:
    mine, target = here.fence(handle_type), there.fence()
    there.take_fence(target, here.get_fence(mine, handle_type), handle_type, temporary=True)
    here.submit(fence=mine)
    assert there.over(target)
    reset(there, target)
    assert not there.signalled(target)
    assert here.signalled(mine)  # what was reset is its own
    there.submit(fence=target)
    assert there.over(target)


@by_type
def test_a_submission_signals_the_temporary_payload(
    here: Station, there: Station, handle_type: int
) -> None:
    mine, target = here.fence(handle_type), there.fence()
    there.take_fence(target, here.get_fence(mine, handle_type), handle_type, temporary=True)
    there.submit(fence=target)
    assert here.over(mine)


@by_type
def test_what_was_imported_is_exported(here: Station, there: Station, handle_type: int) -> None:
    mine = here.fence(handle_type)
    other = taken(there, here.get_fence(mine, handle_type), handle_type)
    third = taken(here, there.get_fence(other, handle_type), handle_type)
    here.submit(fence=third)
    assert here.over(mine)
    assert there.over(other)


@by_type
def test_the_exporter_may_go_first(here: Station, there: Station, handle_type: int) -> None:
    mine = here.fence(handle_type)
    handle = here.get_fence(mine, handle_type)
    other = taken(there, handle, handle_type)
    here.drop_fence(mine)
    if handle_type == KMT:
        refuses(vk.VK_ERROR_VALIDATION_FAILED, there.over, other)
        refuses(vk.VK_ERROR_VALIDATION_FAILED, there.submit, fence=other)
        refuses(REFUSED, taken, there, handle, KMT)
        return
    there.submit(fence=other)
    late = taken(here, handle, handle_type)
    assert here.over(late)


def test_by_name(here: Station, there: Station) -> None:
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    terms = vk.VkExportFenceWin32HandleInfoKHR(name=name, dwAccess=ACCESS_ALL)
    mine = here.fence(NT, terms=terms)
    other = taken(there, 0, NT, name=name)
    here.submit(fence=mine)
    assert there.over(other)
    refuses(REFUSED, here.fence, NT, terms=terms)
    refuses(REFUSED, taken, there, 0, NT, name=name + "x")


def test_a_handle_that_grants_waiting_alone_is_refused(here: Station, there: Station) -> None:
    terms = vk.VkExportFenceWin32HandleInfoKHR(dwAccess=ACCESS_READ)
    mine = here.fence(NT, terms=terms)
    refuses(REFUSED, taken, there, here.get_fence(mine, NT), NT)


# -- SYNC_FD --------------------------------------------------------------------------------------


@linux
def test_a_sync_fd_resets_the_fence(here: Station, there: Station) -> None:
    mine = here.fence(FENCE_SYNC_FD, signaled=True)
    fd = here.get_fence(mine, FENCE_SYNC_FD)
    assert not here.signalled(mine)
    other = taken(there, fd, FENCE_SYNC_FD, temporary=True)
    assert there.over(other)
    reset(there, other)
    assert not there.signalled(other)
    refuses(vk.VK_ERROR_UNKNOWN, here.get_fence, mine, FENCE_SYNC_FD)


@linux
def test_a_sync_fd_of_what_is_pending(here: Station, there: Station) -> None:
    gate, mine = here.semaphore(timeline=True), here.fence(FENCE_SYNC_FD)
    here.submit(wait=[(gate, 1)], fence=mine)
    other = taken(there, here.get_fence(mine, FENCE_SYNC_FD), FENCE_SYNC_FD, temporary=True)
    assert not there.over(other, timeout=SHORT)
    here.signal(gate, 1)
    assert there.over(other)
    assert not here.signalled(mine)


@linux
def test_minus_one_is_signalled_already(here: Station) -> None:
    fence = taken(here, -1, FENCE_SYNC_FD, temporary=True)
    assert here.signalled(fence)
    reset(here, fence)
    assert not here.signalled(fence)
    refuses(REFUSED, taken, here, -1, FENCE_SYNC_FD)


# -- what is wrong --------------------------------------------------------------------------------


@by_type
def test_what_is_no_fence_of_this_device_is_refused(here: Station, handle_type: int) -> None:
    semaphore = here.semaphore(handle_type)
    refuses(REFUSED, taken, here, here.get(semaphore, handle_type), handle_type)
    with Station(index=1) as far:
        mine = far.fence(handle_type)
        refuses(REFUSED, taken, here, far.get_fence(mine, handle_type), handle_type)
    refuses(vk.VK_ERROR_UNKNOWN, here.fence, handle_type | 0x80)


def _asked(here: Station, handle_type: int) -> tuple[int, int, int]:
    found = vk.vkGetPhysicalDeviceExternalFenceProperties(
        here.physical, vk.VkPhysicalDeviceExternalFenceInfo(handleType=handle_type)
    )
    return (
        found.externalFenceFeatures,
        found.compatibleHandleTypes,
        found.exportFromImportedHandleTypes,
    )


def test_what_can_be_shared_is_said(here: Station) -> None:
    for handle_type in shared_types(fences=True):
        assert _asked(here, handle_type) == (3, handle_type, handle_type)
    sync = (3, FENCE_SYNC_FD, FENCE_SYNC_FD) if sys.platform == "linux" else (0, 0, 0)
    assert _asked(here, FENCE_SYNC_FD) == sync
    assert _asked(here, 0x80) == (0, 0, 0)


@by_type
def test_where_a_handle_comes_from_is_told(here: Station, handle_type: int) -> None:
    mine = here.fence(handle_type)
    handle = here.get_fence(mine, handle_type)
    found = EmbeddedDriver().sync_origin_of("fence", handle_type, handle, None)
    assert found is not None
    assert (found.object, found.types, found.timeline) == ("fence", handle_type, None)


# -- between processes ----------------------------------------------------------------------------


def _answers(channel: Channel, handle_type: int) -> None:
    message, fds = channel.receive()
    with Station() as there:
        mine = taken(there, fds[0] if fds else message["handle"], handle_type)
        for fd in fds:
            os.close(fd)
        if handle_type == NT:
            kernel().close(message["handle"])
        for _ in range(3):
            assert there.over(mine)
            reset(there, mine)
            channel.send("reset")
            channel.receive()
            there.submit(fence=mine)
            channel.receive()


@by_type
def test_two_processes_take_turns(here: Station, handle_type: int) -> None:
    mine = here.fence(handle_type)
    handle = here.get_fence(mine, handle_type)
    with second.start(_answers, timeout=90.0, handle_type=handle_type) as other:
        if handle_type == OPAQUE_FD:
            other.send({}, [handle])
        else:
            other.send({"handle": handle if handle_type == KMT else other.give(handle)})
        for _ in range(3):
            here.submit(fence=mine)
            assert other.receive()[0] == "reset"
            assert not here.signalled(mine)
            other.send("yours")
            assert here.over(mine)
            reset(here, mine)
            other.send("again")
        other.result()
