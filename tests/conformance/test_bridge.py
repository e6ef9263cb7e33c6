"""What the bridge asks of the driver below it for semaphores and fences, and when.

The driver is one of a few lines here, which says and does what a case needs and notes what it gets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ctypes import c_int32, c_uint64, c_void_p
from typing import Any

import pytest

from extmem import vk, win32
from extmem.drivers.bridge import Bridge
from extmem.drivers.chains import followers
from extmem.drivers.driver import Command
from extmem.drivers.extensions import enabled, offered
from extmem.handles import posix
from extmem.handles.system import kernel
from extmem.vk import _prototypes as p
from extmem.vk._prototype import Prototype

INSTANCE, PHYSICAL, DEVICE, QUEUE = 1, 2, 3, 4
FD, NT, KMT, SYNC = 1, 2, 4, {"Semaphore": 16, "Fence": 8}
BOTH = 3  # exportable and importable
INVALID = int(vk.VK_ERROR_INVALID_EXTERNAL_HANDLE)

kinds = pytest.mark.parametrize("kind", ["Semaphore", "Fence"])


class Below:
    """A driver with descriptors of semaphores and fences."""

    name = origin = "below"

    def __init__(self, features: dict[str, int], extensions: list[str] | None = None) -> None:
        self.features = features  # of OPAQUE_FD: "Semaphore", "Timeline", "Fence"
        self.extensions = extensions or [
            f"VK_KHR_external_{what}{how}" for what in ("semaphore", "fence") for how in ("", "_fd")
        ]
        self.missing: set[str] = set()  # commands that it has not
        self.result = 0  # of submissions and resets
        self.calls: list[tuple[str, Any]] = []  # what it was asked, in order
        self.imported: list[tuple[int, int]] = []  # flags, and the inode of what came
        self._made = 100

    def carries(self, instance: int, physical: int) -> dict[str, str]:
        return {}

    def global_command(self, prototype: Prototype, spelling: str) -> Command | None:
        return None

    def instance_command(
        self, instance: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        return getattr(self, f"_{spelling}", None)

    def device_command(
        self, instance: int, device: int, prototype: Prototype, spelling: str
    ) -> Command | None:
        if spelling in self.missing:
            return None
        for kind in ("Semaphore", "Fence"):
            if kind in spelling and not spelling.startswith("vkReset"):
                commands: dict[str, Command] = {
                    "vkCreate": self._create,
                    "vkDestroy": self._noted(spelling),
                    "vkGetFdKHR": self._get_fd,
                    "vkImportFdKHR": self._import_fd,
                }
                return commands.get(spelling.replace(kind, ""))
        return self._noted(spelling)

    def _noted(self, spelling: str) -> Command:
        def command(*given: Any) -> int:
            self.calls.append((spelling, given))
            return self.result

        return command

    # -- instances ------------------------------------------------------------------------------

    def _vkEnumerateDeviceExtensionProperties(
        self, physical: int, layer: Any, count: Any, array: Any
    ) -> int:
        if array is None:
            count.value = len(self.extensions)
            return 0
        for index, name in enumerate(self.extensions):
            array[index].extensionName = name
        return 0

    def _vkCreateDevice(self, physical: int, info: Any, allocator: Any, box: Any) -> int:
        self.calls.append(("vkCreateDevice", enabled(info)))
        box.value = DEVICE
        return 0

    def _vkGetPhysicalDeviceExternalSemaphoreProperties(
        self, physical: int, info: Any, found: Any
    ) -> None:
        of_type = [x for x in followers(info) if type(x) is vk.VkSemaphoreTypeCreateInfo]
        kind = "Timeline" if of_type and of_type[0].semaphoreType else "Semaphore"
        assert info.handleType in (FD, SYNC["Semaphore"])
        features = self.features.get(kind, 0) if info.handleType == FD else BOTH
        found.externalSemaphoreFeatures = features

    def _vkGetPhysicalDeviceExternalFenceProperties(
        self, physical: int, info: Any, found: Any
    ) -> None:
        assert info.handleType in (FD, SYNC["Fence"])
        found.externalFenceFeatures = (
            self.features.get("Fence", 0) if info.handleType == FD else BOTH
        )

    # -- devices --------------------------------------------------------------------------------

    def _create(self, device: int, info: Any, allocator: Any, box: Any) -> int:
        self.calls.append(("create", [type(each).__name__ for each in followers(info)]))
        types = [getattr(each, "handleTypes", 0) for each in followers(info)]
        self.calls.append(("types", sum(types)))
        self._made += 1
        box.value = self._made
        return 0

    def _get_fd(self, device: int, info: Any, box: Any) -> int:
        box.value = os.memfd_create("below")
        return 0

    def _import_fd(self, device: int, info: Any) -> int:
        self.imported.append((info.flags, posix.identity(info.fd)[1]))
        os.close(info.fd)
        return 0


class Device:
    """A device on the bridge, with the extensions of one kind."""

    def __init__(self, kind: str, below: Below) -> None:
        self.kind, self.below = kind, below
        self.bridge = Bridge(below)
        self.member = kind.lower()
        extension = f"VK_KHR_external_{self.member}_win32"
        info = vk.VkDeviceCreateInfo(ppEnabledExtensionNames=[extension])
        box = c_void_p()
        create = self.bridge.instance_command(INSTANCE, p.vkCreateDevice, "vkCreateDevice")
        assert create is not None
        self.result = create(PHYSICAL, info, None, box)

    def call(self, spelling: str, *given: Any) -> int:
        prototype = getattr(p, spelling)
        command = self.bridge.device_command(INSTANCE, DEVICE, prototype, spelling)
        assert command is not None
        return int(command(*given) or 0)

    def make(self, types: int) -> int:
        export = getattr(vk, f"VkExport{self.kind}CreateInfo")(handleTypes=types)
        terms = getattr(vk, f"VkExport{self.kind}Win32HandleInfoKHR")(dwAccess=win32.GENERIC_ALL)
        export.pNext = terms if types & NT else None
        box = c_uint64()
        info = getattr(vk, f"Vk{self.kind}CreateInfo")(pNext=export if types else None)
        assert self.call(f"vkCreate{self.kind}", DEVICE, info, None, box) == 0
        return box.value

    def fetch(self, thing: int, handle_type: int) -> int:
        info = getattr(vk, f"Vk{self.kind}GetWin32HandleInfoKHR")(
            **{self.member: thing}, handleType=handle_type
        )
        box = c_void_p()
        result = self.call(f"vkGet{self.kind}Win32HandleKHR", DEVICE, info, box)
        return int(box.value or 0) if result == 0 else result

    def take(self, thing: int, handle: int, flags: int = 0, handle_type: int = NT) -> int:
        info = getattr(vk, f"VkImport{self.kind}Win32HandleInfoKHR")(
            **{self.member: thing}, handleType=handle_type, handle=handle, flags=flags
        )
        return self.call(f"vkImport{self.kind}Win32HandleKHR", DEVICE, info)

    def close(self) -> None:
        self.call("vkDestroyDevice", DEVICE, None)


@pytest.fixture
def device(kind: str) -> Iterator[Device]:
    made = Device(kind, Below({"Semaphore": BOTH, "Timeline": BOTH, "Fence": BOTH}))
    yield made
    made.close()


@pytest.fixture
def closing() -> Iterator[list[int]]:
    handles: list[int] = []
    yield handles
    for each in handles:
        win32.CloseHandle(each)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, []),  # the descriptors are SYNC_FD alone
        ({"Semaphore": BOTH}, ["semaphore"]),
        ({"Timeline": 2}, ["semaphore"]),
        ({"Fence": 1}, ["fence"]),
        ({"Semaphore": BOTH, "Fence": BOTH}, ["semaphore", "fence"]),
    ],
    ids=str,
)
def test_offered_where_opaque_descriptors_are(
    features: dict[str, int], expected: list[str]
) -> None:
    bridge = Bridge(Below(features))
    spelling = "vkEnumerateDeviceExtensionProperties"
    command = bridge.instance_command(INSTANCE, getattr(p, spelling), spelling)
    assert command is not None
    result, found = offered(lambda *rest: command(PHYSICAL, None, *rest))
    assert result == 0
    names = [f"VK_KHR_external_{each}_win32" for each in expected]
    assert [name for name in found if name.endswith("win32")] == names
    carried_by = {name: name.replace("win32", "fd") for name in names}
    assert bridge.carries(INSTANCE, PHYSICAL) == carried_by


def test_what_a_driver_has_itself_is_left_to_it() -> None:
    extension = "VK_KHR_external_semaphore_win32"
    below = Below({"Semaphore": BOTH}, [extension, "VK_KHR_external_semaphore_fd"])
    device = Device("Semaphore", below)
    assert below.calls == [("vkCreateDevice", [extension])]
    device.call("vkDestroySemaphore", DEVICE, 7, None)
    assert device.bridge.carries(INSTANCE, PHYSICAL) == {}


@kinds
def test_the_extension_is_stripped(kind: str, device: Device) -> None:
    extension = f"VK_KHR_external_{device.member}"
    assert device.below.calls == [("vkCreateDevice", [extension, f"{extension}_fd"])]


@kinds
def test_a_driver_without_its_commands_is_refused(kind: str) -> None:
    below = Below({"Semaphore": BOTH, "Fence": BOTH})
    below.missing = {f"vkImport{kind}FdKHR"}
    device = Device(kind, below)
    assert device.result == vk.VK_ERROR_EXTENSION_NOT_PRESENT
    assert [name for name, _ in below.calls] == ["vkCreateDevice", "vkDestroyDevice"]


@kinds
def test_structures_of_windows_stay_here(kind: str, device: Device, closing: list[int]) -> None:
    made = device.make(NT | SYNC[kind])
    assert device.below.calls[-2:] == [
        ("create", [f"VkExport{kind}CreateInfo"]),
        ("types", FD | SYNC[kind]),
    ]
    closing.append(device.fetch(made, NT))
    assert kernel().info(closing[0]).type_name == kind


@kinds
def test_an_import_is_the_same_file_with_the_same_flags(
    kind: str, device: Device, closing: list[int]
) -> None:
    closing.append(device.fetch(device.make(NT), NT))
    number = device.fetch(device.make(KMT), KMT)
    into = device.make(0)
    assert device.take(into, closing[0], flags=1) == 0
    assert device.take(into, closing[0]) == 0
    assert device.take(into, number, handle_type=KMT) == 0
    (first, *_), (second, *_), (third, *_) = device.below.imported
    assert (first, second, third) == (1, 0, 0)
    files = [file for _, file in device.below.imported]
    assert files[0] == files[1] != files[2]


def _submit(waits: list[int]) -> tuple[str, Any]:
    stages = [1] * len(waits)
    array = (vk.VkSubmitInfo * 1)(vk.VkSubmitInfo(pWaitSemaphores=waits, pWaitDstStageMask=stages))
    return "vkQueueSubmit", array


def _submit_2(waits: list[int]) -> tuple[str, Any]:
    infos = [vk.VkSemaphoreSubmitInfo(semaphore=each) for each in waits]
    array = (vk.VkSubmitInfo2 * 1)(vk.VkSubmitInfo2(pWaitSemaphoreInfos=infos))
    return "vkQueueSubmit2", array


def _bind_sparse(waits: list[int]) -> tuple[str, Any]:
    array = (vk.VkBindSparseInfo * 1)(vk.VkBindSparseInfo(pWaitSemaphores=waits))
    return "vkQueueBindSparse", array


@pytest.mark.parametrize("kind", ["Semaphore"])
@pytest.mark.parametrize("form", [_submit, _submit_2, _bind_sparse])
def test_a_wait_ends_what_is_temporary(
    kind: str, form: Callable[[list[int]], tuple[str, Any]], device: Device, closing: list[int]
) -> None:
    theirs, own, other = device.make(NT), device.make(NT), device.make(NT)
    closing += [device.fetch(theirs, NT), device.fetch(own, NT)]
    device.take(own, closing[0], flags=1)

    def follows(expected: int) -> None:
        closing.append(device.fetch(own, NT))
        assert kernel().same_object(closing[-1], expected)

    spelling, array = form([other])
    assert device.call(spelling, QUEUE, 1, array, 0) == 0
    follows(closing[0])
    spelling, array = form([other, own])
    device.below.result = -4
    assert device.call(spelling, QUEUE, 1, array, 0) == -4  # it was not submitted
    device.below.result = 0
    follows(closing[0])
    assert device.call(spelling, QUEUE, 1, array, 0) == 0
    follows(closing[1])
    assert [name for name, _ in device.below.calls].count(spelling) == 3


@pytest.mark.parametrize("kind", ["Fence"])
def test_a_reset_ends_what_is_temporary(kind: str, device: Device, closing: list[int]) -> None:
    theirs, own = device.make(NT), device.make(NT)
    closing += [device.fetch(theirs, NT), device.fetch(own, NT)]
    device.take(own, closing[0], flags=1)
    assert device.call("vkResetFences", DEVICE, 1, (c_uint64 * 1)(theirs)) == 0
    closing.append(device.fetch(own, NT))
    assert kernel().same_object(closing[-1], closing[0])
    assert device.call("vkResetFences", DEVICE, 2, (c_uint64 * 2)(theirs, own)) == 0
    closing.append(device.fetch(own, NT))
    assert kernel().same_object(closing[-1], closing[1])


@kinds
def test_a_copy_ends_what_is_temporary(kind: str, device: Device, closing: list[int]) -> None:
    """To fetch a SYNC_FD is a wait, or a reset; to fetch an OPAQUE_FD is not."""
    theirs, own = device.make(NT), device.make(NT | SYNC[kind])
    closing += [device.fetch(theirs, NT), device.fetch(own, NT)]
    device.take(own, closing[0], flags=1)
    for handle_type, expected in ((FD, closing[0]), (SYNC[kind], closing[1])):
        info = getattr(vk, f"Vk{kind}GetFdInfoKHR")(**{device.member: own}, handleType=handle_type)
        box = c_int32(-1)
        assert device.call(f"vkGet{kind}FdKHR", DEVICE, info, box) == 0
        os.close(box.value)
        closing.append(device.fetch(own, NT))
        assert kernel().same_object(closing[-1], expected)


@kinds
def test_nothing_is_imported_into_what_is_none(
    kind: str, device: Device, closing: list[int]
) -> None:
    closing.append(device.fetch(device.make(NT), NT))
    assert device.take(4711, closing[0]) == INVALID
    assert device.below.imported == []
    assert device.fetch(4711, NT) < 0


@pytest.mark.parametrize("kind", ["Semaphore"])
def test_a_driver_that_only_imports(kind: str, closing: list[int]) -> None:
    other = Device(kind, Below({"Semaphore": BOTH}))
    closing.append(other.fetch(other.make(NT), NT))
    device = Device(kind, Below({"Semaphore": 2}))
    info = vk.VkSemaphoreCreateInfo(pNext=vk.VkExportSemaphoreCreateInfo(handleTypes=NT))
    assert device.call("vkCreateSemaphore", DEVICE, info, None, c_uint64()) < 0
    assert device.take(device.make(0), closing[0]) == 0
    assert len(device.below.imported) == 1
    device.close()
    other.close()
