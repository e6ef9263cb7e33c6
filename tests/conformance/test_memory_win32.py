"""Memory as Windows handles: the cases of Vulkan's own conformance tests, for KHR and for NV.

Each case runs for NT handles and KMT numbers, for dedicated and suballocated, host-visible and
device-only memory, and with the importer on the same device, on a device of a second instance, and
in a second process. On Linux the embedded device carries the handles itself, and the bridge carries
them on the drivers' descriptors. What is shared is written on each side and read on the other.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from extmem import DriverError, RuleViolation, vk, win32
from extmem.handles.system import kernel
from tests.support import drivers
from tests.support.forms import KHR_KMT, KHR_NT, NV_KMT, NV_NT
from tests.support.offers import BOTH, require_buffers, require_images
from tests.support.peers import far, importing
from tests.support.rig import BYTES, FORMS, Form, Kind, Rig, pattern, prove_same
from tests.support.strict import driver_cannot

MANY = 4096  # as often as Vulkan's own tests do it
FEW = 256  # for all but one kind of memory and of handle
AT_ONCE = 200
READ, WRITE = win32.DXGI_SHARED_RESOURCE_READ, win32.DXGI_SHARED_RESOURCE_WRITE
OPTIMAL, LINEAR = vk.VK_IMAGE_TILING_OPTIMAL, vk.VK_IMAGE_TILING_LINEAR

IMPORTERS = ["same_device", "second_instance", "second_process"]

ONCE_ONLY = KHR_NT  # to fetch a second handle of one memory is undefined there
nt_forms = pytest.mark.parametrize("form", [KHR_NT, NV_NT], ids=str)
kmt_forms = pytest.mark.parametrize("form", [KHR_KMT, NV_KMT], ids=str)


# To the bridge both lavapipes are the same; the older one has the two-process tests.
DRIVERS = [name for name in drivers.NAMES if name != "lavapipe"]
# Half of the combinations where each takes several times as long, and nothing is bridged.
KINDS = [Kind(dedicated, visible) for dedicated in (True, False) for visible in (True, False)]
KINDS = [KINDS[0], KINDS[3]] if sys.platform == "win32" else KINDS


@pytest.fixture(scope="module", params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Iterator[str]:
    """A driver that the directory carries handles for."""
    found = drivers.find(request.param)
    yield found
    far.stop(found)


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Dedicated or suballocated, host-visible or device-only."""
    return request.param


@pytest.fixture(params=FORMS, ids=str)
def form(request: pytest.FixtureRequest) -> Form:
    """KHR or NV, NT handle or KMT number."""
    return request.param


@pytest.fixture
def rig(rig: Rig, form: Form, kind: Kind) -> Rig:
    if form.extension not in rig.extensions:
        driver_cannot(f"no {form.extension}")
    if not form.nv:  # which has no query for buffers
        require_buffers(rig, form.bit, kind)
    return rig


@pytest.fixture(params=IMPORTERS)
def importer(request: pytest.FixtureRequest, driver: str, rig: Rig) -> Iterator[Any]:
    """The importing device: the exporter's own, one of another instance, one far away."""
    with importing(request.param, driver, rig) as other:
        yield other


@pytest.fixture
def quick(driver: str, rig: Rig) -> Iterator[Rig]:
    """A device without checks, for what is done thousands of times."""
    with Rig(driver, checks="off") as made:
        yield made


@pytest.fixture
def fetch(form: Form) -> Iterator[Callable[[Any], int]]:
    """Get a handle of memory. NT handles are closed when the test ends."""
    fetched: list[int] = []

    def get(exported: Any) -> int:
        handle: int = exported.export_win32(form)
        if not form.kmt:
            fetched.append(handle)
        return handle

    yield get
    for handle in fetched:
        win32.CloseHandle(handle)


def duplicate(handle: int) -> int:
    here = win32.GetCurrentProcess()
    return win32.DuplicateHandle(here, handle, here, 0, False, win32.DUPLICATE_SAME_ACCESS)


# -- many of the same -------------------------------------------------------------------------


def test_import_twice(rig: Rig, form: Form, kind: Kind, importer: Any, fetch: Any) -> None:
    exported = rig.allocate(kind, export=form)
    handle = fetch(exported)
    first = importer.import_win32(handle, exported.passport, form)
    second = importer.import_win32(handle, exported.passport, form)
    prove_same(exported, first, second)
    first.free()
    prove_same(exported, second)


def test_import_multiple_times(rig: Rig, quick: Rig, form: Form, kind: Kind, fetch: Any) -> None:
    many = MANY if (kind, form) == (Kind(True, True), KHR_NT) else FEW
    exported = rig.allocate(kind, export=form)
    exported.write(pattern(1))
    handle = fetch(exported)
    for count in range(many):
        imported = quick.import_win32(handle, exported.passport, form)
        if count % 128 == 0:
            assert imported.read() == pattern(1)
        imported.free()
    assert exported.read() == pattern(1)


def test_import_many_at_once(rig: Rig, form: Form, kind: Kind, fetch: Any) -> None:
    exported = rig.allocate(kind, export=form)
    handle = fetch(exported)
    many = AT_ONCE if kind == Kind(True, True) else AT_ONCE // 8
    held = [rig.import_win32(handle, exported.passport, form) for _ in range(many)]
    held[0].write(pattern(1))
    assert held[-1].read() == pattern(1)
    held[-1].write(pattern(2))
    assert exported.read() == pattern(2)
    for each in held:
        assert each.read(64) == pattern(2)[:64]


@pytest.mark.parametrize("form", [each for each in FORMS if each != ONCE_ONLY], ids=str)
def test_export_multiple_times(quick: Rig, form: Form, kind: Kind) -> None:
    exported = quick.allocate(kind, export=form)
    exported.write(pattern(1))
    number = exported.export_win32(form)
    for _ in range(MANY if kind == Kind(True, True) else FEW):
        handle = exported.export_win32(form)
        if form.kmt:
            assert handle == number
        else:
            win32.CloseHandle(handle)
    if not form.kmt:
        win32.CloseHandle(number)
    assert exported.read() == pattern(1)


# -- how a handle is made ---------------------------------------------------------------------


@nt_forms
@pytest.mark.parametrize("access", [READ | WRITE, win32.GENERIC_ALL], ids=["read_write", "all"])
@pytest.mark.parametrize("attributes", [True, False], ids=["attributes", "defaults"])
def test_create_win32(
    rig: Rig, form: Form, kind: Kind, importer: Any, fetch: Any, access: int, attributes: bool
) -> None:
    """No name, and access flags: the handle grants what reads and writes."""
    given = win32.security_attributes(inherit=True) if attributes else None
    exported = rig.allocate(kind, export=form, also=form.terms(access, given))
    handle = fetch(exported)
    info = kernel().info(handle)
    assert info.name is None
    assert info.access & 0x6 == 0x6  # SECTION_MAP_READ | SECTION_MAP_WRITE
    assert bool(win32.GetHandleInformation(handle) & win32.HANDLE_FLAG_INHERIT) == attributes
    prove_same(exported, importer.import_win32(handle, exported.passport, form))


@pytest.mark.parametrize("form", [KHR_NT], ids=str)
@pytest.mark.parametrize("space", ["Local\\", "Global\\", ""], ids=["local", "global", "plain"])
def test_create_win32_with_a_name(
    rig: Rig, form: Form, kind: Kind, importer: Any, fetch: Any, space: str
) -> None:
    name = f"{space}extmem-test-{secrets.token_hex(8)}"
    exported = rig.allocate(kind, export=form, also=form.terms(READ | WRITE, None, name))
    handle = fetch(exported)
    assert kernel().info(handle).name == (name if space else f"Local\\{name}")
    first = importer.import_win32(None, exported.passport, form, name=name)
    second = importer.import_win32(handle, exported.passport, form)
    prove_same(exported, first, second)


@nt_forms
def test_duplicate(rig: Rig, form: Form, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind, export=form)
    handle = exported.export_win32(form)
    copies = [duplicate(handle) for _ in range(64)]
    assert len({handle, *copies}) == 65
    win32.CloseHandle(handle)
    for copy in copies[1:-1]:
        win32.CloseHandle(copy)
    ends = copies[0], copies[-1]
    imported = [importer.import_win32(copy, exported.passport, form) for copy in ends]
    for copy in ends:
        assert win32.GetHandleInformation(copy) == 0  # an import leaves the handle to its owner
        win32.CloseHandle(copy)
    prove_same(exported, *imported)


# -- lifetimes --------------------------------------------------------------------------------


@nt_forms
def test_exporter_freed_first(rig: Rig, form: Form, kind: Kind, importer: Any, fetch: Any) -> None:
    exported = rig.allocate(kind, export=form)
    exported.write(pattern(1))
    passport, handle = exported.passport, fetch(exported)
    first = importer.import_win32(handle, passport, form)
    exported.free()
    assert first.read() == pattern(1)
    # The handle alone keeps the payload.
    first.write(pattern(2))
    first.free()
    assert importer.import_win32(handle, passport, form).read() == pattern(2)


@nt_forms
def test_an_import_alone_keeps_the_payload(rig: Rig, form: Form, kind: Kind, importer: Any) -> None:
    exported = rig.allocate(kind, export=form)
    exported.write(pattern(1))
    passport, handle = exported.passport, exported.export_win32(form)
    first = importer.import_win32(handle, passport, form)
    second = importer.import_win32(handle, passport, form)
    exported.free()
    win32.CloseHandle(handle)
    assert first.read() == pattern(1)
    prove_same(first, second)


@kmt_forms
def test_a_number_goes_with_its_owner(driver: str, rig: Rig, form: Form, kind: Kind) -> None:
    exported = rig.allocate(kind, export=form)
    passport, number = exported.passport, exported.export_win32(form)
    with Rig(driver) as other:
        imported = other.import_win32(number, passport, form)
        prove_same(exported, imported)
        exported.free()
        with pytest.raises((DriverError, RuleViolation)):
            other.import_win32(number, passport, form)
        # Its pages stay where they are, but nothing can be begun with them. (What the queues of a
        # driver below the bridge do is not seen.)
        if driver != "embedded" and not kind.host_visible:
            return
        with pytest.raises((DriverError, RuleViolation)):
            imported.read()


@nt_forms
def test_contents_survive_a_whole_device(driver: str, rig: Rig, form: Form, kind: Kind) -> None:
    with Rig(driver) as other:
        made = other.allocate(kind, export=form)
        made.write(pattern(4))
        passport, handle = made.passport, made.export_win32(form)
    assert rig.import_win32(handle, passport, form).read() == pattern(4)
    win32.CloseHandle(handle)


def test_filled_on_the_queue(rig: Rig, form: Form, kind: Kind, importer: Any, fetch: Any) -> None:
    exported = rig.allocate(kind, export=form)
    imported = importer.import_win32(fetch(exported), exported.passport, form)
    exported.fill(0x01020304)
    assert imported.read() == bytes.fromhex("04030201") * (exported.size // 4)
    imported.fill(0xA0B0C0D0)
    assert exported.read() == bytes.fromhex("d0c0b0a0") * (exported.size // 4)


# -- buffers and images -----------------------------------------------------------------------


@pytest.mark.parametrize("form", [KHR_NT, KHR_KMT], ids=str)
def test_buffer_info(rig: Rig, form: Form, kind: Kind, fetch: Any) -> None:
    """What the driver says it can do, it can."""
    found = rig.buffer_features(form.bit)
    assert found.compatibleHandleTypes & form.bit
    exported = rig.allocate(kind, export=form)
    prove_same(exported, rig.import_win32(fetch(exported), exported.passport, form))


def test_export_what_was_imported(rig: Rig, form: Form, kind: Kind, fetch: Any) -> None:
    """From one to a second and from there to a third: the same bytes."""
    if form.nv:
        says = rig.image_features_nv(OPTIMAL, form.bit).exportFromImportedHandleTypes
    else:
        says = rig.buffer_features(form.bit).exportFromImportedHandleTypes
    if not says & form.bit:
        driver_cannot(f"what was imported as {form} cannot be exported")
    exported = rig.allocate(kind, export=form)
    chain = form.import_info(fetch(exported)), form.export_info()
    dedicated = vk.VkMemoryDedicatedAllocateInfo(buffer=exported.buffer) if kind.dedicated else None
    again = rig.allocate_memory(exported.passport, *chain, dedicated)
    handle = form.get(rig.device, again)
    third = rig.import_win32(handle, exported.passport, form)
    if not form.kmt:
        win32.CloseHandle(handle)
    vk.vkFreeMemory(rig.device, again)
    prove_same(exported, third)


ORDERS = ["bind_export_import_bind", "export_bind_import_bind", "export_import_bind_bind"]


def _in_order(order: str, exported: Any, fetch: Any, take: Callable[[int], Any]) -> Any:
    """Export and import in between the two binds, as the order says; what was imported."""
    before = order.split("_import")[0]
    if before == "bind_export":
        exported.bind()
    handle = fetch(exported)
    if before == "export_bind":
        exported.bind()
    imported = take(handle)
    if before == "export":
        exported.bind()
    imported.bind()
    return imported


@pytest.mark.parametrize("order", ORDERS)
def test_buffer(rig: Rig, form: Form, kind: Kind, importer: Any, fetch: Any, order: str) -> None:
    exported = rig.allocate(kind, export=form, bind=False)

    def take(handle: int) -> Any:
        return importer.import_win32(handle, exported.passport, form, bind=False)

    prove_same(exported, _in_order(order, exported, fetch, take))


IMAGES = pytest.mark.parametrize("kind", [Kind(True, False), Kind(False, False)], ids=str)


@pytest.fixture(params=[OPTIMAL, LINEAR], ids=["optimal", "linear"])
def tiling(request: pytest.FixtureRequest, rig: Rig, form: Form, kind: Kind) -> Any:
    if form.nv:
        found = rig.image_features_nv(request.param, form.bit).externalMemoryFeatures
        if BOTH & ~found:
            driver_cannot(f"features {found:#x} for images of {form}")
    else:
        require_images(rig, request.param, form.bit, kind)
    return request.param


@IMAGES
def test_image_info(rig: Rig, form: Form, kind: Kind, tiling: Any, fetch: Any) -> None:
    """What the driver says it can do, it can."""
    exported = rig.allocate_image(kind, tiling, export=form)
    imported = rig.import_image_win32(fetch(exported), exported.passport, tiling, form)
    exported.write(pattern(2, BYTES), fresh=True)
    prove_same(exported, imported)


@IMAGES
@pytest.mark.parametrize("order", ORDERS)
def test_image(
    rig: Rig, form: Form, kind: Kind, tiling: Any, importer: Any, fetch: Any, order: str
) -> None:
    exported = rig.allocate_image(kind, tiling, export=form, bind=False)

    def take(handle: int) -> Any:
        return importer.import_image_win32(handle, exported.passport, tiling, form, bind=False)

    imported = _in_order(order, exported, fetch, take)
    exported.write(pattern(9, BYTES), fresh=True)
    assert imported.read() == pattern(9, BYTES)
    prove_same(exported, imported)


@IMAGES
@nt_forms
def test_image_of_an_exporter_freed_first(
    rig: Rig, form: Form, kind: Kind, tiling: Any, importer: Any, fetch: Any
) -> None:
    exported = rig.allocate_image(kind, tiling, export=form)
    exported.write(pattern(3, BYTES), fresh=True)
    passport, handle = exported.passport, fetch(exported)
    exported.free()
    assert importer.import_image_win32(handle, passport, tiling, form).read() == pattern(3, BYTES)


# -- misc -------------------------------------------------------------------------------------


@nt_forms
@pytest.mark.parametrize("which", ["open", "closed", "none"])
def test_zero_handle_memory(rig: Rig, form: Form, kind: Kind, which: str) -> None:
    """An import with handleType 0 is an ordinary allocation; its handle is nobody's business."""
    handle = kernel().create_section(4096)
    if which == "closed":
        win32.CloseHandle(handle)
    off = form.import_info(None if which == "none" else handle)
    off.handleType = 0
    first, second = (rig.allocate(kind, export=0, also=off) for _ in range(2))
    first.write(pattern(1))
    second.write(pattern(2))
    assert first.read() == pattern(1)
    if which != "closed":
        assert kernel().info(handle).handle_count == 1
        win32.CloseHandle(handle)
