"""Windows handles between two real processes: each way over, seen from both sides.

The second process is another Python with a device of its own. What is shared is written on each
side and read on the other. On Linux the handles are the directory's, and on the drivers there the
bridge carries them on descriptors. Those cannot be restricted to reading, so what is about that is
for the embedded device.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import extmem
from extmem import DriverError, RuleViolation, Unsupported, vk, win32
from extmem.handles.system import kernel
from extmem.handles.winerror import code_of
from tests.support import second
from tests.support.forms import FORMS, KHR_KMT, KHR_NT, NV_KMT, NV_NT
from tests.support.offers import require_buffers
from tests.support.peers import far
from tests.support.rig import SIZE, Form, Kind, Passport, Rig, pattern, prove_same
from tests.support.second import Channel, Other
from tests.support.strict import driver_cannot

READ, WRITE = win32.DXGI_SHARED_RESOURCE_READ, win32.DXGI_SHARED_RESOURCE_WRITE
VISIBLE, ON_QUEUES = Kind(dedicated=False, host_visible=True), Kind(False, host_visible=False)
NAME_REFUSED = "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-01440"
EVERYONE, NOBODY = "D:(A;;GA;;;WD)", "D:"
READS_AND_WRITES = "D:(A;;GRGW;;;WD)"
DENIED = 5
PAGE_READONLY = 2

nt_forms = pytest.mark.parametrize("form", [KHR_NT, NV_NT], ids=str, indirect=True)
kmt_forms = pytest.mark.parametrize("form", [KHR_KMT, NV_KMT], ids=str, indirect=True)


# What is about handles that grant reading alone.
restrictable = pytest.mark.parametrize("driver", ["embedded"], indirect=True)


@pytest.fixture(params=[KHR_NT], ids=str)
def form(request: pytest.FixtureRequest) -> Form:
    """KHR's NT handles, unless the test says otherwise."""
    return request.param


@pytest.fixture
def offering(driver: str, form: Form) -> str:
    """The driver, if it offers the form."""
    with Rig(driver) as rig:
        _require(rig, form)
    return driver


@pytest.fixture
def rig(offering: str) -> Iterator[Rig]:
    """The exporting device, which offers the form."""
    with Rig(offering) as made:
        yield made


@pytest.fixture
def gpu(driver: str) -> Iterator[extmem.Device]:
    with extmem.open_device(driver=driver) as opened:
        yield opened


def _require(rig: Rig, form: Form) -> None:
    if form.extension not in rig.extensions:
        driver_cannot(f"no {form.extension}")
    if not form.nv:  # which has no query for buffers
        require_buffers(rig, form.bit, VISIBLE)


# -- over there -----------------------------------------------------------------------------------


def import_it(
    channel: Channel, driver: str, form: dict[str, Any], passport: dict[str, Any]
) -> None:
    """Import what the first message says; then write and read until the test has seen enough."""
    with Rig(driver) as rig:
        (handle, name), _ = channel.receive()
        block = rig.import_win32(handle, Passport(**passport), Form(**form), name=name)
        if handle and not Form(**form).kmt:
            win32.CloseHandle(handle)
        _write_and_read(channel, block)


def import_it_with_objects(channel: Channel, driver: str, options: dict[str, Any]) -> None:
    """The same through the objects, which need nothing beside the handle or the name."""
    with extmem.open_device(driver=driver) as gpu:
        handle, _ = channel.receive()
        with gpu.import_memory(handle, **options) as memory:
            _write_and_read(channel, _Bytes(memory))


def _write_and_read(channel: Channel, block: Any) -> None:
    channel.send("imported")
    while True:
        data, _ = channel.receive()
        if data is None:
            return
        if data:
            block.write(bytes.fromhex(data))
        channel.send(block.read().hex())


def export_and_wait(channel: Channel, driver: str, form: dict[str, Any], name: str | None) -> None:
    """Export memory, and be killed."""
    shape = Form(**form)
    with Rig(driver) as rig:
        terms = shape.terms(READ | WRITE, name=name) if name else None
        block = rig.allocate(VISIBLE, export=shape, also=terms)
        block.write(pattern(5))
        handle = block.export_win32(shape)
        there = handle if shape.kmt else channel.give(handle)
        channel.send([there, block.passport.json()])
        channel.receive()


def import_by_name(channel: Channel, driver: str, name: str, passport: dict[str, Any]) -> list[Any]:
    """What importing a name ends with, with checks and without."""
    ends: list[Any] = []
    for checks in ("full", "off"):
        with Rig(driver, checks=checks) as rig:
            try:
                rig.import_win32(None, Passport(**passport), KHR_NT, name=name)
                ends.append("imported")
            except RuleViolation as error:
                ends.append([problem.vuid for problem in error.problems])
            except DriverError as error:
                ends.append(error.result.name)
    return ends


def try_to_write(
    channel: Channel, driver: str, form: dict[str, Any], passport: dict[str, Any]
) -> None:
    """Import a handle that grants reading alone, and try everything that writes."""
    with Rig(driver) as rig:
        handle, _ = channel.receive()
        refusals = []
        try:
            kernel().map_section(handle, 4096, write=True)
        except OSError as error:
            refusals.append(code_of(error))
        here = win32.GetCurrentProcess()
        try:
            win32.DuplicateHandle(here, handle, here, READ | WRITE, False, 0)
        except OSError as error:
            refusals.append(code_of(error))
        block = rig.import_win32(handle, Passport(**passport), Form(**form))
        win32.CloseHandle(handle)
        channel.send(refusals)
        while True:
            command, _ = channel.receive()
            if command is None:
                return
            try:
                answer = getattr(block, command)(*([7] if command == "fill" else []))
                channel.send(answer.hex() if answer else "done")
            except (DriverError, RuleViolation) as error:
                channel.send(type(error).__name__)


def pages_are_writable(view: memoryview) -> bool:
    """Whether the pages behind a view can be written, by the kernel's word."""
    address = ctypes.addressof(view.obj)  # type: ignore[arg-type]
    if sys.platform != "win32":
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, flags = line.split()[:2]
            start, end = (int(each, 16) for each in span.split("-"))
            if start <= address < end:
                return "w" in flags
        raise AssertionError(f"nothing is mapped at {address:#x}")
    query = ctypes.WinDLL("kernel32").VirtualQuery
    query.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    found = (ctypes.c_uint64 * 6)()  # MEMORY_BASIC_INFORMATION; State and Protect share the fifth
    assert query(address, found, ctypes.sizeof(found))
    return int(found[4]) >> 32 != PAGE_READONLY


def map_it(
    channel: Channel, driver: str, form: dict[str, Any], passport: dict[str, Any]
) -> list[Any]:
    """Import a handle that grants reading alone, and try to write into the mapped memory."""
    with Rig(driver) as rig:
        handle, _ = channel.receive()
        block = rig.import_win32(handle, Passport(**passport), Form(**form))
        win32.CloseHandle(handle)
        view = vk.vkMapMemory(rig.device, block.memory, 0, vk.VK_WHOLE_SIZE)
        said = ""
        try:
            view[0] = 0
        except TypeError as error:
            said = str(error)
        start = block.passport.offset
        found = [
            view.readonly,
            said,
            bytes(view[start : start + 4]).hex(),
            pages_are_writable(view),
        ]
        del view
        return found


# -- here -----------------------------------------------------------------------------------------


class _Bytes:
    """Memory of the objects, written and read as the rig's is."""

    def __init__(self, memory: extmem.Memory) -> None:
        self._memory = memory

    def write(self, data: bytes) -> None:
        self._memory.view()[: len(data)] = data

    def read(self) -> bytes:
        return bytes(self._memory.view())


class _There:
    """The memory in the other process, written and read as a rig's is."""

    def __init__(self, other: Other, size: int = SIZE) -> None:
        self._other = other
        self.size = size
        assert other.receive()[0] == "imported"

    def write(self, data: bytes) -> None:
        self._other.send(data.hex())
        assert bytes.fromhex(self._other.receive()[0]) == data

    def read(self) -> bytes:
        self._other.send("")
        return bytes.fromhex(self._other.receive()[0])

    def end(self) -> None:
        self._other.send(None)
        self._other.result()


def _inherited(handle: int) -> dict[str, Any]:
    """What has the second process start with a handle, which was made to be inherited."""
    assert win32.GetHandleInformation(handle) & win32.HANDLE_FLAG_INHERIT
    if sys.platform == "win32":
        return {"inherit": [handle]}
    return {"environment": win32.child_environment()}


# -- each way over, through vk --------------------------------------------------------------------


@nt_forms
def test_by_a_duplicate(rig: Rig, form: Form) -> None:
    exported = rig.allocate(VISIBLE, export=form)
    handle = exported.export_win32(form)
    arguments = {"driver": rig.driver, "form": asdict(form), "passport": exported.passport.json()}
    with second.start(import_it, **arguments) as other:
        other.send([other.give(handle), None])
        there = _There(other)
        win32.CloseHandle(handle)
        prove_same(exported, there)
        there.end()


@nt_forms
def test_by_inheritance(rig: Rig, form: Form) -> None:
    terms = form.terms(READ | WRITE, win32.security_attributes(inherit=True))
    exported = rig.allocate(VISIBLE, export=form, also=terms)
    handle = exported.export_win32(form)
    arguments = {"driver": rig.driver, "form": asdict(form), "passport": exported.passport.json()}
    with second.start(import_it, **_inherited(handle), **arguments) as other:
        win32.CloseHandle(handle)  # theirs has the same number, and is theirs
        other.send([handle, None])
        there = _There(other)
        prove_same(exported, there)
        there.end()


def test_by_name(rig: Rig, name: str) -> None:
    terms = KHR_NT.terms(READ | WRITE, name=name)
    exported = rig.allocate(VISIBLE, export=KHR_NT, also=terms)
    handle = exported.export_win32(KHR_NT)
    arguments = {"driver": rig.driver, "form": asdict(KHR_NT), "passport": exported.passport.json()}
    with second.start(import_it, **arguments) as other:
        other.send([None, name])
        there = _There(other)
        win32.CloseHandle(handle)
        prove_same(exported, there)
        there.end()


@kmt_forms
def test_by_number(rig: Rig, form: Form) -> None:
    exported = rig.allocate(VISIBLE, export=form)
    arguments = {"driver": rig.driver, "form": asdict(form), "passport": exported.passport.json()}
    with second.start(import_it, **arguments) as other:
        other.send([exported.export_win32(form), None])
        there = _There(other)
        prove_same(exported, there)
        there.end()


@pytest.mark.parametrize("form", FORMS, ids=str, indirect=True)
def test_three_instances_in_two_processes(rig: Rig, form: Form) -> None:
    with Rig(rig.driver) as beside, far.rig(rig.driver) as there:
        exported = rig.allocate(VISIBLE, export=form)
        handle = exported.export_win32(form)
        others = [each.import_win32(handle, exported.passport, form) for each in (beside, there)]
        prove_same(exported, *others)
        if not form.kmt:
            win32.CloseHandle(handle)


# -- each way over, through the objects -----------------------------------------------------------


@pytest.mark.parametrize("way", ["duplicate", "inherit", "name", "number"])
def test_with_objects(gpu: extmem.Device, way: str, name: str) -> None:
    export = "opaque_win32_kmt" if way == "number" else "opaque_win32"
    if not (gpu.physical.can_export(export) and gpu.physical.can_import(export)):
        driver_cannot(f"no {export}")
    terms: dict[str, Any] = {}
    if way == "inherit":
        terms["security"] = win32.security_attributes(inherit=True)
    if way == "name":
        terms["name"] = name
    options = {"name": name} if way == "name" else {"handle_type": export}
    with gpu.allocate(SIZE, export=export, **terms) as memory, memory.export() as handle:
        more = _inherited(handle.value) if way == "inherit" else {}
        with second.start(
            import_it_with_objects, **more, driver=gpu.driver, options=options
        ) as other:
            other.send(
                {
                    "duplicate": lambda: other.give(handle.value),
                    "inherit": lambda: handle.value,
                    "name": lambda: None,
                    "number": lambda: handle.value,
                }[way]()
            )
            there, here = _There(other), _Bytes(memory)
            here.write(pattern(1))
            assert there.read() == pattern(1)
            there.write(pattern(2))
            assert here.read() == pattern(2)
            there.end()


# -- lifetimes ------------------------------------------------------------------------------------


@nt_forms
def test_the_exporter_is_freed_first(rig: Rig, form: Form) -> None:
    exported = rig.allocate(VISIBLE, export=form)
    handle = exported.export_win32(form)
    arguments = {"driver": rig.driver, "form": asdict(form), "passport": exported.passport.json()}
    with second.start(import_it, **arguments) as other:
        other.send([other.give(handle), None])
        there = _There(other)
        exported.write(pattern(1))
        exported.free()
        assert there.read() == pattern(1)
        # The handle here still is the same payload.
        again = rig.import_win32(handle, exported.passport, form)
        win32.CloseHandle(handle)
        prove_same(again, there)
        there.end()


@nt_forms
def test_the_exporter_is_killed(rig: Rig, form: Form, name: str) -> None:
    named = None if form.nv else name
    with second.start(export_and_wait, driver=rig.driver, form=asdict(form), name=named) as other:
        (handle, packed), _ = other.receive()
        passport = Passport(**packed)
        imported = rig.import_win32(handle, passport, form)
        imported.write(pattern(6))
        other.kill()
        assert imported.read() == pattern(6)
        again = rig.import_win32(handle, passport, form)  # ours is not the process' that ended
        prove_same(imported, again)
        if named:
            assert kernel().info(handle).handle_count == 1  # its own ended with it
            prove_same(again, rig.import_win32(None, passport, form, name=named))
        win32.CloseHandle(handle)
        if named:
            with pytest.raises(RuleViolation, match=NAME_REFUSED):
                rig.import_win32(None, passport, form, name=named)
        prove_same(imported, again)


@kmt_forms
def test_the_owner_of_a_number_is_killed(rig: Rig, form: Form) -> None:
    with second.start(export_and_wait, driver=rig.driver, form=asdict(form), name=None) as other:
        (number, packed), _ = other.receive()
        passport = Passport(**packed)
        imported = rig.import_win32(number, passport, form)
        assert imported.read() == pattern(5)
        other.kill()
        with pytest.raises((DriverError, RuleViolation)):
            rig.import_win32(number, passport, form)
        with pytest.raises((DriverError, RuleViolation)):
            imported.read()


# -- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptor", "checked", "unchecked"),
    [
        (EVERYONE, "imported", "imported"),
        (READS_AND_WRITES, "imported", "imported"),
        (NOBODY, [NAME_REFUSED], "VK_ERROR_INVALID_EXTERNAL_HANDLE"),
        ("D:(D;;GA;;;WD)(A;;GA;;;WD)", [NAME_REFUSED], "VK_ERROR_INVALID_EXTERNAL_HANDLE"),
    ],
    ids=["everyone", "read_write", "nobody", "denied"],
)
def test_who_may_open_a_name(
    rig: Rig,
    name: str,
    descriptor: str,
    checked: Any,
    unchecked: str,
) -> None:
    terms = KHR_NT.terms(READ | WRITE, win32.security_attributes(descriptor), name)
    exported = rig.allocate(VISIBLE, export=KHR_NT, also=terms)
    handle = exported.export_win32(KHR_NT)
    arguments = {"driver": rig.driver, "passport": exported.passport.json()}
    try:
        # A duplicate needs nobody's leave: it was given by who has a handle.
        with far.rig(rig.driver) as there:
            prove_same(exported, there.import_win32(handle, exported.passport, KHR_NT))
        assert second.run(import_by_name, name=name, **arguments) == [checked, unchecked]
    finally:
        win32.CloseHandle(handle)


# -- reading alone --------------------------------------------------------------------------------


@restrictable
@nt_forms
@pytest.mark.parametrize("narrowed", ["by_export", "by_duplicate"])
def test_a_reader_reads_and_cannot_write(rig: Rig, form: Form, narrowed: str) -> None:
    terms = form.terms(READ if narrowed == "by_export" else READ | WRITE)
    exported = rig.allocate(ON_QUEUES, export=form, also=terms)
    handle = exported.export_win32(form)
    arguments = {"driver": rig.driver, "form": asdict(form), "passport": exported.passport.json()}
    with second.start(try_to_write, **arguments) as other:
        other.send(other.give(handle, READ if narrowed == "by_duplicate" else None))
        win32.CloseHandle(handle)
        # Neither a view that writes, nor a handle that would have one.
        assert other.receive()[0] == [DENIED, DENIED]
        for seed in (1, 2):
            exported.write(pattern(seed))
            other.send("read")
            assert bytes.fromhex(other.receive()[0]) == pattern(seed)
        other.send("fill")
        assert other.receive()[0] in ("DriverError", "DeviceLost", "RuleViolation")
        assert exported.read() == pattern(2)
        other.send(None)
        other.result()


@restrictable
@nt_forms
def test_a_reader_s_mapping_is_read_only(rig: Rig, form: Form) -> None:
    exported = rig.allocate(VISIBLE, export=form, also=form.terms(READ))
    exported.write(pattern(1))
    handle = exported.export_win32(form)
    arguments = {"driver": rig.driver, "form": asdict(form), "passport": exported.passport.json()}
    with second.start(map_it, **arguments) as other:
        other.send(other.give(handle))
        win32.CloseHandle(handle)
        read_only, said, seen, writable = other.result()
    assert read_only
    assert "read-only" in said
    assert bytes.fromhex(seen) == pattern(1)[:4]
    assert not writable  # the kernel's word, not Python's


@restrictable
def test_a_name_for_readers(rig: Rig, name: str) -> None:
    terms = KHR_NT.terms(READ | WRITE, win32.security_attributes("D:(A;;GR;;;WD)"), name)
    exported = rig.allocate(ON_QUEUES, export=KHR_NT, also=terms)
    handle = exported.export_win32(KHR_NT)
    with far.rig(rig.driver) as there:
        imported = there.import_win32(None, exported.passport, KHR_NT, name=name)
        exported.write(pattern(1))
        assert imported.read() == pattern(1)
        with pytest.raises(second.OtherFailed, match="VK_ERROR"):
            imported.fill(7)
        assert exported.read() == pattern(1)
    win32.CloseHandle(handle)


# -- what a driver's descriptor cannot do ---------------------------------------------------------


@pytest.fixture
def bridged(gpu: extmem.Device) -> extmem.Device:
    """A device whose Windows handles stand for its driver's descriptors."""
    if gpu.driver == "embedded":
        driver_cannot("its handles can be restricted to reading")
    if not gpu.physical.can_export("opaque_win32"):
        driver_cannot("no opaque_win32")
    return gpu


def test_a_descriptor_is_not_restricted_to_reading(bridged: extmem.Device, name: str) -> None:
    for named in ({}, {"name": name}):
        with pytest.raises((Unsupported, DriverError)):
            bridged.allocate(SIZE, export="opaque_win32", access="read", **named)
    # The refused one has left no name.
    with bridged.allocate(SIZE, export="opaque_win32", access="write", name=name):
        pass


def test_the_refusal_says_what_cannot_be(bridged: extmem.Device) -> None:
    with pytest.raises(Unsupported, match="reading"):
        bridged.allocate(SIZE, export="opaque_win32", access="read")
