"""Keyed mutexes of D3D11 textures: held, handed over, timed out, abandoned."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import vk
from extmem.drivers.embedded import foreign
from extmem.drivers.embedded.foreign import WAIT_ABANDONED, WAIT_TIMEOUT, Foreign, texture11
from extmem.handles.system import kernel
from tests.support import second
from tests.support.clock import lasted
from tests.support.second import Channel
from tests.support.signals import Station

SIZE = 4096
SHORT, LONG = 60, 60_000  # milliseconds

TEXTURE = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_BIT)
TEXTURE_KMT = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_TEXTURE_KMT_BIT)
IMAGE_NV = int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_D3D11_IMAGE_BIT_NV)

forms = pytest.mark.parametrize("form", ["khr", "khr2", "nv", "nv2"])


@pytest.fixture(autouse=True)
def _namespace() -> None:
    """The first name in a process opens the namespace, for good."""
    kernel().close(kernel().create_section(64, name=f"Local\\extmem-test-{os.getpid()}"))


@pytest.fixture
def here() -> Iterator[Station]:
    with Station() as station:
        yield station


@pytest.fixture
def texture() -> Iterator[Foreign]:
    with texture11(size=SIZE, keyed_mutex=True) as made:
        yield made


class Picture:
    """An image over the imported memory of a texture, and what submissions say of its mutex."""

    def __init__(self, station: Station, source: Foreign | int, form: str = "khr") -> None:
        self._station = station
        self._form = form
        kmt = isinstance(source, Foreign) and bool(source.kmt)
        handle = source if isinstance(source, int) else source.kmt or source.handle
        external: Any
        if form.startswith("nv"):
            external = vk.VkExternalMemoryImageCreateInfoNV(handleTypes=IMAGE_NV)
            imported: Any = vk.VkImportMemoryWin32HandleInfoNV(handleType=IMAGE_NV, handle=handle)
        else:
            kind = TEXTURE_KMT if kmt else TEXTURE
            external = vk.VkExternalMemoryImageCreateInfo(handleTypes=kind)
            imported = vk.VkImportMemoryWin32HandleInfoKHR(handleType=kind, handle=handle)
        self.image = vk.vkCreateImage(
            station.device,
            vk.VkImageCreateInfo(
                imageType=vk.VK_IMAGE_TYPE_2D,
                format=vk.VK_FORMAT_R8G8B8A8_UNORM,
                extent=(32, 32, 1),
                mipLevels=1,
                arrayLayers=1,
                samples=vk.VK_SAMPLE_COUNT_1_BIT,
                usage=vk.VK_IMAGE_USAGE_TRANSFER_DST_BIT,
                pNext=external,
            ),
        )
        imported.pNext = vk.VkMemoryDedicatedAllocateInfo(image=self.image)
        self.memory = vk.vkAllocateMemory(
            station.device,
            vk.VkMemoryAllocateInfo(allocationSize=SIZE, memoryTypeIndex=0, pNext=imported),
        )
        self._freed = False

    def chain(self, acquire: int | None, release: int | None, milliseconds: int = LONG) -> Any:
        """The structure for a submission."""
        members: dict[str, Any] = {}
        if acquire is not None:
            name = "pAcquireTimeouts"
            if self._form.startswith("nv"):
                name = "pAcquireTimeoutMilliseconds"
            members |= {"pAcquireSyncs": [self.memory], "pAcquireKeys": [acquire]}
            members[name] = [milliseconds]
        if release is not None:
            members |= {"pReleaseSyncs": [self.memory], "pReleaseKeys": [release]}
        if self._form.startswith("nv"):
            return vk.VkWin32KeyedMutexAcquireReleaseInfoNV(**members)
        return vk.VkWin32KeyedMutexAcquireReleaseInfoKHR(**members)

    def submit(
        self, acquire: int | None, release: int | None, milliseconds: int = LONG, **more: Any
    ) -> None:
        """An empty submission that acquires and releases."""
        chain = self.chain(acquire, release, milliseconds)
        if self._form.endswith("2"):
            info = vk.VkSubmitInfo2(pNext=chain)
            vk.vkQueueSubmit2(self._station.queue, 1, [info], None)
        else:
            self._station.submit(chain=chain, **more)

    def free(self) -> None:
        if not self._freed:
            self._freed = True
            vk.vkFreeMemory(self._station.device, self.memory)
            vk.vkDestroyImage(self._station.device, self.image)


def refuses(result: int, use: Any, *arguments: Any, **more: Any) -> None:
    with pytest.raises(extmem.DriverError) as error:
        use(*arguments, **more)
    assert error.value.result == result


# -- as DXGI has it -------------------------------------------------------------------------------


def test_keys_go_round(texture: Foreign) -> None:
    assert texture.acquire(0) == 0
    texture.release((1 << 64) - 1)
    assert texture.acquire(0, SHORT) == WAIT_TIMEOUT
    assert texture.acquire((1 << 64) - 1, 0) == 0
    texture.release(0)


def test_what_is_held_is_waited_for(texture: Foreign) -> None:
    assert texture.acquire(0) == 0
    start = time.monotonic()
    assert texture.acquire(0, SHORT) == WAIT_TIMEOUT
    assert lasted(start, SHORT / 1000)
    timer = threading.Timer(0.05, texture.release, (4,))
    timer.start()
    assert texture.acquire(4, LONG) == 0
    timer.join()
    texture.release(0)


def test_only_the_holder_releases(texture: Foreign) -> None:
    with pytest.raises(ValueError, match="not acquired"):
        texture.release(1)
    with texture11(size=SIZE) as plain, pytest.raises(ValueError, match="without a keyed mutex"):
        plain.acquire(0)
    texture.close()
    with pytest.raises(ValueError, match="closed"):
        texture.acquire(0)


# -- in submissions -------------------------------------------------------------------------------


@forms
def test_a_submission_acquires_and_releases(here: Station, texture: Foreign, form: str) -> None:
    picture = Picture(here, texture, form)
    assert texture.acquire(0) == 0
    texture.release(1)
    picture.submit(1, 2)
    assert texture.acquire(2, LONG) == 0  # which the queue has released when it was done
    refuses(vk.VK_TIMEOUT, picture.submit, 1, 2, SHORT)
    texture.release(1)
    picture.submit(1, 3)
    picture.submit(3, 4)  # waits for what is still under way
    assert texture.acquire(4, LONG) == 0
    texture.release(0)
    picture.free()


def test_by_number() -> None:
    with texture11(size=SIZE, keyed_mutex=True, kmt=True) as texture, Station() as here:
        picture = Picture(here, texture)
        picture.submit(0, 5)
        assert texture.acquire(5, LONG) == 0
        texture.release(0)
        picture.free()


def test_acquired_in_one_submission_and_released_in_another(
    here: Station, texture: Foreign
) -> None:
    picture = Picture(here, texture)
    picture.submit(0, None)
    vk.vkQueueWaitIdle(here.queue)
    assert texture.acquire(7, 0) == WAIT_TIMEOUT
    picture.submit(None, 7)
    assert texture.acquire(7, LONG) == 0
    texture.release(0)
    picture.free()


def test_it_is_released_when_the_work_is_done(here: Station, texture: Foreign) -> None:
    picture, gate = Picture(here, texture), here.semaphore(timeline=True)
    chain = picture.chain(0, 1)
    chain.pNext = vk.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[1])
    here.submit(wait=[(gate, 1)], chain=chain)
    assert texture.acquire(1, SHORT) == WAIT_TIMEOUT
    here.signal(gate, 1)
    assert texture.acquire(1, LONG) == 0
    texture.release(0)
    picture.free()


def test_all_of_a_batch_or_none(here: Station, texture: Foreign) -> None:
    with texture11(size=SIZE, keyed_mutex=True) as other:
        mine, its = Picture(here, texture), Picture(here, other)
        assert other.acquire(0) == 0
        both = vk.VkWin32KeyedMutexAcquireReleaseInfoKHR(
            pAcquireSyncs=[mine.memory, its.memory],
            pAcquireKeys=[0, 0],
            pAcquireTimeouts=[LONG, SHORT],
        )
        refuses(vk.VK_TIMEOUT, here.submit, chain=both)
        assert texture.acquire(0, SHORT) == 0  # given back, with the key that it had
        texture.release(0)
        other.release(0)
        mine.free()
        its.free()


def test_a_release_of_what_is_not_held_loses_the_device(here: Station, texture: Foreign) -> None:
    picture = Picture(here, texture)
    picture.submit(None, 1)
    refuses(vk.VK_ERROR_DEVICE_LOST, vk.vkQueueWaitIdle, here.queue)
    picture.free()


def test_memory_without_a_mutex_is_refused(here: Station) -> None:
    with texture11(size=SIZE) as plain:
        picture = Picture(here, plain)
        refuses(vk.VK_ERROR_UNKNOWN, picture.submit, 0, 1)
        picture.free()


def test_without_the_extension_there_is_no_mutex(texture: Foreign) -> None:
    with Station(extensions=["VK_KHR_external_memory_win32"]) as bare:
        picture = Picture(bare, texture)
        refuses(vk.VK_ERROR_UNKNOWN, picture.submit, 0, 1)
        picture.free()


# -- abandoned ------------------------------------------------------------------------------------


def test_freed_while_it_is_held(here: Station, texture: Foreign) -> None:
    picture, other = Picture(here, texture), Picture(here, texture)
    picture.submit(0, None)
    vk.vkQueueWaitIdle(here.queue)
    picture.free()
    for _ in range(2):  # for good
        assert texture.acquire(0, LONG) == WAIT_ABANDONED
        refuses(vk.VK_ERROR_INITIALIZATION_FAILED, other.submit, 0, 1)
    here.submit()
    vk.vkQueueWaitIdle(here.queue)  # the device is not lost
    other.free()


def _holds(channel: Channel, submits: bool) -> None:
    message, _ = channel.receive()
    with Station() as there:
        picture = Picture(there, message["handle"])
        if submits:
            picture.submit(message["key"], None)
            vk.vkQueueWaitIdle(there.queue)
        channel.send("held" if submits else "ready")
        answer, _ = channel.receive()
        if answer == "release":
            picture.submit(None, message["key"] + 1)
            vk.vkQueueWaitIdle(there.queue)
        picture.free()
    kernel().close(message["handle"])


def _give(other: second.Other, texture: Foreign, key: int) -> None:
    other.send({"handle": other.give(texture.handle), "key": key})


def test_two_processes_hand_it_over(texture: Foreign) -> None:
    with second.start(_holds, timeout=90.0, submits=True) as other:
        assert texture.acquire(0) == 0
        _give(other, texture, 3)
        texture.release(3)
        assert other.receive()[0] == "held"
        assert texture.acquire(4, SHORT) == WAIT_TIMEOUT
        other.send("release")
        assert texture.acquire(4, LONG) == 0
        other.result()
    texture.release(0)


def test_a_killed_holder_abandons_it(here: Station, texture: Foreign) -> None:
    picture = Picture(here, texture)
    with second.start(_holds, timeout=90.0, submits=True) as other:
        _give(other, texture, 0)
        assert other.receive()[0] == "held"
        answers: list[int] = []
        waiter = threading.Thread(target=lambda: answers.append(texture.acquire(1, LONG)))
        waiter.start()  # who waits already is told as well
        time.sleep(0.05)
        other.kill()
        waiter.join()
        assert answers == [WAIT_ABANDONED]
        assert texture.acquire(0, LONG) == WAIT_ABANDONED
        refuses(vk.VK_ERROR_INITIALIZATION_FAILED, picture.submit, 0, 1)
    picture.free()


def test_who_is_killed_without_it_abandons_nothing(texture: Foreign) -> None:
    with second.start(_holds, timeout=90.0, submits=False) as other:
        _give(other, texture, 0)
        assert other.receive()[0] == "ready"
        other.kill()
    assert texture.acquire(0, LONG) == 0
    texture.release(0)


def test_a_texture_outlives_its_maker_with_its_mutex(here: Station) -> None:
    with texture11(size=SIZE, keyed_mutex=True) as texture:
        mine, other = Picture(here, texture), Picture(here, texture)
        assert texture.acquire(0) == 0
        texture.release(1)
    mine.submit(1, 2)
    other.submit(2, 3)
    vk.vkQueueWaitIdle(here.queue)
    for each in (mine, other):
        each.free()


def test_a_read_only_import_cannot_acquire(here: Station) -> None:
    from extmem.handles.kernel import ACCESS_READ

    with texture11(size=SIZE, keyed_mutex=True, access=ACCESS_READ) as texture:
        picture = Picture(here, texture)
        refuses(vk.VK_ERROR_VALIDATION_FAILED, picture.submit, 0, 1)
        picture.free()


def test_rubbish_in_the_page_is_somebody_who_died(texture: Foreign) -> None:
    texture._mutex()._state.put(0x1234567)
    assert texture.acquire(0, LONG) == WAIT_ABANDONED


# -- fences of D3D12 ------------------------------------------------------------------------------


def _signals(channel: Channel) -> None:
    message, _ = channel.receive()
    with Station() as there:
        mine = there.taken(
            0,
            int(vk.VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE_BIT),
            name=message["name"],
            timeline=True,
        )
        assert there.wait(mine, 1)
        there.signal(mine, 2)
        channel.receive()


def test_a_fence12_between_processes() -> None:
    name = f"Local\\extmem-test-fence12-{os.getpid()}"
    with foreign.fence12(0, name) as fence, second.start(_signals, timeout=90.0) as other:
        other.send({"name": name})
        fence.signal(1)
        assert fence.wait(2, 60.0)
        other.send("done")
        other.result()
        assert not fence.wait(3, 0.0)
        fence.signal(1)  # it may go back
        assert fence.value == 1
