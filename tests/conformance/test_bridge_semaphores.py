"""Semaphores and fences as Windows handles on drivers that have descriptors alone.

In two processes: a wait that one has submitted ends with the other's signal, and not before. On the
drivers that are there, and on a stand-in: the embedded device without its own Windows handles.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from extmem import DriverError, RuleViolation, vk, win32
from extmem.drivers.bridge import Bridge
from extmem.drivers.driver import Command, Driver
from extmem.drivers.loader import SystemDriver
from extmem.drivers.nv_by_khr import NvByKhr
from extmem.drivers.open import open_driver
from extmem.handles import posix
from extmem.handles.system import directory, kernel
from extmem.vk._prototype import Prototype
from tests.support import drivers
from tests.support.bridged_signals import (
    FENCE,
    KMT,
    NT,
    SEMAPHORE,
    FarSignals,
    SignalRig,
    far_signals,
    registered,
)
from tests.support.strict import driver_cannot
from tests.support.through_c import FD_ONLY, opened_as, through_c

D3D12_FENCE = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT)
OPAQUE_FD = int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_OPAQUE_FD_BIT)
INVALID = int(vk.VK_ERROR_INVALID_EXTERNAL_HANDLE)
READ, WRITE = win32.DXGI_SHARED_RESOURCE_READ, win32.DXGI_SHARED_RESOURCE_WRITE
MOMENT = 0.15  # seconds in which what has to wait would have ended if it did not

NAMES = [FD_ONLY, *(name for name in drivers.NAMES if name != "embedded")]
TYPES = pytest.mark.parametrize("handle_type", [NT, KMT], ids=["nt", "kmt"])
KINDS = {"binary": (SEMAPHORE, False), "timeline": (SEMAPHORE, True), "fence": (FENCE, False)}


@pytest.fixture(scope="module", params=NAMES)
def bridged(request: pytest.FixtureRequest) -> Iterator[str]:
    """A driver that has Windows handles by the bridge alone, if at all."""
    with registered(request.param) as name:
        found = name if name == FD_ONLY else drivers.find(name)
        for _ in range(2):  # what it keeps for good is no leak
            with SignalRig(found) as rig:
                rig.finished(rig.submit())
        yield found


@pytest.fixture(params=["full", "off"], ids=["checked", "unchecked"])
def rig(request: pytest.FixtureRequest, bridged: str) -> Iterator[SignalRig]:
    with SignalRig(bridged, checks=request.param) as made:
        yield made


@pytest.fixture
def bare(bridged: str) -> Iterator[SignalRig]:
    """Without checks: what the bridge itself answers."""
    with SignalRig(bridged, checks="off") as made:
        yield made


@pytest.fixture
def far(bridged: str) -> Iterator[FarSignals]:
    """The same in a second process, if there is anything to be had from it."""
    with SignalRig(bridged) as made:
        if not made.offered & {f"VK_KHR_external_{each}_win32" for each in (SEMAPHORE, FENCE)}:
            driver_cannot("neither semaphores nor fences as handles")
    with far_signals(bridged) as made:
        yield made


@pytest.fixture(params=KINDS)
def what(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """The object, and whether it is a timeline."""
    return KINDS[request.param]


@pytest.fixture
def closing() -> Iterator[list[int]]:
    """Handles that are closed at the end."""
    handles: list[int] = []
    yield handles
    for each in handles:
        win32.CloseHandle(each)


def require(rig: SignalRig, object: str, timeline: bool = False) -> dict[str, Any]:
    """Skip where the driver cannot share that; what `make` needs for one."""
    found = rig.features(object, NT, timeline)
    what = "timeline semaphores" if timeline else f"{object}s"
    features = found.externalFenceFeatures if object == FENCE else found.externalSemaphoreFeatures
    if features != 3:
        driver_cannot(f"features {features:#x} for {what} as handles")
    return {"object": object, "timeline": timeline}


# -- what is offered --------------------------------------------------------------------------


def test_offered_where_descriptors_are(rig: SignalRig, bridged: str) -> None:
    """The extension is there if the driver below shares by OPAQUE_FD, and says what carries it."""
    says = open_driver(bridged).carries(int(rig.instance), int(rig.physical))
    for object in (SEMAPHORE, FENCE):
        extension, carrier = (f"VK_KHR_external_{object}_{how}" for how in ("win32", "fd"))
        shares = any(_features(rig, object, OPAQUE_FD, each) for each in (False, True))
        assert (extension in rig.offered) == shares
        assert says.get(extension) == (carrier if shares else None)
    if "lavapipe" in bridged or "lvp" in bridged:
        assert not any(each.endswith(("semaphore_win32", "fence_win32")) for each in rig.offered)


def _features(rig: SignalRig, object: str, handle_type: int, timeline: bool) -> int:
    found = rig.features(object, handle_type, timeline)
    return int(found.externalFenceFeatures if object == FENCE else found.externalSemaphoreFeatures)


def test_the_question_is_answered_with_what_descriptors_can(
    bare: SignalRig, what: tuple[str, bool]
) -> None:
    object, timeline = what
    below = _features(bare, object, OPAQUE_FD, timeline)
    for handle_type in (NT, KMT):
        found = bare.features(object, handle_type, timeline)
        assert _features(bare, object, handle_type, timeline) == below
        assert found.compatibleHandleTypes == (handle_type if below else 0)
        assert found.exportFromImportedHandleTypes == (handle_type if below & 2 else 0)
    if object == SEMAPHORE:
        found = bare.features(object, D3D12_FENCE, timeline)
        assert found.externalSemaphoreFeatures == 0
        assert found.compatibleHandleTypes == found.exportFromImportedHandleTypes == 0


def test_what_cannot_be_exported_is_not_made(bare: SignalRig, what: tuple[str, bool]) -> None:
    """A driver that says no is not asked: SwiftShader dies of an exported timeline."""
    object, timeline = what
    extension = f"VK_KHR_external_{object}_win32"
    if extension not in bare.offered:
        driver_cannot(f"no {extension}")
    if _features(bare, object, NT, timeline):
        number = bare.make(NT, object=object, timeline=timeline)
        bare.destroy(number)
        return
    with pytest.raises(DriverError, match="VALIDATION_FAILED"):
        bare.make(NT, object=object, timeline=timeline)
    number = bare.make(object=object, timeline=timeline)
    with pytest.raises(DriverError):
        bare.fetch(number, NT)


# -- between processes ------------------------------------------------------------------------


def passed(rig: SignalRig, far: FarSignals, number: int, handle_type: int) -> int:
    """What the other process imports it from. The handle there is its own."""
    handle = rig.fetch(number, handle_type)
    if handle_type == KMT:
        return handle
    given = far.give(handle)
    win32.CloseHandle(handle)
    return given


@TYPES
def test_a_wait_ends_with_the_others_signal(
    rig: SignalRig, far: FarSignals, handle_type: int
) -> None:
    made = require(rig, SEMAPHORE)
    here, there = rig.make(handle_type, **made), far.make()
    handle = passed(rig, far, here, handle_type)
    far.take(there, handle_type, handle)
    fence = far.submit(wait=[there])
    assert not far.finished(fence, MOMENT)
    assert rig.finished(rig.submit(signal=[here]))
    assert far.finished(fence)
    # And the other way round, with the same semaphore.
    fence = rig.submit(wait=[here])
    assert not rig.finished(fence, MOMENT)
    assert far.finished(far.submit(signal=[there]))
    assert rig.finished(fence)
    if handle_type == NT:
        far.close(handle)


def test_by_name(rig: SignalRig, far: FarSignals, closing: list[int]) -> None:
    require(rig, SEMAPHORE)
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    terms = vk.VkExportSemaphoreWin32HandleInfoKHR(name=name, dwAccess=READ | WRITE)
    here, there = rig.make(NT, terms=terms), far.make()
    with pytest.raises((DriverError, RuleViolation, AssertionError)):
        far.take(there, NT, name=name)  # it comes with the first handle
    closing.append(rig.fetch(here, NT))
    assert kernel().info(closing[0]).name == name
    assert kernel().info(closing[0]).type_name == "Semaphore"
    far.take(there, NT, name=name)
    fence = far.submit(wait=[there])
    assert not far.finished(fence, MOMENT)
    rig.finished(rig.submit(signal=[here]))
    assert far.finished(fence)


@TYPES
def test_a_timeline_counts_on_both_sides(rig: SignalRig, far: FarSignals, handle_type: int) -> None:
    made = require(rig, SEMAPHORE, timeline=True)
    here, there = rig.make(handle_type, **made), far.make(timeline=True)
    handle = passed(rig, far, here, handle_type)
    far.take(there, handle_type, handle)
    rig.signal(here, 5)
    assert far.value(there) == 5
    fence = rig.submit(wait=[here], signal=[here], values=[6, 8])
    assert not rig.finished(fence, MOMENT)
    assert not rig.reached(here, 6, 0)
    assert far.finished(far.submit(signal=[there], values=[6]))
    assert rig.finished(fence)
    assert far.reached(there, 8)
    assert rig.value(here) == 8
    if handle_type == NT:
        far.close(handle)


@TYPES
def test_a_fence_is_seen_on_the_other_side(
    rig: SignalRig, far: FarSignals, handle_type: int
) -> None:
    made = require(rig, FENCE)
    here, there = rig.make(handle_type, **made), far.make(object=FENCE)
    handle = passed(rig, far, here, handle_type)
    far.take(there, handle_type, handle)
    assert not far.finished(there, MOMENT)
    rig.submit(fence=here)
    assert far.finished(there)
    assert rig.finished(here)
    far.reset(there)
    assert not rig.finished(here, 0)
    if handle_type == NT:
        far.close(handle)


# -- temporary and permanent ------------------------------------------------------------------


@TYPES
def test_a_temporary_import_ends_with_the_wait(rig: SignalRig, handle_type: int) -> None:
    made = require(rig, SEMAPHORE)
    exported, other = rig.make(handle_type, **made), rig.make(handle_type, **made)
    theirs, own = rig.fetch(exported, handle_type), rig.fetch(other, handle_type)
    rig.take(other, handle_type, theirs, temporary=True)
    fence = rig.submit(signal=[exported])
    assert rig.finished(fence)
    assert rig.finished(rig.submit(wait=[other]))  # theirs
    # Its own payload is back: what a third imports from it is signalled by it.
    third = rig.make()
    rig.take(third, handle_type, own)
    assert rig.finished(rig.submit(signal=[other]))
    assert rig.finished(rig.submit(wait=[third]))
    if handle_type == NT:
        win32.CloseHandle(theirs)
        win32.CloseHandle(own)


def test_what_is_fetched_follows_the_payload(bare: SignalRig, closing: list[int]) -> None:
    """While a temporary payload is there its handle is fetched, and its own again afterwards."""
    made = require(bare, SEMAPHORE)
    exported, other = bare.make(NT, **made), bare.make(NT, **made)
    closing += [bare.fetch(exported, NT), bare.fetch(other, NT)]
    theirs, own = closing
    bare.take(other, NT, theirs, temporary=True)
    closing.append(bare.fetch(other, NT))
    assert kernel().same_object(closing[-1], theirs)
    bare.finished(bare.submit(signal=[exported]))
    bare.finished(bare.submit(wait=[other]))
    closing.append(bare.fetch(other, NT))
    assert kernel().same_object(closing[-1], own)
    bare.take(other, NT, theirs)  # for good
    closing.append(bare.fetch(other, NT))
    assert kernel().same_object(closing[-1], theirs)


def test_a_fences_temporary_import_ends_with_the_reset(bare: SignalRig, closing: list[int]) -> None:
    made = require(bare, FENCE)
    exported, other = bare.make(NT, **made), bare.make(NT, **made)
    closing += [bare.fetch(exported, NT), bare.fetch(other, NT)]
    theirs, own = closing
    bare.take(other, NT, theirs, temporary=True)
    bare.submit(fence=exported)
    assert bare.finished(other)
    bare.reset(other)
    assert not bare.finished(other, 0)
    closing.append(bare.fetch(other, NT))
    assert kernel().same_object(closing[-1], own)
    assert bare.finished(exported)  # that one was not reset


@TYPES
def test_imported_twice_and_again(rig: SignalRig, handle_type: int) -> None:
    made = require(rig, SEMAPHORE)
    exported = rig.make(handle_type, **made)
    handle = rig.fetch(exported, handle_type)
    first, second = rig.make(), rig.make()
    for _ in range(3):
        rig.take(first, handle_type, handle)
    rig.take(second, handle_type, handle)
    rig.finished(rig.submit(signal=[exported]))
    assert rig.finished(rig.submit(wait=[first]))
    rig.finished(rig.submit(signal=[second]))
    assert rig.finished(rig.submit(wait=[exported]))
    if handle_type == NT:
        win32.CloseHandle(handle)


# -- lifetimes --------------------------------------------------------------------------------


def test_a_handle_alone_keeps_the_payload(bridged: str, rig: SignalRig) -> None:
    require(rig, SEMAPHORE)
    with SignalRig(bridged) as other:
        made = other.make(NT)
        handle = other.fetch(made, NT)
        other.finished(other.submit(signal=[made]))
    imported = rig.make()
    rig.take(imported, NT, handle)
    win32.CloseHandle(handle)
    assert rig.finished(rig.submit(wait=[imported]))


def test_a_number_goes_with_its_owner(bridged: str, rig: SignalRig) -> None:
    made = require(rig, SEMAPHORE)
    with SignalRig(bridged, checks="off") as other:
        exported, imported = rig.make(KMT, **made), other.make(KMT, **made)
        number = rig.fetch(exported, KMT)
        assert number % 4 == 2  # never taken for an NT handle
        other.take(imported, KMT, number)
        assert other.fetch(imported, KMT) == number
        rig.destroy(exported)
        with pytest.raises(DriverError, match="VALIDATION_FAILED"):
            other.fetch(imported, KMT)
        late = other.make()
        with pytest.raises(DriverError) as told:
            other.take(late, KMT, number)
        assert told.value.result == INVALID
        # What was imported before goes on: the driver keeps the payload.
        other.finished(other.submit(signal=[imported]))
        assert other.finished(other.submit(wait=[imported]))


def test_a_number_goes_with_its_payload(bare: SignalRig, closing: list[int]) -> None:
    """Who exported a number, and then is given another payload for good, exports it no more."""
    made = require(bare, SEMAPHORE)
    exported, other = bare.make(KMT, **made), bare.make(NT, **made)
    number = bare.fetch(exported, KMT)
    closing.append(bare.fetch(other, NT))
    bare.take(exported, NT, closing[0])
    with pytest.raises(DriverError) as told:
        bare.take(bare.make(), KMT, number)
    assert told.value.result == INVALID
    with pytest.raises(DriverError):
        bare.fetch(exported, KMT)


@pytest.mark.parametrize("export", [0, NT], ids=["private", "exportable"])
def test_what_was_imported_is_exported_again(
    bare: SignalRig, far: FarSignals, closing: list[int], export: int
) -> None:
    """From one to a second and from there to a third, in another process."""
    made = require(bare, SEMAPHORE)
    first, second = bare.make(NT, **made), bare.make(export, **made)
    closing.append(bare.fetch(first, NT))
    bare.take(second, NT, closing[0])
    again = bare.fetch(second, NT)
    assert bool(export) == kernel().same_object(closing[0], again)
    third, handle = far.make(), far.give(again)
    win32.CloseHandle(again)
    bare.destroy(second)
    far.take(third, NT, handle)
    far.close(handle)
    fence = far.submit(wait=[third])
    assert not far.finished(fence, MOMENT)
    bare.finished(bare.submit(signal=[first]))
    assert far.finished(fence)


def test_an_import_keeps_no_name(bare: SignalRig) -> None:
    made = require(bare, SEMAPHORE)
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    terms = vk.VkExportSemaphoreWin32HandleInfoKHR(name=name, dwAccess=win32.GENERIC_ALL)
    exported, imported = bare.make(NT, terms=terms), bare.make(**made)
    handle = bare.fetch(exported, NT)
    bare.take(imported, NT, name=name)
    win32.CloseHandle(handle)
    with pytest.raises(DriverError):
        bare.take(bare.make(), NT, name=name)


# -- how a handle is made ---------------------------------------------------------------------


def test_terms_are_copied_when_it_is_made(rig: SignalRig, closing: list[int]) -> None:
    require(rig, SEMAPHORE)
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    attributes = win32.security_attributes("D:(A;;GA;;;WD)", inherit=True)
    terms = vk.VkExportSemaphoreWin32HandleInfoKHR(
        pAttributes=attributes, name=name, dwAccess=win32.GENERIC_ALL
    )
    made = rig.make(NT, terms=terms)
    attributes.bInheritHandle = False
    attributes.lpSecurityDescriptor = None
    terms.name = "Local\\another"
    terms.pAttributes = None
    closing.append(rig.fetch(made, NT))
    assert win32.GetHandleInformation(closing[0]) & win32.HANDLE_FLAG_INHERIT
    assert kernel().info(closing[0]).name == name


def test_nobody_is_given_less_than_all(bare: SignalRig) -> None:
    require(bare, SEMAPHORE)
    terms = vk.VkExportSemaphoreWin32HandleInfoKHR(dwAccess=READ)
    with pytest.raises(DriverError):
        bare.make(NT, terms=terms)


def test_both_types_at_once_are_refused(bare: SignalRig) -> None:
    require(bare, SEMAPHORE)
    with pytest.raises(DriverError):
        bare.make(NT | KMT)
    with pytest.raises(DriverError):
        bare.make(D3D12_FENCE)


def test_a_taken_name_leaves_nothing_behind(bare: SignalRig, closing: list[int]) -> None:
    require(bare, SEMAPHORE)
    name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    closing.append(kernel().create_section(4096, name=name))  # one namespace for all kinds
    terms = vk.VkExportSemaphoreWin32HandleInfoKHR(name=name, dwAccess=win32.GENERIC_ALL)
    made = bare.make(NT, terms=terms)
    before = kernel().count_handles()
    with pytest.raises(DriverError):
        bare.fetch(made, NT)
    assert kernel().count_handles() == before
    win32.CloseHandle(closing.pop())
    closing.append(bare.fetch(made, NT))  # the name is free now


# -- what is none -----------------------------------------------------------------------------


def strangers(rig: SignalRig, far: FarSignals, closing: list[int]) -> dict[str, dict[str, Any]]:
    """What cannot be imported as a semaphore, by what it is."""

    def fetched(handle_type: int, **made: Any) -> int:
        handle = rig.fetch(rig.make(handle_type, **made), handle_type)
        closing.extend([handle] if handle_type == NT else [])
        return handle

    here = kernel()
    section = here.create_section(4096, name=f"Local\\extmem-test-{secrets.token_hex(8)}")
    closing.append(section)
    closed = here.create_section(4096)
    here.close(closed)
    found: dict[str, dict[str, Any]] = {
        "a handle of a section": {"handle": section},
        "a section's name": {"name": here.info(section).name},
        "a closed handle": {"handle": closed},
        "another process' value": {"handle": far.give(fetched(NT))},
        "this process": {"handle": (1 << 64) - 1},
        "nothing": {"handle": 0},
        "a name that nobody has": {"name": f"Local\\extmem-test-{secrets.token_hex(8)}"},
        "a number that nobody has": {"handle": 6, "handle_type": KMT},
        "a handle as a number": {"handle": section, "handle_type": KMT},
        "a number as a handle": {"handle": fetched(KMT)},
        "a type that is not carried": {"handle": section, "handle_type": D3D12_FENCE},
    }
    if "VK_KHR_external_fence_win32" in rig.offered:
        found["a fence"] = {"handle": fetched(NT, object=FENCE)}
        found["a fence's number"] = {"handle": fetched(KMT, object=FENCE), "handle_type": KMT}
    if _features(rig, SEMAPHORE, NT, timeline=True):
        found["a timeline"] = {"handle": fetched(NT, timeline=True)}
    if "VK_KHR_external_memory_win32" in rig.offered:
        closing.append(_memory(rig))
        found["a handle of memory"] = {"handle": closing[-1]}
    return found


def _memory(rig: SignalRig) -> int:
    """A handle of memory that was freed since."""
    types = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT
    export = vk.VkExportMemoryAllocateInfo(handleTypes=types)
    info = vk.VkMemoryAllocateInfo(allocationSize=4096, memoryTypeIndex=0, pNext=export)
    memory = vk.vkAllocateMemory(rig.device, info)
    asked = vk.VkMemoryGetWin32HandleInfoKHR(memory=memory, handleType=types)
    handle = vk.vkGetMemoryWin32HandleKHR(rig.device, asked)
    vk.vkFreeMemory(rig.device, memory)
    return handle


def test_strangers_are_refused_before_the_driver(
    bare: SignalRig, far: FarSignals, closing: list[int]
) -> None:
    """Each with the code for it; the semaphore that they were to go into is as it was."""
    require(bare, SEMAPHORE)
    found = strangers(bare, far, closing)
    into, peer = bare.make(NT), bare.make()
    closing.append(bare.fetch(into, NT))
    bare.take(peer, NT, closing[-1])
    for label, how in found.items():
        with pytest.raises(DriverError) as told:
            bare.take(into, **{"handle_type": NT, **how})
        assert told.value.result == INVALID, label
    bare.finished(bare.submit(signal=[into]))
    assert bare.finished(bare.submit(wait=[peer]))
    far.close(found["another process' value"]["handle"])


def test_a_passport_alone_is_not_believed(bare: SignalRig, closing: list[int]) -> None:
    """A peer that lays a semaphore's passport beside something else."""
    require(bare, SEMAPHORE)
    exported = bare.make(NT)
    closing.append(bare.fetch(exported, NT))
    passport = directory().passport(closing[0])
    short, null = os.memfd_create("short"), os.open("/dev/null", os.O_RDWR)
    try:
        for fd in (short, null):
            closing.append(directory().share(fd, "Semaphore", passport=passport))
            with pytest.raises(DriverError) as told:
                bare.take(bare.make(), NT, closing[-1])
            assert told.value.result == INVALID
    finally:
        os.close(short)
        os.close(null)


def test_what_came_by_a_descriptor_has_no_handle(bare: SignalRig, closing: list[int]) -> None:
    """The payload that it had was exported; the one that took its place was not."""
    require(bare, SEMAPHORE)
    exported, into = bare.make(OPAQUE_FD), bare.make(NT)
    closing.append(bare.fetch(into, NT))
    asked = vk.VkSemaphoreGetFdInfoKHR(semaphore=bare.handle_of(exported), handleType=OPAQUE_FD)
    fd = vk.vkGetSemaphoreFdKHR(bare.device, asked)
    given = vk.VkImportSemaphoreFdInfoKHR(
        semaphore=bare.handle_of(into), handleType=OPAQUE_FD, fd=fd
    )
    vk.vkImportSemaphoreFdKHR(bare.device, given)
    with pytest.raises(DriverError):
        bare.fetch(into, NT)
    bare.finished(bare.submit(signal=[exported]))
    assert bare.finished(bare.submit(wait=[into]))


@pytest.mark.parametrize("closes", [True, False], ids=["closes", "keeps"])
def test_what_a_driver_refuses_is_given_back(
    bridged: str, closing: list[int], closes: bool
) -> None:
    """After a failure nothing is left of the descriptor, whether the driver closed it or not."""

    def refuse(device: int, info: Any) -> int:
        given.append(info.fd)
        if closes:
            os.close(info.fd)
        return INVALID

    given: list[int] = []
    below: Driver = through_c() if bridged == FD_ONLY else SystemDriver(bridged)
    bridge = NvByKhr(Bridge(Changed(below, {"vkImportSemaphoreFdKHR": refuse})))
    with opened_as("changed", bridge), SignalRig("changed", checks="off") as rig:
        require(rig, SEMAPHORE)
        exported, imported = rig.make(NT), rig.make(NT)
        closing.append(rig.fetch(exported, NT))
        handles = kernel().count_handles()
        for into in (imported, rig.make()):
            with pytest.raises(DriverError) as told:
                rig.take(into, NT, closing[0])
            assert told.value.result == INVALID
        assert kernel().count_handles() == handles
        assert len(given) == 2
        for fd in given:
            assert not posix.is_open(fd)
        closing.append(rig.fetch(imported, NT))  # its own payload is there still
        assert not kernel().same_object(*closing)


class Changed:
    """A driver some of whose commands are others."""

    def __init__(self, below: Driver, commands: dict[str, Command]) -> None:
        self._below = below
        self._commands = commands

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        found = self._below.device_command(instance, device, prototype, spelling)
        return self._commands.get(spelling, found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


def test_checks_tell_why(rig: SignalRig) -> None:
    """With checks the same is a broken rule."""
    require(rig, SEMAPHORE)
    section = kernel().create_section(4096)
    try:
        with pytest.raises((RuleViolation, DriverError)):
            rig.take(rig.make(), NT, section)
    finally:
        win32.CloseHandle(section)


# -- what rules ask ---------------------------------------------------------------------------


def test_the_origin_is_known(
    bridged: str, bare: SignalRig, closing: list[int], what: tuple[str, bool]
) -> None:
    object, timeline = what
    made = require(bare, object, timeline)
    driver: Any = open_driver(bridged)
    nt, kmt = bare.make(NT, **made), bare.make(KMT, **made)
    closing.append(bare.fetch(nt, NT))
    number = bare.fetch(kmt, KMT)
    for handle_type, handle in ((NT, closing[0]), (KMT, number)):
        origin = driver.sync_origin_of(object, handle_type, handle, None)
        assert (origin.object, origin.types) == (object, handle_type)
        assert origin.timeline == (timeline if object == SEMAPHORE else None)
        assert origin.flags == 0
        assert (len(origin.device), len(origin.driver)) == (16, 16)
    other = FENCE if object == SEMAPHORE else SEMAPHORE
    assert driver.sync_origin_of(other, NT, closing[0], None).object == object
    assert driver.sync_origin_of(other, KMT, number, None).object == ""  # numbers have a kind
    assert driver.sync_origin_of(object, NT, 0, "Local\\nobody").types == 0
    assert driver.sync_origin_of(object, NT, 4, None).types == 0
    assert driver.sync_origin_of(object, OPAQUE_FD, 0, None) is None
    bare.destroy(kmt)
    assert driver.sync_origin_of(object, KMT, number, None).types == 0
