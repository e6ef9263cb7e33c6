"""Both Win32 extensions on the embedded device, for the tests that go through their pages.

    with opened() as (here, there):
        shared = here.export(NT)
        copy = there.take(Source(NT, here.get(shared, NT)))
        prove_same(shared, copy)

A `Side` is an instance with one device. What it makes and fetches is freed and closed by the end of
the `with`, unless a test does it before. A `Far` is a side in a second process, where the system
has handles that pass between processes.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import pytest

from extmem import DriverError, RuleViolation, vk, win32
from extmem.drivers.embedded import foreign
from extmem.handles import winerror
from extmem.handles.system import kernel
from tests.support import second
from tests.support.second import Channel, Other

__all__ = [
    "BAD_HANDLES",
    "EXTENSIONS",
    "HEAP12",
    "IMAGE11_KMT_NV",
    "IMAGE11_NV",
    "KMT",
    "KMT_NV",
    "NT",
    "NT_NV",
    "PLACES",
    "REFUSED",
    "RESOURCE12",
    "SIZE",
    "TEXTURE11",
    "TEXTURE11_KMT",
    "VISIBLE",
    "Block",
    "Side",
    "Source",
    "breaks",
    "fails",
    "importing",
    "is_nt",
    "is_open",
    "no_handle",
    "opened",
    "prove_same",
    "refused",
    "second_process",
    "shared",
    "unique_name",
]

NT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT)
KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT)
TEXTURE11 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)
TEXTURE11_KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT)
HEAP12 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_HEAP_BIT)
RESOURCE12 = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D12_RESOURCE_BIT)
NT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_BIT_NV)
KMT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_WIN32_KMT_BIT_NV)
IMAGE11_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV)
IMAGE11_KMT_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_KMT_BIT_NV)

REFUSED = vk.VK_ERROR_INVALID_EXTERNAL_HANDLE

SIDE = 32  # texels of an image's edge
SIZE = SIDE * SIDE * 4  # bytes of memory, and of an image in it
VISIBLE = 1  # the memory type that is host-visible and coherent

EXTENSIONS = (
    "VK_KHR_external_memory_win32",
    "VK_NV_external_memory",
    "VK_NV_external_memory_win32",
    "VK_NV_dedicated_allocation",
)

_BUFFER_USAGE = vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
_IMAGE_USAGE = vk.VK_IMAGE_USAGE_TRANSFER_SRC_BIT | vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT

# Types whose memory belongs to one resource, which the tests take to be an image.
_OF_AN_IMAGE = TEXTURE11 | TEXTURE11_KMT | RESOURCE12
_OF_AN_IMAGE_NV = IMAGE11_NV | IMAGE11_KMT_NV


def is_nt(type: int, nv: bool = False) -> bool:
    """Whether handles of a type are NT handles, with an owner; the others are numbers."""
    return not type & ((KMT_NV | IMAGE11_KMT_NV) if nv else (KMT | TEXTURE11_KMT))


def is_open(handle: int) -> bool:
    """Whether a number stands for an open handle of this process."""
    try:
        win32.GetHandleInformation(handle)
    except OSError as problem:
        if winerror.code_of(problem) != winerror.INVALID_HANDLE:
            raise
        return False
    return True


@dataclass(frozen=True)
class Source:
    """What there is to import, and what its importer has to say of it."""

    type: int
    handle: int | None = None
    name: str | None = None
    nv: bool = False
    size: int = SIZE
    index: int = VISIBLE

    def info(self, **changes: Any) -> Any:
        """The structure that imports it, with other values for some of its members."""
        members: dict[str, Any] = {"handleType": self.type, "handle": self.handle}
        if self.nv:
            return vk.VkImportMemoryWin32HandleInfoNV(**members | changes)
        return vk.VkImportMemoryWin32HandleInfoKHR(**members | {"name": self.name} | changes)


class Side:
    """An instance with one device. `beside` another: a device of the same instance."""

    def __init__(
        self,
        *,
        checks: str = "full",
        index: int = 0,
        extensions: tuple[str, ...] = EXTENSIONS,
        beside: Side | None = None,
    ) -> None:
        self._undo = ExitStack()
        self._blocks: list[Block] = []
        self._handles: list[int] = []
        if beside is not None:
            self.instance: vk.VkInstance = beside.instance
        else:
            application = vk.VkInstanceCreateInfo(
                pApplicationInfo=vk.VkApplicationInfo(apiVersion=vk.VK_API_VERSION_1_3),
                ppEnabledExtensionNames=["VK_NV_external_memory_capabilities"],
            )
            self.instance = vk.vkCreateInstance(application, driver="embedded", checks=checks)
            self._undo.callback(vk.vkDestroyInstance, self.instance)
        with ExitStack() as on_failure:
            on_failure.callback(self._undo.close)
            self.physical = vk.vkEnumeratePhysicalDevices(self.instance)[index]
            queue = vk.VkDeviceQueueCreateInfo(queueFamilyIndex=0, pQueuePriorities=[1.0])
            info = vk.VkDeviceCreateInfo(
                pQueueCreateInfos=[queue], ppEnabledExtensionNames=list(extensions)
            )
            self.device = vk.vkCreateDevice(self.physical, info)
            self._undo.callback(vk.vkDestroyDevice, self.device)
            on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for block in reversed(self._blocks[:]):
            block.free()
        self.close(*self._handles)
        self._undo.close()

    # -- memory

    def allocate(self, *chain: Any, size: int = SIZE, index: int = VISIBLE) -> Block:
        """Memory with these structures behind its VkMemoryAllocateInfo."""
        return Block(
            self, vk.vkAllocateMemory(self.device, self.asking(*chain, size=size, index=index))
        )

    @staticmethod
    def asking(*chain: Any, size: int = SIZE, index: int = VISIBLE) -> Any:
        """A VkMemoryAllocateInfo with these structures behind it."""
        return vk.link(vk.VkMemoryAllocateInfo(allocationSize=size, memoryTypeIndex=index), *chain)

    def export(self, types: int = NT, *chain: Any, **members: int) -> Block:
        return self.allocate(vk.VkExportMemoryAllocateInfo(handleTypes=types), *chain, **members)

    def export_nv(self, types: int = NT_NV, *chain: Any, **members: int) -> Block:
        return self.allocate(vk.VkExportMemoryAllocateInfoNV(handleTypes=types), *chain, **members)

    def export_as(self, type: int, nv: bool) -> Block:
        return self.export_nv(type) if nv else self.export(type)

    def take(self, source: Source) -> Block:
        """Import, dedicated to an image where the type demands it."""
        if not source.type & (_OF_AN_IMAGE_NV if source.nv else _OF_AN_IMAGE):
            return self.allocate(source.info(), size=source.size, index=source.index)
        image = self.image(source.type, source.nv, opted_in=source.nv)
        kind = (
            vk.VkDedicatedAllocationMemoryAllocateInfoNV
            if source.nv
            else vk.VkMemoryDedicatedAllocateInfo
        )
        try:
            block = self.allocate(
                source.info(), kind(image=image), size=source.size, index=source.index
            )
        except BaseException:
            vk.vkDestroyImage(self.device, image)
            raise
        block.image = image
        vk.vkBindImageMemory(self.device, image, block.memory, 0)
        return block

    # -- handles

    def get(self, block: Block, type: int = NT, nv: bool = False) -> int:
        """A handle, closed with this side if it is an NT handle and nobody closed it before."""
        if nv:
            handle = vk.vkGetMemoryWin32HandleNV(self.device, block.memory, type)
        else:
            info = vk.VkMemoryGetWin32HandleInfoKHR(memory=block.memory, handleType=type)
            handle = vk.vkGetMemoryWin32HandleKHR(self.device, info)
        if is_nt(type, nv):
            self._handles.append(handle)
        return handle

    def get_nv(self, block: Block, type: int = NT_NV) -> int:
        return self.get(block, type, nv=True)

    def duplicate(self, handle: int, access: int | None = None) -> int:
        """DuplicateHandle within this process; closed as those that were fetched are."""
        here = win32.GetCurrentProcess()
        options = win32.DUPLICATE_SAME_ACCESS if access is None else 0
        copy = win32.DuplicateHandle(here, handle, here, access or 0, False, options)
        self._handles.append(copy)
        return copy

    def close(self, *handles: int) -> None:
        for handle in handles:
            self._handles = [each for each in self._handles if each != handle]
            win32.CloseHandle(handle)

    def properties(self, type: int, handle: Any) -> int:
        """vkGetMemoryWin32HandlePropertiesKHR: a mask of memory types."""
        found = vk.vkGetMemoryWin32HandlePropertiesKHR(self.device, type, handle)
        return int(found.memoryTypeBits)

    # -- resources

    def image(self, types: int = 0, nv: bool = False, *, opted_in: bool = False) -> Any:
        """An image that fills SIZE bytes; `opted_in` to NV's dedicated allocations."""
        kind = vk.VkExternalMemoryImageCreateInfoNV if nv else vk.VkExternalMemoryImageCreateInfo
        info = vk.VkImageCreateInfo(
            imageType=vk.VK_IMAGE_TYPE_2D,
            format=vk.VK_FORMAT_R8G8B8A8_UNORM,
            extent=(SIDE, SIDE, 1),
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            usage=_IMAGE_USAGE,
            pNext=kind(handleTypes=types) if types else None,
        )
        if opted_in:
            vk.link(info, vk.VkDedicatedAllocationImageCreateInfoNV(dedicatedAllocation=1))
        return vk.vkCreateImage(self.device, info)


class Block:
    """Host-visible memory of a side, and the image that it belongs to, if any."""

    def __init__(self, side: Side, memory: Any) -> None:
        self.side = side
        self.memory = memory
        self.image: Any = None
        side._blocks.append(self)

    def write(self, data: bytes) -> None:
        view = vk.vkMapMemory(self.side.device, self.memory, 0, len(data))
        try:
            view[:] = data
        finally:
            del view
            vk.vkUnmapMemory(self.side.device, self.memory)

    def read(self, size: int = SIZE) -> bytes:
        view = vk.vkMapMemory(self.side.device, self.memory, 0, size)
        data = bytes(view)
        del view
        vk.vkUnmapMemory(self.side.device, self.memory)
        return data

    def free(self) -> None:
        if self in self.side._blocks:
            self.side._blocks.remove(self)
            if self.image is not None:
                vk.vkDestroyImage(self.side.device, self.image)
            vk.vkFreeMemory(self.side.device, self.memory)


@contextmanager
def opened(*, checks: str = "full") -> Iterator[tuple[Side, Side]]:
    """Two instances. Where handles can be counted exactly, none may be left."""
    before = kernel().count_handles()
    with Side(checks=checks) as here, Side(checks=checks) as there:
        yield here, there
    if sys.platform != "win32":  # there, threads and locks have handles too, and end when they like
        assert kernel().count_handles() == before, "handles were left open"


def unique_name() -> str:
    return f"Local\\extmem-test-{os.getpid()}-{secrets.token_hex(8)}"


def prove_same(*blocks: Any, size: int = SIZE) -> None:
    """What each writes, all read."""
    for writer in blocks:
        data = random.randbytes(size)
        writer.write(data)
        for reader in blocks:
            assert reader.read(size) == data


class _Stranger:
    """What another API made, written and read as that API would."""

    def __init__(self, made: foreign.Foreign) -> None:
        self._made = made

    def write(self, data: bytes) -> None:
        self._made.view[: len(data)] = data

    def read(self, size: int) -> bytes:
        return bytes(self._made.view[:size])


_MAKERS: dict[int, Any] = {HEAP12: foreign.heap12, RESOURCE12: foreign.resource12}


@contextmanager
def shared(
    here: Side, type: int, *, nv: bool = False, name: str | None = None
) -> Iterator[tuple[Source, Any]]:
    """Something to import as a type (by its name, if it gets one), and who shares it.

    Who shares a type that Vulkan can export is a Block of `here`, and the test may free it.
    """
    core = type << 1 if nv else type
    if core in (NT, KMT):
        terms = vk.VkExportMemoryWin32HandleInfoKHR(name=name, dwAccess=win32.GENERIC_ALL)
        block = here.export_nv(type) if nv else here.export(type, terms if name else None)
        handle = None if name else here.get(block, type, nv)
        yield Source(type, handle, name, nv), block
        return
    kmt = {"kmt": True} if core == TEXTURE11_KMT else {}
    named = {"name": name} if name else {}
    make = _MAKERS.get(core, foreign.texture11)
    with make(size=SIZE, memory_types=1 << VISIBLE, **kmt, **named) as made:
        handle = None if name else made.kmt if kmt else made.handle
        yield Source(type, handle, name, nv), _Stranger(made)


# -- what is broken -------------------------------------------------------------------------------


@contextmanager
def breaks(*vuids: str) -> Iterator[None]:
    """The call is refused before any driver, by these rules and perhaps others."""
    with pytest.raises(RuleViolation) as caught:
        yield
    found = {problem.vuid for problem in caught.value.problems}
    assert set(vuids) <= found, caught.value


@contextmanager
def fails(result: int) -> Iterator[None]:
    """The driver is asked, and answers with this error."""
    with pytest.raises(DriverError) as caught:
        yield
    assert caught.value.result == result


def refused(checks: str, vuid: str, result: int = REFUSED) -> AbstractContextManager[None]:
    """By the rule where rules are checked, else by the driver with its own error."""
    return breaks(vuid) if checks == "full" else fails(result)


BAD_HANDLES = ["null", "invalid_handle_value", "closed", "never_opened", "process", "plain_section"]


@contextmanager
def no_handle(which: str) -> Iterator[int]:
    """A value that is no handle of shared memory."""
    with ExitStack() as undo:
        made = kernel().create_section(2 * SIZE)
        process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, os.getpid())
        undo.callback(win32.CloseHandle, process)
        if which == "closed":
            win32.CloseHandle(made)
        else:
            undo.callback(win32.CloseHandle, made)
        yield {
            "null": 0,
            "invalid_handle_value": (1 << 64) - 1,
            "closed": made,
            "never_opened": 0xDEAD0,
            "process": process,
            "plain_section": made,
        }[which]


# -- the other side -------------------------------------------------------------------------------

# Only Windows has handles that pass from one process to another yet.
PLACES = ["same_device", "same_instance", "second_instance"]
if sys.platform == "win32":
    PLACES.append("second_process")


@contextmanager
def importing(place: str, here: Side, there: Side) -> Iterator[Any]:
    """The side that imports what `here` exports; `there` is of another instance."""
    if place == "second_process":
        with second_process() as far:
            yield far
    elif place == "same_instance":
        with Side(beside=here) as beside:
            yield beside
    else:
        yield here if place == "same_device" else there


def serve(channel: Channel) -> None:
    """Over there: do what a Far says until it is done."""
    blocks: list[Block] = []
    with Side() as side, suppress(EOFError):
        while True:
            (command, arguments), _ = channel.receive()
            if command == "end":
                return
            answer: Any = None
            if command == "take":
                blocks.append(side.take(Source(**arguments)))
                answer = len(blocks) - 1
            elif command == "close":
                win32.CloseHandle(arguments)
            elif command == "read":
                number, size = arguments
                answer = blocks[number].read(size).hex()
            else:
                number, data = arguments
                blocks[number].write(bytes.fromhex(data))
            channel.send(answer)


class Far:
    """A side in a second process."""

    def __init__(self, other: Other) -> None:
        self._other = other

    def take(self, source: Source) -> FarBlock:
        """Import over there. An NT handle is duplicated into that process, and closed there."""
        if not source.handle or not is_nt(source.type, source.nv):
            return FarBlock(self, self.ask("take", asdict(source)))
        process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, self._other.process.pid)
        here, same = win32.GetCurrentProcess(), win32.DUPLICATE_SAME_ACCESS
        theirs = win32.DuplicateHandle(here, source.handle, process, 0, False, same)
        win32.CloseHandle(process)
        taken = FarBlock(self, self.ask("take", asdict(source) | {"handle": theirs}))
        self.ask("close", theirs)
        return taken

    def ask(self, command: str, arguments: Any) -> Any:
        self._other.send([command, arguments])
        return self._other.receive()[0]


class FarBlock:
    """Memory in a second process."""

    def __init__(self, far: Far, number: int) -> None:
        self._far = far
        self._number = number

    def write(self, data: bytes) -> None:
        self._far.ask("write", [self._number, data.hex()])

    def read(self, size: int = SIZE) -> bytes:
        return bytes.fromhex(self._far.ask("read", [self._number, size]))


@contextmanager
def second_process() -> Iterator[Far]:
    """A side in a second process, which ends well."""
    with second.start(serve) as other:
        yield Far(other)
        other.send(["end", None])
        other.result()
