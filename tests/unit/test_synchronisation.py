"""Handles of semaphores and fences through `extmem.vk`: who owns what, and what is remembered.

The driver's part is pretended where it is about what a driver may do wrong; SwiftShader's binary
semaphores are real.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from extmem import DriverError, RuleViolation, vk
from extmem.handles import nt_lookup
from extmem.handles.system import kernel
from extmem.vk.queries import Queries
from tests.support import drivers
from tests.support.strict import missing
from tests.support.sync_side import SyncSide, offering

FD, NT, KMT = 1, 2, 4
posix = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")


class Sort(NamedTuple):
    object: str
    copy: int  # SYNC_FD

    @property
    def name(self) -> str:
        return self.object.capitalize()

    def make(self, gpu: SyncSide, types: int = 0x1F) -> Any:
        return gpu.semaphore(types) if self.object == "semaphore" else gpu.fence(types)

    def get(self, gpu: SyncSide, made: Any, handle_type: int) -> int:
        way = "Fd" if handle_type in (FD, self.copy) else "Win32Handle"
        info = getattr(vk, f"Vk{self.name}Get{way}InfoKHR")(
            **{self.object: made, "handleType": handle_type}
        )
        return int(getattr(vk, f"vkGet{self.name}{way}KHR")(gpu.device, info))

    def put(self, gpu: SyncSide, made: Any, handle_type: int, **members: Any) -> Any:
        way = "Fd" if handle_type in (FD, self.copy) else "Win32Handle"
        info = getattr(vk, f"VkImport{self.name}{way}InfoKHR")(
            **{self.object: made, "handleType": handle_type} | members
        )
        getattr(vk, f"vkImport{self.name}{way}KHR")(gpu.device, info)
        return info


@pytest.fixture(params=[Sort("semaphore", 16), Sort("fence", 8)], ids=lambda each: each.object)
def sort(request: pytest.FixtureRequest) -> Sort:
    found: Sort = request.param
    return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncSide]:
    offering(monkeypatch)
    monkeypatch.setattr(Queries, "sync_origin", lambda self, *asked: None)
    with SyncSide() as made:
        yield made


# -- descriptors ----------------------------------------------------------------------------------


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("stands for a payload")
    identity = os.fstat(made).st_ino
    yield made
    try:
        if os.fstat(made).st_ino == identity:
            os.close(made)
    except OSError:
        pass


def importing(result: int, close: bool, seen: list[int]) -> Callable[..., int]:
    def command(device: int, info: Any) -> int:
        seen.append(info.fd)
        if close and info.fd >= 0:
            os.close(info.fd)
        return result

    return command


@posix
@pytest.mark.parametrize("checks", ["full", "off"])
def test_an_import_takes_the_descriptor(gpu: SyncSide, sort: Sort, fd: int, checks: str) -> None:
    gpu.dispatch.checks = checks
    seen: list[int] = []
    gpu.pretend(f"vkImport{sort.name}FdKHR", importing(0, True, seen))
    info = sort.put(gpu, sort.make(gpu) if checks == "full" else 1, FD, fd=fd)
    assert info.fd == fd  # as the caller wrote it
    assert seen[0] != fd  # the driver had another
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    gpu.dispatch.checks = "full"


@posix
@pytest.mark.parametrize("close", [False, True])
def test_a_refused_import_takes_nothing(gpu: SyncSide, sort: Sort, fd: int, close: bool) -> None:
    """Whatever the driver does to its duplicate."""
    seen: list[int] = []
    result = int(vk.VK_ERROR_INVALID_EXTERNAL_HANDLE)
    gpu.pretend(f"vkImport{sort.name}FdKHR", importing(result, close, seen))
    made = sort.make(gpu)
    with pytest.raises(DriverError) as error:
        sort.put(gpu, made, FD, fd=fd)
    assert error.value.result is vk.VK_ERROR_INVALID_EXTERNAL_HANDLE
    os.fstat(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(seen[0])
    assert gpu.facts(made)["payload"].imported == 0


@posix
def test_what_is_signalled_has_no_descriptor(gpu: SyncSide, sort: Sort) -> None:
    seen: list[int] = []
    gpu.pretend(f"vkImport{sort.name}FdKHR", importing(0, True, seen))
    made = sort.make(gpu)
    sort.put(gpu, made, sort.copy, fd=-1, flags=1)
    assert seen == [-1]
    borrowed = gpu.facts(made)["borrowed"]
    assert (borrowed.imported, borrowed.signaled, borrowed.shared) == (sort.copy, True, False)
    gpu.pretend(f"vkGet{sort.name}FdKHR", gives(-1))
    assert sort.get(gpu, made, sort.copy) == -1
    assert gpu.facts(made)["borrowed"] is None  # the fetch took it


def gives(*handles: int) -> Callable[..., int]:
    waiting = list(handles)

    def command(device: int, info: Any, box: Any) -> int:
        box.value = waiting.pop(0)
        return 0

    return command


@posix
def test_fetched_descriptors_are_private(gpu: SyncSide, sort: Sort, fd: int) -> None:
    inherited = os.dup(fd)
    os.set_inheritable(inherited, True)
    gpu.pretend(f"vkGet{sort.name}FdKHR", gives(inherited, -1))
    made = sort.make(gpu)
    try:
        assert sort.get(gpu, made, FD) == inherited
        assert not os.get_inheritable(inherited)
        assert gpu.facts(made)["payload"].shared
        with pytest.raises(DriverError, match="no descriptor"):
            sort.get(gpu, made, FD)
    finally:
        os.close(inherited)


# -- Windows handles ------------------------------------------------------------------------------


def test_an_nt_handle_stays_the_caller_s(gpu: SyncSide, sort: Sort) -> None:
    section = kernel().create_section(4096)
    seen: list[int] = []

    def command(device: int, info: Any) -> int:
        seen.append(info.handle)
        assert kernel().info(info.handle).type_name == "Section"
        return results.pop(0)

    gpu.pretend(f"vkImport{sort.name}Win32HandleKHR", command)
    results = [0, int(vk.VK_ERROR_INVALID_EXTERNAL_HANDLE)]
    made = sort.make(gpu)
    try:
        info = sort.put(gpu, made, NT, handle=section)
        assert info.handle == section
        with pytest.raises(DriverError):
            sort.put(gpu, made, NT, handle=section)
        assert section not in seen
        for copy in seen:
            assert nt_lookup.describe(copy).kind is None
        assert kernel().section_size(section) == 4096
    finally:
        kernel().close(section)


def test_numbers_go_as_they_are(gpu: SyncSide, sort: Sort) -> None:
    seen: list[int] = []

    def command(device: int, info: Any) -> int:
        seen.append(info.handle)
        return 0

    gpu.pretend(f"vkImport{sort.name}Win32HandleKHR", command)
    made = sort.make(gpu)
    sort.put(gpu, made, KMT, handle=0x40000002)
    assert seen == [0x40000002]
    payload = gpu.facts(made)["payload"]
    assert (payload.imported, payload.shared, payload.export) == (KMT, True, None)


def test_a_driver_that_gives_no_handle(gpu: SyncSide, sort: Sort) -> None:
    gpu.pretend(f"vkGet{sort.name}Win32HandleKHR", gives(0))
    with pytest.raises(DriverError, match="no handle"):
        sort.get(gpu, sort.make(gpu), KMT)


# -- how long an import lasts ---------------------------------------------------------------------


def test_a_temporary_payload_ends_with_its_wait(gpu: SyncSide) -> None:
    sort, made = Sort("semaphore", 16), gpu.semaphore()
    gpu.pretend("vkImportSemaphoreWin32HandleKHR")
    gpu.pretend("vkQueueSubmit")
    sort.put(gpu, made, KMT, handle=6, flags=1)
    own = gpu.facts(made)["payload"]
    assert (gpu.facts(made)["borrowed"].imported, own.imported) == (KMT, 0)
    gpu.submit(gpu.info(signals=[made]))
    assert gpu.facts(made)["borrowed"] is not None
    gpu.submit(gpu.info(waits=[made]))
    assert gpu.facts(made)["borrowed"] is None
    assert gpu.facts(made)["payload"] is own
    gpu.world.submitted.finish_all()


def test_a_temporary_payload_of_a_fence_ends_with_its_reset(gpu: SyncSide) -> None:
    sort, made = Sort("fence", 8), gpu.fence()
    gpu.pretend("vkImportFenceWin32HandleKHR")
    sort.put(gpu, made, KMT, handle=6, flags=1)
    assert gpu.facts(made)["borrowed"].imported == KMT
    vk.vkResetFences(gpu.device, 1, [made])
    assert gpu.facts(made)["borrowed"] is None


def test_a_permanent_import_is_another_object(gpu: SyncSide, sort: Sort) -> None:
    made = sort.make(gpu)
    gpu.pretend(f"vkGet{sort.name}Win32HandleKHR", gives(8, 12))
    gpu.pretend(f"vkImport{sort.name}Win32HandleKHR")
    sort.get(gpu, made, NT)
    sort.put(gpu, made, KMT, handle=6)
    assert gpu.facts(made)["fetched"] == set()
    sort.get(gpu, made, NT)  # once again, of another payload


# -- a driver that shares semaphores --------------------------------------------------------------


@pytest.fixture
def swift() -> Iterator[SyncSide]:
    if sys.platform == "win32":
        missing("SwiftShader, which is tested on Linux", installable=False)
    with SyncSide(drivers.find("swiftshader")) as made:
        yield made


def test_descriptors_of_semaphores_are_known(swift: SyncSide) -> None:
    def make(*chain: Any) -> Any:
        return vk.vkCreateSemaphore(swift.device, vk.link(vk.VkSemaphoreCreateInfo(), *chain))

    exported = make(vk.VkExportSemaphoreCreateInfo(handleTypes=FD))
    timeline = vk.VkSemaphoreTypeCreateInfo(semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE)
    with pytest.raises(RuleViolation, match="cannot export a timeline"):  # it would crash
        make(vk.VkExportSemaphoreCreateInfo(handleTypes=FD), timeline)
    sort = Sort("semaphore", 16)
    there = make()
    fd = sort.get(swift, exported, FD)
    try:
        origin = Queries(swift.dispatch).sync_origin("semaphore", FD, fd)
        assert origin is not None
        assert (origin.object, origin.types, origin.timeline) == ("semaphore", FD, False)
        with pytest.raises(RuleViolation, match=r"cannot import into a timeline"):
            sort.put(swift, make(timeline), FD, fd=fd)
        # Another driver's import would succeed, and wait for ever.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Queries, "identity", lambda self: (bytes(16), bytes(16)))
            with pytest.raises(RuleViolation, match="of another device"):
                sort.put(swift, there, FD, fd=fd)
        sort.put(swift, there, FD, fd=fd)
        fd = -1
    finally:
        if fd >= 0:
            os.close(fd)
    # What the exporter allowed travels with what is known of the descriptor.
    payload = swift.facts(there)["payload"]
    assert (payload.imported, payload.export, payload.shared) == (FD, FD, True)
    fence = swift.fence()
    swift.submit(swift.info(signals=[exported], times=None))
    swift.submit(swift.info(waits=[there], times=None), fence=fence)
    done = vk.vkWaitForFences(swift.device, 1, [fence], 1, 10_000_000_000)
    assert done == vk.VK_SUCCESS  # one payload behind two semaphores
