"""Rules that semaphores and fences have alike, for exporting and importing: broken and kept.

What the device offers and what is behind a handle is pretended here, so that they are met on every
system; on drivers that share semaphores they are met in tests/conformance.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from extmem import vk
from extmem.drivers.driver import SyncOrigin
from extmem.handles.kernel import ACCESS_READ, ACCESS_WRITE
from extmem.handles.system import kernel
from extmem.vk.queries import External, Queries
from tests.support.sync_side import EVERYTHING, SyncSide, offering
from tests.support.win32 import unique_name

FD, NT, KMT = 1, 2, 4
INVALID = (1 << 64) - 1
posix = pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors are POSIX")


class Sort(NamedTuple):
    """Semaphores or fences: how their structures and rules are called."""

    object: str
    copy: int  # SYNC_FD
    rules: dict[str, str]

    @property
    def name(self) -> str:
        return self.object.capitalize()

    def vuid(self, what: str) -> str:
        return f"VUID-{self.rules[what].format(self.name)}"

    def command(self, verb: str, way: str) -> Any:
        return getattr(vk, f"vk{verb}{self.name}{way}KHR")

    def fetching(self, way: str, made: Any, handle_type: int) -> Any:
        way = "Win32Handle" if way == "Win32" else way
        kind = getattr(vk, f"Vk{self.name}Get{way}InfoKHR")
        return kind(**{self.object: made, "handleType": handle_type})

    def importing(self, way: str, made: Any, handle_type: int, **members: Any) -> Any:
        way = "Win32Handle" if way == "Win32" else way
        kind = getattr(vk, f"VkImport{self.name}{way}InfoKHR")
        return kind(**{self.object: made, "handleType": handle_type} | members)

    def make(self, side: SyncSide, types: int = 0) -> Any:
        return side.semaphore(types) if self.object == "semaphore" else side.fence(types)

    def create(self, side: SyncSide, *chain: Any) -> tuple[Any, ...]:
        info = getattr(vk, f"Vk{self.name}CreateInfo")()
        return getattr(vk, f"vkCreate{self.name}"), side.device, vk.link(info, *chain)


SORTS = (
    Sort("semaphore", 16, {
        "export": "VkExport{}CreateInfo-handleTypes-01124",
        "terms": "VkExport{}Win32HandleInfoKHR-handleTypes-01125",
        "get fd": "Vk{}GetFdInfoKHR-handleType-01136",
        "get nt": "Vk{}GetWin32HandleInfoKHR-handleType-01131",
        "announced fd": "Vk{}GetFdInfoKHR-handleType-01132",
        "announced nt": "Vk{}GetWin32HandleInfoKHR-handleType-01126",
        "once": "Vk{}GetWin32HandleInfoKHR-handleType-01127",
        "again fd": "Vk{}GetFdInfoKHR-semaphore-01133",
        "again nt": "Vk{}GetWin32HandleInfoKHR-semaphore-01128",
        "import fd": "VkImport{}FdInfoKHR-handleType-01143",
        "import nt": "VkImport{}Win32HandleInfoKHR-handleType-01140",
        "name": "VkImport{}Win32HandleInfoKHR-handleType-01466",
        "both": "VkImport{}Win32HandleInfoKHR-handle-01469",
        "no name": "VkImport{}Win32HandleInfoKHR-handleType-01467",
        "no handle": "VkImport{}Win32HandleInfoKHR-handleType-01468",
        "handle uuid": "VkImport{}Win32HandleInfoKHR-handle-01542",
        "name uuid": "VkImport{}Win32HandleInfoKHR-name-01543",
        "fd": "VkImport{}FdInfoKHR-fd-01544",
        "copy": "VkImport{}FdInfoKHR-handleType-07307",
    }),
    Sort("fence", 8, {
        "export": "VkExport{}CreateInfo-handleTypes-01446",
        "terms": "VkExport{}Win32HandleInfoKHR-handleTypes-01447",
        "get fd": "Vk{}GetFdInfoKHR-handleType-01456",
        "get nt": "Vk{}GetWin32HandleInfoKHR-handleType-01452",
        "announced fd": "Vk{}GetFdInfoKHR-handleType-01453",
        "announced nt": "Vk{}GetWin32HandleInfoKHR-handleType-01448",
        "once": "Vk{}GetWin32HandleInfoKHR-handleType-01449",
        "again fd": "Vk{}GetFdInfoKHR-fence-01455",
        "again nt": "Vk{}GetWin32HandleInfoKHR-fence-01450",
        "import fd": "VkImport{}FdInfoKHR-handleType-01464",
        "import nt": "VkImport{}Win32HandleInfoKHR-handleType-01457",
        "name": "VkImport{}Win32HandleInfoKHR-handleType-01459",
        "both": "VkImport{}Win32HandleInfoKHR-handle-01462",
        "no name": "VkImport{}Win32HandleInfoKHR-handleType-01460",
        "no handle": "VkImport{}Win32HandleInfoKHR-handleType-01461",
        "handle uuid": "VkImport{}Win32HandleInfoKHR-handle-01539",
        "name uuid": "VkImport{}Win32HandleInfoKHR-name-01540",
        "fd": "VkImport{}FdInfoKHR-fd-01541",
        "copy": "VkImport{}FdInfoKHR-handleType-07306",
    }),
)  # fmt: skip


@pytest.fixture(params=SORTS, ids=lambda each: each.object)
def sort(request: pytest.FixtureRequest) -> Sort:
    found: Sort = request.param
    return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncSide]:
    """A device that is said to offer all handle types, and whose commands for them do nothing."""
    offering(monkeypatch)
    origin(monkeypatch, None)
    with SyncSide() as made:
        for kind in ("Semaphore", "Fence"):
            made.pretend(f"vkImport{kind}FdKHR", takes_it)
            made.pretend(f"vkImport{kind}Win32HandleKHR")
        yield made


def takes_it(device: int, info: Any) -> int:
    """What a driver does with a descriptor that it imports."""
    if info.fd >= 0:
        os.close(info.fd)
    return 0


def origin(patch: pytest.MonkeyPatch, found: SyncOrigin | None) -> None:
    """Pretend that this is known of whatever is imported."""
    patch.setattr(Queries, "sync_origin", lambda self, *asked: found)


def gives(gpu: SyncSide, sort: Sort, way: str, *handles: int) -> None:
    """The fetch gives these, one after the other."""
    waiting = list(handles)

    def fetch(device: int, info: Any, box: Any) -> int:
        box.value = waiting.pop(0)
        return 0

    gpu.pretend(f"vkGet{sort.name}{way}KHR", fetch)


# -- made to be exported --------------------------------------------------------------------------


def exporting(sort: Sort, types: int) -> Any:
    return getattr(vk, f"VkExport{sort.name}CreateInfo")(handleTypes=types)


def test_types_that_can_be_exported(
    gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.pretend(f"vkCreate{sort.name}", lambda device, info, none, box: 0)
    for answer, types in (
        (External(0, 0, 0), FD),
        (External(2, FD, 0), FD),  # importable alone
        (External(3, NT, 0), NT | KMT),
        (External(3, 0, 0), NT | KMT),
    ):
        offering(monkeypatch, answer)
        gpu.breaks(sort.vuid("export"), *sort.create(gpu, exporting(sort, types)))
        sort.create(gpu, exporting(sort, 0))
    offering(monkeypatch, External(3, NT | FD, 0))
    for types in (0, FD, NT | FD):
        create, *arguments = sort.create(gpu, exporting(sort, types))
        create(*arguments)
    gpu.world.objects[f"Vk{sort.name}"].clear()


def test_a_timeline_is_asked_about_as_one(gpu: SyncSide, monkeypatch: pytest.MonkeyPatch) -> None:
    """SwiftShader exports binary semaphores, and dies of fetching a timeline."""
    offering(monkeypatch, EVERYTHING, timeline=External(0, 0, 0))
    sort = SORTS[0]
    timeline = vk.VkSemaphoreTypeCreateInfo(semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE)
    told = gpu.breaks(sort.vuid("export"), *sort.create(gpu, exporting(sort, FD), timeline))
    assert "timeline semaphore" in told
    gpu.pretend("vkCreateSemaphore")
    create, *arguments = sort.create(gpu, exporting(sort, FD))
    create(*arguments)
    gpu.world.objects["VkSemaphore"].clear()


@pytest.mark.parametrize("types", [None, 0, KMT, FD])
def test_terms_are_of_nt_types(gpu: SyncSide, sort: Sort, types: int | None) -> None:
    def terms() -> Any:
        kind = getattr(vk, f"VkExport{sort.name}Win32HandleInfoKHR")
        return kind(dwAccess=ACCESS_READ | ACCESS_WRITE)

    others = [] if types is None else [exporting(sort, types)]
    gpu.breaks(sort.vuid("terms"), *sort.create(gpu, *others, terms()))
    gpu.pretend(f"vkCreate{sort.name}")
    for kept in (NT, 8) if sort.object == "semaphore" else (NT,):
        create, *arguments = sort.create(gpu, exporting(sort, kept), terms())
        create(*arguments)
    gpu.world.objects[f"Vk{sort.name}"].clear()


# -- fetched --------------------------------------------------------------------------------------


def test_fetched_as_a_type_of_its_way(gpu: SyncSide, sort: Sort) -> None:
    made = sort.make(gpu, 0x1F)
    for way, wrong in (("Fd", NT), ("Fd", KMT), ("Win32", FD), ("Win32", sort.copy)):
        command = sort.command("Get", "Win32Handle" if way == "Win32" else "Fd")
        vuid = sort.vuid("get fd" if way == "Fd" else "get nt")
        gpu.breaks(vuid, command, gpu.device, sort.fetching(way, made, wrong))
    gives(gpu, sort, "Win32Handle", 8, 0x40000002)
    fetch = sort.command("Get", "Win32Handle")
    assert fetch(gpu.device, sort.fetching("Win32", made, NT)) == 8
    assert fetch(gpu.device, sort.fetching("Win32", made, KMT)) == 0x40000002


def test_fetched_as_a_type_that_was_announced(gpu: SyncSide, sort: Sort) -> None:
    made = sort.make(gpu, NT)
    fetch = sort.command("Get", "Win32Handle")
    gpu.breaks(sort.vuid("announced nt"), fetch, gpu.device, sort.fetching("Win32", made, KMT))
    told = gpu.breaks(
        sort.vuid("announced fd"),
        sort.command("Get", "Fd"),
        gpu.device,
        sort.fetching("Fd", made, FD),
    )
    assert "exported as opaque_win32" in told
    gives(gpu, sort, "Win32Handle", 8)
    fetch(gpu.device, sort.fetching("Win32", made, NT))


def test_an_nt_handle_is_fetched_once(gpu: SyncSide, sort: Sort) -> None:
    made, other = sort.make(gpu, NT | KMT), sort.make(gpu, NT)
    gives(gpu, sort, "Win32Handle", 8, 12, 6, 6)
    fetch = sort.command("Get", "Win32Handle")
    fetch(gpu.device, sort.fetching("Win32", made, NT))
    gpu.breaks(sort.vuid("once"), fetch, gpu.device, sort.fetching("Win32", made, NT))
    fetch(gpu.device, sort.fetching("Win32", other, NT))
    for _ in range(2):
        assert fetch(gpu.device, sort.fetching("Win32", made, KMT)) == 6


def test_imported_payloads_that_may_travel_on(
    gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sort.make(gpu, NT | FD)
    info = sort.importing("Win32", made, KMT, handle=6)
    sort.command("Import", "Win32Handle")(gpu.device, info)
    offering(monkeypatch, External(3, 0x1F, NT))
    fetch = sort.command("Get", "Win32Handle")
    told = gpu.breaks(sort.vuid("again nt"), fetch, gpu.device, sort.fetching("Win32", made, NT))
    assert "imported as opaque_win32_kmt" in told
    gpu.breaks(
        sort.vuid("again fd"), sort.command("Get", "Fd"), gpu.device, sort.fetching("Fd", made, FD)
    )
    offering(monkeypatch, External(3, 0x1F, NT | KMT))
    gives(gpu, sort, "Win32Handle", 8)
    fetch(gpu.device, sort.fetching("Win32", made, NT))


# -- imported -------------------------------------------------------------------------------------


def test_imported_as_a_type_of_its_way(
    gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sort.make(gpu)
    by_fd, by_handle = sort.command("Import", "Fd"), sort.command("Import", "Win32Handle")
    for wrong in (NT, KMT):
        info = sort.importing("Fd", made, wrong, fd=0)
        gpu.breaks(sort.vuid("import fd"), by_fd, gpu.device, info)
    for wrong in (FD, sort.copy):
        info = sort.importing("Win32", made, wrong, handle=6)
        gpu.breaks(sort.vuid("import nt"), by_handle, gpu.device, info)
    # Several at once are none: no driver knows which is meant.
    for several, said in ((NT | KMT, "several types at once"), (NT | FD, "no Windows handle")):
        info = sort.importing("Win32", made, several, handle=6)
        assert said in gpu.breaks(sort.vuid("import nt"), by_handle, gpu.device, info)
    by_handle(gpu.device, sort.importing("Win32", made, KMT, handle=6))
    offering(monkeypatch, External(1, 0x1F, 0))  # to be exported alone
    info = sort.importing("Win32", made, KMT, handle=6)
    gpu.breaks(sort.vuid("import nt"), by_handle, gpu.device, info)
    info = sort.importing("Fd", made, sort.copy, fd=-1, flags=1)
    gpu.breaks(sort.vuid("import fd"), by_fd, gpu.device, info)


def test_names_are_of_nt_types(gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch) -> None:
    made, by_handle = sort.make(gpu), sort.command("Import", "Win32Handle")
    name = unique_name()
    info = sort.importing("Win32", made, KMT, name=name)
    gpu.breaks(sort.vuid("name"), by_handle, gpu.device, info)
    section = kernel().create_section(4096, name=name)
    try:
        by_handle(gpu.device, sort.importing("Win32", made, NT, name=name))
        info = sort.importing("Win32", made, NT, name=name, handle=section)
        gpu.breaks(sort.vuid("both"), by_handle, gpu.device, info)
        by_handle(gpu.device, sort.importing("Win32", made, NT, handle=section))
    finally:
        kernel().close(section)


def test_names_that_somebody_holds(
    gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, by_handle = sort.make(gpu), sort.command("Import", "Win32Handle")
    name = unique_name()

    def refused(name: str) -> str:
        info = sort.importing("Win32", made, NT, name=name)
        return gpu.breaks(sort.vuid("no name"), by_handle, gpu.device, info)

    for wrong in (name, "", "a\\b"):
        refused(wrong)
    section = kernel().create_section(4096, name=name)
    try:
        by_handle(gpu.device, sort.importing("Win32", made, NT, name=name))
        refused(name.upper())
        other = "fence" if sort.object == "semaphore" else "semaphore"
        origin(monkeypatch, SyncOrigin(object=other, types=NT))
        assert f"is a {other}, not a {sort.object}" in refused(name)
        origin(monkeypatch, SyncOrigin(object="", types=0))
        assert f"no {sort.object} that was shared" in refused(name)
    finally:
        kernel().close(section)


def test_handles_that_are_open(gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch) -> None:
    made, by_handle = sort.make(gpu), sort.command("Import", "Win32Handle")

    def refused(handle_type: int, handle: int | None) -> str:
        info = sort.importing("Win32", made, handle_type, handle=handle)
        return gpu.breaks(sort.vuid("no handle"), by_handle, gpu.device, info)

    section = kernel().create_section(4096)
    try:
        for wrong in (None, INVALID, section + 40000):
            refused(NT, wrong)
        process = kernel().open_process(0x40, False, os.getpid())
        try:
            assert "a handle of a Process" in refused(NT, process)
        finally:
            kernel().close(process)
        by_handle(gpu.device, sort.importing("Win32", made, NT, handle=section))
        assert kernel().info(section).type_name == "Section"  # still ours
        origin(monkeypatch, SyncOrigin(object=sort.object, types=KMT))
        assert "shared as opaque_win32_kmt, not as opaque_win32" in refused(NT, section)
    finally:
        kernel().close(section)
    origin(monkeypatch, SyncOrigin(object=sort.object, types=KMT, stale=True))
    assert "no living" in refused(KMT, 6)
    assert "32 bits" in refused(KMT, 1 << 40)
    refused(KMT, None)
    origin(monkeypatch, SyncOrigin(object=sort.object, types=KMT))
    by_handle(gpu.device, sort.importing("Win32", made, KMT, handle=6))


@posix
def test_descriptors_that_are_none_of_it(
    gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, by_fd = sort.make(gpu), sort.command("Import", "Fd")

    def refused(fd: int, handle_type: int = FD, flags: int = 0) -> str:
        info = sort.importing("Fd", made, handle_type, fd=fd, flags=flags)
        return gpu.breaks(sort.vuid("fd"), by_fd, gpu.device, info)

    for wrong in (-1, -77, 1 << 30):
        refused(wrong)
    refused(-2, sort.copy, 1)
    ends = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    memory = os.memfd_create("stands for a payload")
    try:
        for wrong in (*ends, null):
            refused(wrong)
            refused(wrong, sort.copy, 1)
            os.fstat(wrong)  # still ours
        origin(monkeypatch, SyncOrigin(object="", types=0))
        refused(memory)
        origin(monkeypatch, SyncOrigin(object=sort.object, types=FD))
        by_fd(gpu.device, sort.importing("Fd", made, FD, fd=os.dup(memory)))
    finally:
        for fd in (*ends, null, memory):
            os.close(fd)
    # What was signalled already needs no descriptor.
    by_fd(gpu.device, sort.importing("Fd", made, sort.copy, fd=-1, flags=1))


def test_snapshots_are_for_a_time_only(gpu: SyncSide, sort: Sort) -> None:
    made, by_fd = sort.make(gpu), sort.command("Import", "Fd")
    info = sort.importing("Fd", made, sort.copy, fd=-1)
    gpu.breaks(sort.vuid("copy"), by_fd, gpu.device, info)
    by_fd(gpu.device, sort.importing("Fd", made, sort.copy, fd=-1, flags=1))


def test_device_and_driver_of_the_exporter(
    gpu: SyncSide, sort: Sort, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, by_handle = sort.make(gpu), sort.command("Import", "Win32Handle")
    here = Queries(gpu.dispatch).identity()
    assert here is not None
    name = unique_name()
    section = kernel().create_section(4096, name=name)
    try:
        for device, driver in ((bytes(16), here[1]), (here[0], bytes(16))):
            origin(
                monkeypatch,
                SyncOrigin(object=sort.object, types=0x1F, device=device, driver=driver),
            )
            for members, rule in (
                ({"handle": section}, "handle uuid"),
                ({"name": name}, "name uuid"),
            ):
                info = sort.importing("Win32", made, NT, **members)
                gpu.breaks(sort.vuid(rule), by_handle, gpu.device, info)
        if sys.platform != "win32":
            _descriptors_of_another_device(gpu, sort, made, monkeypatch)
        origin(
            monkeypatch, SyncOrigin(object=sort.object, types=NT, device=here[0], driver=here[1])
        )
        by_handle(gpu.device, sort.importing("Win32", made, NT, handle=section))
        by_handle(gpu.device, sort.importing("Win32", made, NT, name=name))
    finally:
        kernel().close(section)


def _descriptors_of_another_device(
    gpu: SyncSide, sort: Sort, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_fd, fd = sort.command("Import", "Fd"), os.memfd_create("stands for a payload")
    origin(monkeypatch, SyncOrigin(object=sort.object, types=0x1F, device=bytes(16)))
    try:
        gpu.breaks(sort.vuid("fd"), by_fd, gpu.device, sort.importing("Fd", made, FD, fd=fd))
        copied = sort.importing("Fd", made, sort.copy, fd=fd, flags=1)
        by_fd(gpu.device, copied)  # a sync_fd is made to travel, and taken now
        fd = -1
    finally:
        if fd >= 0:
            os.close(fd)
