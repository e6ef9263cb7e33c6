"""Semaphores of the embedded device between devices and processes, by every handle type."""

from __future__ import annotations

import os
import secrets
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.drivers.embedded import EmbeddedDriver, foreign
from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ
from extmem.handles.security import security_attributes
from extmem.handles.system import kernel
from tests.support import second
from tests.support.second import Channel
from tests.support.signals import (
    D3D12_FENCE,
    KMT,
    LONG,
    NT,
    OPAQUE_FD,
    SYNC_FD,
    Station,
    name_of,
    shared_types,
)

REFUSED = vk.VK_ERROR_INVALID_EXTERNAL_HANDLE
SHORT = 50_000_000  # nanoseconds
LATER = 0.05

linux = pytest.mark.skipif(sys.platform != "linux", reason="hardware: POSIX' descriptors")
by_type = pytest.mark.parametrize("handle_type", shared_types(), ids=name_of)
opaque = pytest.mark.parametrize(
    "handle_type", [each for each in shared_types() if each != D3D12_FENCE], ids=name_of
)


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


def terms(name: str | None = None, access: int = ACCESS_ALL, attributes: Any = None) -> Any:
    return vk.VkExportSemaphoreWin32HandleInfoKHR(
        name=name, dwAccess=access, pAttributes=[attributes] if attributes else None
    )


def unique() -> str:
    return f"Local\\extmem-test-{secrets.token_hex(8)}"


# -- between devices ------------------------------------------------------------------------------


@by_type
def test_a_timeline_is_one_counter(here: Station, there: Station, handle_type: int) -> None:
    mine = here.semaphore(handle_type, timeline=True, value=3)
    other = there.taken(here.get(mine, handle_type), handle_type, timeline=True)
    assert there.value(other) == 3
    here.signal(mine, 1 << 40)
    assert there.value(other) == 1 << 40
    there.signal(other, (1 << 64) - 1)
    assert here.wait(mine, (1 << 64) - 1)


@opaque
def test_a_binary_semaphore_is_signalled_here_and_waited_for_there(
    here: Station, there: Station, handle_type: int
) -> None:
    mine = here.semaphore(handle_type)
    other = there.taken(here.get(mine, handle_type), handle_type)
    for _ in range(3):
        here.submit(signal=[mine])
        assert there.passes(other)
    there.submit(signal=[other])
    assert here.passes(mine)
    assert not here.passes(mine, SHORT)  # a wait leaves it unsignalled, for all
    here.submit(signal=[mine], queue=here.other_queue)  # so that nothing is pending in the end
    vk.vkDeviceWaitIdle(here.device)


@by_type
def test_a_wait_may_be_submitted_before_its_signal(
    here: Station, there: Station, handle_type: int
) -> None:
    mine = here.semaphore(handle_type, timeline=True)
    other = there.taken(here.get(mine, handle_type), handle_type, timeline=True)
    fence = there.fence()
    there.submit(wait=[(other, 5)], signal=[(other, 6)], fence=fence)
    assert not there.over(fence, timeout=SHORT)
    here.signal(mine, 5)
    assert there.over(fence)
    assert here.wait(mine, 6)


@by_type
def test_a_sleeping_host_is_woken(here: Station, there: Station, handle_type: int) -> None:
    mine = here.semaphore(handle_type, timeline=True)
    other = there.taken(here.get(mine, handle_type), handle_type, timeline=True)
    timer = threading.Timer(LATER, here.signal, (mine, 1))
    timer.start()
    assert there.wait(other, 1)
    timer.join()
    assert not there.wait(other, 2, SHORT)
    assert not there.wait(other, 2, 0)


def test_waits_for_any_and_for_all_of_several_kinds(here: Station) -> None:
    shared = [here.semaphore(NT, timeline=True) for _ in range(2)]
    semaphores = [here.semaphore(timeline=True), *shared]
    for index, each in enumerate(semaphores):
        info = vk.VkSemaphoreWaitInfo(
            flags=vk.VK_SEMAPHORE_WAIT_ANY_BIT, pSemaphores=semaphores, pValues=[index + 1] * 3
        )
        timer = threading.Timer(LATER, here.signal, (each, index + 1))
        timer.start()
        assert vk.vkWaitSemaphores(here.device, info, LONG) == vk.VK_SUCCESS
        timer.join()
    info = vk.VkSemaphoreWaitInfo(pSemaphores=semaphores, pValues=[9] * 3)
    for each in semaphores:
        assert vk.vkWaitSemaphores(here.device, info, 0) == vk.VK_TIMEOUT
        timer = threading.Timer(LATER, here.signal, (each, 9))
        timer.start()
        if each == semaphores[-1]:
            assert vk.vkWaitSemaphores(here.device, info, LONG) == vk.VK_SUCCESS
        timer.join()


def test_what_was_imported_can_be_imported_twice_and_replaced(here: Station) -> None:
    first, other = (here.semaphore(NT, timeline=True, value=value) for value in (1, 2))
    handles = [here.get(each, NT) for each in (first, other)]
    again = here.taken(handles[0], NT, timeline=True)
    more = here.taken(handles[0], NT, timeline=True)
    assert here.value(again) == here.value(more) == 1
    here.take(again, handles[1], NT)
    assert here.value(again) == 2
    here.signal(more, 7)
    assert here.value(first) == 7


@by_type
def test_what_was_imported_is_exported_as_its_exporter_said(
    here: Station, there: Station, handle_type: int
) -> None:
    mine = here.semaphore(handle_type, timeline=True)
    other = there.taken(here.get(mine, handle_type), handle_type, timeline=True)
    third = here.taken(there.get(other, handle_type), handle_type, timeline=True)
    here.signal(third, 4)
    assert here.value(mine) == there.value(other) == 4
    wrong = NT if handle_type == KMT else KMT
    refuses(vk.VK_ERROR_UNKNOWN, there.get, other, wrong)


def test_an_import_takes_the_exporters_types_from_the_semaphore(here: Station) -> None:
    mine = here.semaphore(KMT, timeline=True)
    other = here.semaphore(NT, timeline=True)
    here.take(mine, here.get(other, NT), NT)
    refuses(vk.VK_ERROR_UNKNOWN, here.get, mine, KMT)
    here.get(mine, NT)


# -- lifetimes ------------------------------------------------------------------------------------


@by_type
def test_the_exporter_may_go_first(here: Station, there: Station, handle_type: int) -> None:
    mine = here.semaphore(handle_type, timeline=True, value=1)
    handle = here.get(mine, handle_type)
    other = there.taken(handle, handle_type, timeline=True)
    here.drop(mine)
    if handle_type == KMT:  # a number is as old as its owner
        refuses(vk.VK_ERROR_VALIDATION_FAILED, there.signal, other, 2)
        refuses(vk.VK_ERROR_VALIDATION_FAILED, there.wait, other, 2)
        refuses(vk.VK_ERROR_VALIDATION_FAILED, there.submit, signal=[(other, 2)])
        refuses(REFUSED, there.taken, handle, KMT, timeline=True)
        return
    there.signal(other, 2)
    late = here.taken(handle, handle_type, timeline=True)
    assert here.value(late) == 2


@pytest.mark.parametrize("handle_type", [NT, D3D12_FENCE], ids=name_of)
def test_a_second_fetch_duplicates_the_first(here: Station, handle_type: int) -> None:
    mine = here.semaphore(handle_type, timeline=True)
    first = here.get(mine, handle_type)
    again = here.get(mine, handle_type)
    assert first != again
    assert kernel().same_object(first, again)
    for each in (first, again):
        kernel().close(here.given(each))
    refuses(vk.VK_ERROR_UNKNOWN, here.get, mine, handle_type)


def test_a_number_is_the_same_each_time(here: Station) -> None:
    mine = here.semaphore(KMT)
    assert here.get(mine, KMT) == here.get(mine, KMT)


@linux
def test_a_successful_import_takes_the_descriptor_and_no_other_does(here: Station) -> None:
    mine = here.semaphore(OPAQUE_FD)
    fd = os.dup(here.get(mine, OPAQUE_FD))
    target = here.semaphore(timeline=True)
    refuses(REFUSED, _import_fd, here, target, fd)
    os.fstat(fd)
    _import_fd(here, here.semaphore(), fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def _import_fd(station: Station, semaphore: Any, fd: int, handle_type: int = OPAQUE_FD) -> None:
    vk.vkImportSemaphoreFdKHR(
        station.device,
        vk.VkImportSemaphoreFdInfoKHR(semaphore=semaphore, handleType=handle_type, fd=fd),
    )


@linux
def test_descriptors_are_closed_on_exec(here: Station) -> None:
    for handle_type in (OPAQUE_FD, SYNC_FD):
        mine = here.semaphore(handle_type)
        here.submit(signal=[mine])
        assert not os.get_inheritable(here.get(mine, handle_type))


# -- names, rights --------------------------------------------------------------------------------


@pytest.mark.parametrize("handle_type", [NT, D3D12_FENCE], ids=name_of)
def test_by_name(here: Station, there: Station, handle_type: int) -> None:
    name = unique()
    mine = here.semaphore(handle_type, timeline=True, value=2, terms=terms(name))
    other = there.taken(0, handle_type, name=name, timeline=True)
    assert there.value(other) == 2
    refuses(REFUSED, here.semaphore, handle_type, terms=terms(name))
    refuses(REFUSED, there.taken, 0, handle_type, name=name + "x", timeline=True)
    there.drop(other)
    kernel().close(here.given(here.get(mine, handle_type)))
    # The name has gone with the last handle.
    refuses(REFUSED, there.taken, 0, handle_type, name=name, timeline=True)
    assert here.value(mine) == 2


def test_a_handle_that_grants_waiting_alone(here: Station, there: Station) -> None:
    mine = here.semaphore(NT, timeline=True, terms=terms(access=ACCESS_READ))
    handle = here.get(mine, NT)
    other = there.taken(handle, NT, timeline=True)
    timer = threading.Timer(LATER, here.signal, (mine, 1))
    timer.start()
    assert there.wait(other, 1)
    timer.join()
    refuses(vk.VK_ERROR_VALIDATION_FAILED, there.signal, other, 2)
    assert here.value(mine) == 1
    # A wait for a binary semaphore changes it.
    binary = here.semaphore(NT, terms=terms(access=ACCESS_READ))
    refuses(REFUSED, there.taken, here.get(binary, NT), NT)


def test_a_handle_that_grants_nothing(here: Station, there: Station) -> None:
    mine = here.semaphore(NT, terms=terms(access=0))
    refuses(REFUSED, there.taken, here.get(mine, NT), NT)


def test_security_decides_who_opens_the_name(here: Station, there: Station) -> None:
    name = unique()
    nobody = security_attributes("D:")
    here.semaphore(NT, terms=terms(name, attributes=nobody))
    refuses(REFUSED, there.taken, 0, NT, name=name)
    everybody, inherited = unique(), security_attributes("D:(A;;GA;;;WD)", inherit=True)
    shared = here.semaphore(NT, terms=terms(everybody, attributes=inherited))
    there.taken(0, NT, name=everybody)
    assert kernel().flags(here.get(shared, NT)) & 1


# -- temporary payloads ---------------------------------------------------------------------------


@opaque
def test_a_temporary_payload_is_gone_with_a_wait(
    here: Station, there: Station, handle_type: int
) -> None:
    mine, target = here.semaphore(handle_type), there.semaphore()
    there.submit(signal=[target])  # of its own payload, which waits for its turn
    vk.vkQueueWaitIdle(there.queue)
    there.take(target, here.get(mine, handle_type), handle_type, temporary=True)
    here.submit(signal=[mine])
    assert there.passes(target)
    assert there.passes(target)  # that of its own
    assert not here.passes(mine, SHORT)  # the one wait has taken it
    here.submit(signal=[mine], queue=here.other_queue)
    vk.vkDeviceWaitIdle(here.device)


def test_a_permanent_import_ends_a_temporary_one(here: Station) -> None:
    first, other, target = here.semaphore(NT), here.semaphore(NT), here.semaphore()
    here.take(target, here.get(first, NT), NT, temporary=True)
    here.take(target, here.get(other, NT), NT)
    here.submit(signal=[other])
    assert here.passes(target)
    here.submit(signal=[other])
    assert here.passes(target)


def test_a_timeline_has_no_temporary_payload(here: Station) -> None:
    mine, target = (here.semaphore(NT, timeline=True) for _ in range(2))
    refuses(REFUSED, here.take, target, here.get(mine, NT), NT, temporary=True)


# -- SYNC_FD --------------------------------------------------------------------------------------


def polled(fd: int, seconds: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@linux
def test_a_sync_fd_of_what_is_signalled(here: Station, there: Station) -> None:
    mine = here.semaphore(SYNC_FD)
    here.submit(signal=[mine])
    vk.vkQueueWaitIdle(here.queue)
    fd = here.get(mine, SYNC_FD)
    assert polled(fd)
    # For the semaphore that was a wait.
    refuses(vk.VK_ERROR_UNKNOWN, here.get, mine, SYNC_FD)
    for _ in range(2):  # it is a copy for each
        assert there.passes(there.taken(fd, SYNC_FD, temporary=True))


@linux
def test_a_sync_fd_of_what_is_pending(here: Station, there: Station) -> None:
    gate, mine = here.semaphore(timeline=True), here.semaphore(SYNC_FD)
    here.submit(wait=[(gate, 1)], signal=[mine])
    fd = here.get(mine, SYNC_FD)
    assert not polled(fd)
    other = there.taken(fd, SYNC_FD, temporary=True)
    fence = there.fence()
    there.submit(wait=[other], fence=fence)
    assert not there.over(fence, timeout=SHORT)
    here.signal(gate, 1)
    assert polled(fd, 5.0)
    assert there.over(fence)
    # The signal went to the copy.
    refuses(vk.VK_ERROR_UNKNOWN, here.get, mine, SYNC_FD)
    here.submit(signal=[mine])
    assert here.passes(mine)


@linux
def test_minus_one_is_signalled_already(here: Station) -> None:
    target = here.semaphore()
    here.take(target, -1, SYNC_FD, temporary=True)
    assert here.passes(target)


@linux
def test_what_was_imported_as_a_sync_fd_is_exported_as_one(here: Station) -> None:
    mine = here.semaphore(SYNC_FD)
    here.submit(signal=[mine])
    target = here.taken(here.get(mine, SYNC_FD), SYNC_FD, temporary=True)
    fd = here.get(target, SYNC_FD)
    assert polled(fd, 5.0)
    assert here.passes(here.taken(fd, SYNC_FD, temporary=True))


@linux
def test_a_sync_fd_is_refused_where_it_does_not_fit(here: Station) -> None:
    mine = here.semaphore(SYNC_FD)
    here.submit(signal=[mine])
    fd = here.get(mine, SYNC_FD)
    refuses(REFUSED, here.taken, fd, SYNC_FD)  # for good
    refuses(REFUSED, here.taken, fd, SYNC_FD, timeline=True, temporary=True)
    refuses(REFUSED, here.taken, fd, OPAQUE_FD)
    refuses(vk.VK_ERROR_UNKNOWN, here.semaphore, SYNC_FD, timeline=True)
    opaque_fd = here.get(here.semaphore(OPAQUE_FD), OPAQUE_FD)
    refuses(REFUSED, here.taken, opaque_fd, SYNC_FD, temporary=True)


# -- D3D12 ----------------------------------------------------------------------------------------


def test_a_fence_of_d3d12_is_a_timeline(here: Station) -> None:
    with foreign.fence12(3, unique()) as fence:
        mine = here.taken(fence.handle, D3D12_FENCE, timeline=True)
        assert here.value(mine) == 3
        here.signal(mine, 4)
        assert fence.value == 4
        timer = threading.Timer(LATER, fence.signal, (9,))
        timer.start()
        assert here.wait(mine, 9)
        timer.join()
        named = here.taken(0, D3D12_FENCE, name=fence.name, timeline=True)
        here.submit(signal=[(named, 12)])
        assert fence.wait(12, 60.0)


def _values12(wait: list[int], signal: list[int]) -> Any:
    return vk.VkD3D12FenceSubmitInfoKHR(pWaitSemaphoreValues=wait, pSignalSemaphoreValues=signal)


def test_a_fence_of_d3d12_is_a_binary_semaphore_with_values(here: Station) -> None:
    with foreign.fence12() as fence:
        mine = here.taken(fence.handle, D3D12_FENCE)
        done = here.fence()
        here.submit(wait=[mine], signal=[mine], fence=done, chain=_values12([2], [5]))
        fence.signal(1)
        assert not here.over(done, timeout=SHORT)
        fence.signal(2)
        assert here.over(done)
        assert fence.value == 5
        refuses(vk.VK_ERROR_UNKNOWN, here.submit, wait=[mine])  # which value?


def test_vulkan_makes_fences_of_d3d12_of_either_type(here: Station) -> None:
    for makes, takes in ((False, True), (True, False)):
        made = here.semaphore(D3D12_FENCE, timeline=makes)
        other = here.taken(here.get(made, D3D12_FENCE), D3D12_FENCE, timeline=takes)
        here.submit(signal=[(made, 3)], chain=None if makes else _values12([], [3]))
        vk.vkQueueWaitIdle(here.queue)
        if takes:
            assert here.value(other) == 3
        else:
            done = here.fence()
            here.submit(wait=[other], fence=done, chain=_values12([3], []))
            assert here.over(done)


# -- what is wrong --------------------------------------------------------------------------------


@opaque
def test_another_type_of_semaphore_is_refused(here: Station, handle_type: int) -> None:
    for timeline in (False, True):
        mine = here.semaphore(handle_type, timeline=timeline)
        refuses(
            REFUSED, here.taken, here.get(mine, handle_type), handle_type, timeline=not timeline
        )


@by_type
def test_another_device_is_refused(here: Station, handle_type: int) -> None:
    mine = here.semaphore(handle_type, timeline=True)
    with Station(index=1) as far:
        refuses(REFUSED, far.taken, here.get(mine, handle_type), handle_type, timeline=True)


def test_another_handle_type_is_refused(here: Station) -> None:
    for made, taken in ((NT, D3D12_FENCE), (D3D12_FENCE, NT)):
        mine = here.semaphore(made, timeline=True)
        refuses(REFUSED, here.taken, here.get(mine, made), taken, timeline=True)
    number = here.get(here.semaphore(KMT), KMT)
    refuses(REFUSED, here.taken, number, NT)
    refuses(REFUSED, here.taken, number + 4, KMT)
    refuses(REFUSED, here.taken, number | 1 << 32, KMT)
    for bit in (0, 0x80, 3):
        refuses(REFUSED, here.taken, number, bit)
        if bit:
            refuses(vk.VK_ERROR_UNKNOWN, here.semaphore, bit)


def test_a_fence_is_no_semaphore(here: Station) -> None:
    for handle_type in shared_types(fences=True):
        fence = here.fence(handle_type)
        refuses(REFUSED, here.taken, here.get_fence(fence, handle_type), handle_type)


def test_sections_that_are_none(here: Station) -> None:
    for size in (64, 4096, 8192):
        handle = kernel().create_section(size)
        refuses(REFUSED, here.taken, handle, NT)
        kernel().close(handle)
    refuses(REFUSED, here.taken, 0x7FFF_FFF0, NT)
    refuses(REFUSED, here.taken, 0, NT)
    with foreign.texture11(size=4096) as texture:
        refuses(REFUSED, here.taken, texture.handle, NT)


@linux
def test_descriptors_that_are_none(here: Station) -> None:
    if sys.platform != "linux":
        return
    import fcntl

    read, write = os.pipe()
    memfd = os.memfd_create("extmem-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    empty = os.open("/dev/null", os.O_RDWR)
    try:
        for fd in (read, write, empty):
            refuses(REFUSED, here.taken, fd, OPAQUE_FD)
        for size in (0, 4095, 4096):
            os.ftruncate(memfd, size)
            refuses(REFUSED, here.taken, memfd, OPAQUE_FD)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        refuses(REFUSED, here.taken, memfd, OPAQUE_FD)
        refuses(REFUSED, _import_fd, here, here.semaphore(), -1)
        for fd in (write, memfd, empty):
            refuses(REFUSED, here.taken, fd, SYNC_FD, temporary=True)
    finally:
        for each in (read, write, memfd, empty):
            os.close(each)


def test_without_the_extension_nothing_is_shared() -> None:
    with Station(extensions=[]) as bare:
        for each in shared_types():
            refuses(vk.VK_ERROR_UNKNOWN, bare.semaphore, each)


def test_a_timeline_does_not_go_back(here: Station) -> None:
    mine = here.semaphore(NT, timeline=True, value=5)
    refuses(vk.VK_ERROR_UNKNOWN, here.signal, mine, 5)
    assert here.value(mine) == 5


# -- capabilities and provenance ------------------------------------------------------------------


def _asked(here: Station, handle_type: int, timeline: bool) -> tuple[int, int, int]:
    kind = vk.VK_SEMAPHORE_TYPE_TIMELINE if timeline else vk.VK_SEMAPHORE_TYPE_BINARY
    found = vk.vkGetPhysicalDeviceExternalSemaphoreProperties(
        here.physical,
        vk.VkPhysicalDeviceExternalSemaphoreInfo(
            handleType=handle_type, pNext=vk.VkSemaphoreTypeCreateInfo(semaphoreType=kind)
        ),
    )
    return (
        found.externalSemaphoreFeatures,
        found.compatibleHandleTypes,
        found.exportFromImportedHandleTypes,
    )


def test_what_can_be_shared_is_said(here: Station) -> None:
    for handle_type in shared_types():
        for timeline in (False, True):
            assert _asked(here, handle_type, timeline) == (3, handle_type, handle_type)
    on_linux = sys.platform == "linux"
    assert _asked(here, SYNC_FD, False) == ((3, SYNC_FD, SYNC_FD) if on_linux else (0, 0, 0))
    assert _asked(here, SYNC_FD, True) == (0, 0, 0)
    assert _asked(here, 0x80, False) == (0, 0, 0)


@by_type
def test_where_a_handle_comes_from_is_told(here: Station, handle_type: int) -> None:
    driver = EmbeddedDriver()
    mine = here.semaphore(handle_type, timeline=True)
    handle = here.get(mine, handle_type)
    found = driver.sync_origin_of("semaphore", handle_type, handle, None)
    assert found is not None
    assert (found.object, found.types, found.stale) == ("semaphore", handle_type, False)
    assert found.timeline is (None if handle_type == D3D12_FENCE else True)
    fence_type = OPAQUE_FD if handle_type == OPAQUE_FD else NT
    other = driver.sync_origin_of("fence", fence_type, handle if handle_type != KMT else 0x10, None)
    assert other is not None
    assert other.object in ("semaphore", "")
    nothing = driver.sync_origin_of("semaphore", handle_type, 0x7FFF_FFF2, None)
    assert nothing is not None
    assert nothing.types == 0
    if handle_type == KMT:
        here.drop(mine)
        gone = driver.sync_origin_of("semaphore", KMT, handle, None)
        assert gone is not None
        assert gone.types == 0


# -- between processes ----------------------------------------------------------------------------


def _follows(channel: Channel, handle_type: int, turns: int) -> int:
    message, fds = channel.receive()
    with Station() as there:
        handle = fds[0] if fds else message["handle"]
        mine = there.taken(handle, handle_type, timeline=True)
        for fd in fds:
            os.close(fd)
        if handle_type not in (KMT, OPAQUE_FD):
            kernel().close(handle)
        for turn in range(turns):
            assert there.wait(mine, 3 * turn + 1)
            there.signal(mine, 3 * turn + 2)
            there.submit(signal=[(mine, 3 * turn + 3)])
            vk.vkQueueWaitIdle(there.queue)
        return there.value(mine)


def _send(here: Station, other: second.Other, semaphore: Any, handle_type: int) -> None:
    handle = here.get(semaphore, handle_type)
    if handle_type in (OPAQUE_FD, SYNC_FD):
        other.send({}, [handle])
    else:
        other.send({"handle": handle if handle_type == KMT else other.give(handle)})


@by_type
def test_two_processes_count_together(here: Station, handle_type: int) -> None:
    mine = here.semaphore(handle_type, timeline=True)
    with second.start(_follows, timeout=90.0, handle_type=handle_type, turns=5) as other:
        _send(here, other, mine, handle_type)
        for turn in range(5):
            here.signal(mine, 3 * turn + 1)
            assert here.wait(mine, 3 * turn + 3)
        assert other.result() == 15


def _waits_before(channel: Channel, handle_type: int) -> str:
    message, fds = channel.receive()
    with Station() as there:
        handle = fds[0] if fds else message["handle"]
        mine = there.taken(handle, handle_type, temporary=handle_type == SYNC_FD)
        for fd in fds:
            os.close(fd)
        if not fds and handle_type != KMT:
            kernel().close(handle)
        fence = there.fence()
        there.submit(wait=[mine], fence=fence)
        assert not there.over(fence, timeout=SHORT)
        channel.send("waiting")
        assert there.over(fence)
        return "passed"


@pytest.mark.parametrize(
    "handle_type",
    [*(x for x in shared_types() if x != D3D12_FENCE), *([SYNC_FD] if os.name != "nt" else [])],
    ids=name_of,
)
def test_a_queue_waits_for_a_signal_of_another_process(here: Station, handle_type: int) -> None:
    gate, mine = here.semaphore(timeline=True), here.semaphore(handle_type)
    here.submit(wait=[(gate, 1)], signal=[mine])
    with second.start(_waits_before, timeout=90.0, handle_type=handle_type) as other:
        _send(here, other, mine, handle_type)
        assert other.receive()[0] == "waiting"
        here.signal(gate, 1)
        assert other.result() == "passed"


def _owns(channel: Channel, handle_type: int) -> None:
    with Station() as there:
        mine = there.semaphore(handle_type, timeline=True, value=1)
        handle = there.get(mine, handle_type)
        if handle_type == OPAQUE_FD:
            channel.send({}, [handle])
        else:
            channel.send({"handle": handle if handle_type == KMT else channel.give(handle)})
        channel.receive()


def _is_stale(here: Station, semaphore: Any) -> bool:
    try:
        return not here.wait(semaphore, 1)
    except extmem.DriverError as problem:
        return bool(problem.result == vk.VK_ERROR_VALIDATION_FAILED)


@by_type
def test_a_killed_exporter(here: Station, handle_type: int) -> None:
    with second.start(_owns, timeout=90.0, handle_type=handle_type) as other:
        message, fds = other.receive()
        handle = fds[0] if fds else message["handle"]
        mine = here.taken(handle, handle_type, timeline=True)
        other.kill()
        if handle_type == KMT:
            until = time.monotonic() + 30.0  # its kernel notices when it gets to it
            while not _is_stale(here, mine) and time.monotonic() < until:
                time.sleep(0.02)
            refuses(vk.VK_ERROR_VALIDATION_FAILED, here.signal, mine, 2)
            return
        here.signal(mine, 2)
        assert here.value(here.taken(handle, handle_type, timeline=True)) == 2
        for fd in fds:
            os.close(fd)
        if not fds:
            kernel().close(handle)


def _promises(channel: Channel) -> None:
    with Station() as there:
        gate, mine = there.semaphore(timeline=True), there.semaphore(SYNC_FD)
        there.submit(wait=[(gate, 1)], signal=[mine])
        channel.send({}, [there.get(mine, SYNC_FD)])
        channel.receive()


@linux
def test_a_sync_fd_of_who_is_killed_does_not_wait_for_ever(here: Station) -> None:
    with second.start(_promises, timeout=90.0) as other:
        _, (fd,) = other.receive()
        target = here.taken(fd, SYNC_FD, temporary=True)
        os.close(fd)
        other.kill()
        assert here.passes(target)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX' signals")
def test_ctrl_c_ends_a_wait(here: Station) -> None:
    for types in (0, NT):
        mine = here.semaphore(types, timeline=True)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            here.wait(mine, 1)
        timer.join()


def test_a_device_goes_while_its_queue_waits_for_others(here: Station) -> None:
    mine = here.semaphore(NT, timeline=True)
    with Station() as far:
        other = far.taken(here.get(mine, NT), NT, timeline=True)
        far.submit(wait=[(other, 5)])
        start = time.monotonic()
    assert time.monotonic() - start < 5.0
