"""Sections of `tensors.py` that verify values: memory, images, many frames, and the wrong GPU."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import common
import msgspec
import numpy as np
from common import MIB, check, mib, row

import extmem
from extmem import vk
from extmem.interop import cuda

SIZES = [MIB, 64 * MIB, 1 << 30, 8 << 30]
FRAMES = 100_000


# -- which device ---------------------------------------------------------------------------------


def devices(driver: str, seconds: float) -> dict[str, Any]:
    """The same GPU by UUID, and the wrong one refused with both."""
    torch = common.need_cuda()
    gpus = cuda.gpus()
    for gpu in gpus:
        row("CUDA sees", gpu=str(gpu))
    for physical in extmem.physical_devices(driver=driver):
        row("Vulkan sees", name=physical.name, uuid=physical.device_uuid.hex())
    row("versions", torch=torch.__version__, cuda=torch.version.cuda)
    with (
        common.vulkan(driver) as device,
        device.allocate(MIB, export="opaque_fd") as memory,
        memory.export() as handle,
    ):
        ours = device.physical.device_uuid
        with cuda.import_memory(handle) as there:
            check(there.gpu.uuid == ours, f"{there.gpu} is not {ours.hex()}")
        place = memory.passport.place
        assert place is not None
        strange = msgspec.structs.replace(
            memory.passport, place=msgspec.structs.replace(place, device_uuid=b"?" * 16)
        )
        refused(lambda: cuda.import_memory(handle, passport=strange), [b"?" * 16, gpus[0].uuid])
        if len(gpus) > 1:
            other = next(each for each in gpus if each.uuid != ours)
            refused(lambda: cuda.import_memory(handle, device=other.number), [ours, other.uuid])
        else:
            row("a second GPU", there="no: one part was not run")
        tensor = torch.from_dlpack(memory)  # as people write it
        check(tensor.is_cuda, f"torch.from_dlpack(memory) is on {tensor.device}")
        array = memory.array(MIB)
        found = extmem.from_dlpack(tensor[16:])
        check(
            isinstance(found, extmem.Array) and found.memory is memory and found.offset == 16,
            f"from_dlpack found {found!r}",
        )
        interface = array.__cuda_array_interface__
        check(interface["data"][0] == tensor.data_ptr(), "two addresses for one memory")
        private = torch.zeros(4, device="cuda")
        try:
            extmem.from_dlpack(private)
            check(False, "from_dlpack took a tensor that is not ours")
        except extmem.TensorError as error:
            row("a tensor that is not ours", says=str(error))
        del tensor, array, found
    return {"gpus": [str(each) for each in gpus]}


def refused(attempt: Any, uuids: list[bytes]) -> None:
    import uuid

    try:
        attempt().close()
    except extmem.Unsupported as error:
        missing = [each for each in uuids if str(uuid.UUID(bytes=each)) not in str(error)]
        check(not missing, f"{error} does not name {missing}")
        row("the wrong GPU is refused", says=str(error))
    else:
        check(False, "the wrong GPU was taken")


# -- memory, both ways ----------------------------------------------------------------------------


def memory(driver: str, seconds: float) -> dict[str, Any]:
    """Vulkan to torch and back, in two processes, with a timeline both ways."""
    common.need_cuda()
    until = time.monotonic() + seconds - 10
    with (
        common.vulkan(driver) as device,
        device.semaphore(export="opaque_fd") as timeline,
        timeline.export() as signal,
        common.process(torch_side, signal) as pipe,
    ):
        value = 0
        for where in ("device_local", "host_visible"):
            for size in SIZES:
                if where == "host_visible" and size > 1 << 30:
                    continue
                if time.monotonic() > until:
                    row(f"{mib(size)}, {where}", there="no time was left")
                    continue
                try:
                    value = both_ways(device, timeline, pipe, size, where, value)
                except (extmem.Unsupported, extmem.DriverError) as error:
                    check(False, f"{mib(size)} {where}: {error}")
        pipe.send(None)
    return {}


def both_ways(
    device: extmem.Device, timeline: Any, pipe: Any, size: int, where: str, value: int
) -> int:
    pattern, answer = 0xA5000000 | value, 0x5A000000 | value
    began = common.now()
    with (
        device.allocate(size, export="opaque_fd", memory=where) as memory,
        device.buffer(memory) as buffer,
        memory.export() as handle,
    ):
        pipe.send((handle, size, pattern, answer, value))
        assert pipe.recv() == "imported"
        # Vulkan writes, and signals; a stream of CUDA's waits for that.
        device.fill(buffer, pattern, signal=[(timeline, value + 1)])
        wrong = pipe.recv()
        check(wrong == 0, f"{mib(size)} {where}: torch sees {wrong} wrong numbers")
        timeline.wait(value + 2, timeout=30)  # which CUDA signals, on its stream
        seen = sample(device, memory, buffer, size, answer)
        check(seen == 0, f"{mib(size)} {where}: Vulkan sees {seen} wrong numbers")
    pipe.send("free")  # it is, here
    assert pipe.recv() == "still there"
    row(
        f"{mib(size)}, {where}: Vulkan to torch and back",
        right=wrong == 0 and seen == 0,
        ms=round((common.now() - began) / 1000, 1),
    )
    return value + 2


def sample(device: extmem.Device, memory: Any, buffer: Any, size: int, expected: int) -> int:
    """How many of the numbers that Vulkan sees are wrong: of all up to 64 MiB, else of parts."""
    part = min(size, 64 * MIB)
    wrong = 0
    with device.allocate(part) as staging, device.buffer(staging) as target:
        middle = (size - part) // 2 // 65536 * 65536
        for offset in sorted({0, middle, size - part}):
            if memory.dedicated and offset:
                break  # no second buffer lies in it
            if offset:
                with device.buffer(memory, offset=offset, size=part) as piece:
                    device.copy(piece, target, part)
            else:
                device.copy(buffer, target, part)
            staging.invalidate()
            wrong += int((staging.numpy("uint32") != expected).sum())
    return wrong


def torch_side(pipe: Any, signal: Any) -> None:
    import torch

    stream = torch.cuda.Stream()
    with cuda.import_semaphore(signal) as timeline, torch.cuda.stream(stream):
        signal.close()
        while (told := pipe.recv()) is not None:
            handle, size, pattern, answer, value = told
            there = cuda.import_memory(handle)
            handle.close()
            tensor = torch.from_dlpack(there.array(size // 4, "int32"))
            pipe.send("imported")
            timeline.wait(value + 1, stream)
            wrong = int((tensor != signed(pattern)).sum().item())
            pipe.send(wrong)
            tensor.fill_(signed(answer))
            timeline.signal(value + 2, stream)
            assert pipe.recv() == "free"
            # The exporter has freed its memory, and this is closed: the tensor keeps the bytes.
            there.close()
            assert not there.freed
            kept = int(tensor[-1].item())
            del tensor
            assert there.freed
            assert kept == signed(answer), hex(kept)
            pipe.send("still there")
    torch.cuda.synchronize()


def signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


# -- images ---------------------------------------------------------------------------------------


def images(driver: str, seconds: float) -> dict[str, Any]:
    """Optimal images: what Vulkan uploads, torch reads by the mipmapped array, and back."""
    torch = common.need_cuda()
    chance = np.random.default_rng(7)
    with common.vulkan(driver) as device, common.process(image_side) as pipe:
        for shape, name in (
            ((64, 64), "rgba8"),
            ((1080, 1920), "rgba8"),
            ((2160, 3840), "rgba16f"),
            ((480, 640), "r32f"),
        ):
            try:
                with device.image(shape, name, export="opaque_fd") as image:
                    kind, dtype = image.layout_of_array()
                    picture = chance.integers(0, 200, kind).astype(dtype)
                    device.upload(image, picture)
                    with image.memory.export() as handle:
                        pipe.send((handle, picture))
                        wrong = pipe.recv()
                    after = device.readback(image)
                    back = int((after != 255 - picture).sum())
                    right = wrong == 0 and back == 0
                    check(right, f"image {shape} {name}: {wrong} wrong there, {back} here")
                    row(f"image {shape} {name}, both ways", right=right)
                    try:
                        torch.from_dlpack(image.memory)
                        check(False, "an optimal image was taken as an array")
                    except BufferError as error:
                        check("mipmapped" in str(error), str(error))
            except (extmem.Unsupported, extmem.DriverError, RuntimeError) as error:
                check(False, f"image {shape} {name}: {error}")
                if isinstance(error, RuntimeError):
                    raise
        pipe.send(None)
    return {}


def image_side(pipe: Any) -> None:
    import torch

    while (told := pipe.recv()) is not None:
        handle, picture = told
        with cuda.import_memory(handle) as there:
            handle.close()
            stream = torch.cuda.current_stream()
            dtype = getattr(torch, str(picture.dtype))
            seen = torch.empty(picture.shape, dtype=dtype, device="cuda")
            there.image.read(seen, stream=stream)
            expected = torch.from_numpy(picture).cuda()
            wrong = int((seen != expected).sum().item())
            there.image.write(255 - expected, stream=stream)
            torch.cuda.synchronize()
            pipe.send(wrong)


# -- many frames ----------------------------------------------------------------------------------


def frames(driver: str, seconds: float) -> dict[str, Any]:
    """100,000 frames: nothing grows, none is torn."""
    common.need_cuda()
    name = "bench-tensors-frames"
    size = MIB
    until = time.monotonic() + seconds - 15
    with (
        common.vulkan(driver, queue="copy") as device,
        Copies(device) as copies,
        extmem.publish(
            name,
            shape=size // 4,
            dtype="int32",
            policy="all",
            slots=4,
            device=device,
            memory="device_local",
            timeout=20,
        ) as stream,
        common.process(counting, name, driver) as pipe,
    ):
        assert pipe.recv() == "joined"
        early: dict[str, int] = {}
        for number in range(1, FRAMES + 1):
            with stream.frame() as frame:
                copies.write(frame, number)
            if number == 1000:
                early = common.usage()
            if number % 1000 == 0 and time.monotonic() > until:
                break
        late = common.usage()
        stream.close()
        told = pipe.recv()
    row("frames", published=number, seen=told["frames"], wrong=told["wrong"])
    row("publisher after 1000 frames", **early)
    row("publisher at the end", **late)
    row("subscriber after 1000 frames", **told["early"])
    row("subscriber at the end", **told["late"])
    check(told["frames"] == number and told["wrong"] == 0, f"{told} of {number} frames")
    for what, first, last in (("publisher", early, late), ("subscriber", *told_of(told))):
        check(last["descriptors"] <= first["descriptors"], f"the {what}'s descriptors: {last}")
        check(last["host MiB"] <= first["host MiB"] + 16, f"the {what}'s memory: {first} {last}")
    used, before = told["late"]["GPU MiB"], told["early"]["GPU MiB"]
    check(used <= before + 8, f"the GPU's memory: {before} to {used} MiB")
    if number < FRAMES:
        row("frames", there=f"the time was over after {number} of {FRAMES}")
    return {"frames": number}


class Copies:
    """What a program that uploads frames does: for each slot a buffer of the host's, and commands
    that are recorded once and copy it into the slot. No frame waits for the device.
    """

    def __init__(self, device: extmem.Device) -> None:
        self._device = device
        self._made = ExitStack()
        self._slots: dict[int, tuple[Any, Any, Any]] = {}

    def __enter__(self) -> Copies:
        device = self._device.handle
        self._pool = vk.vkCreateCommandPool(
            device, vk.VkCommandPoolCreateInfo(queueFamilyIndex=self._device.queue_family)
        )
        self._made.callback(vk.vkDestroyCommandPool, device, self._pool)
        return self

    def __exit__(self, *_: object) -> None:
        vk.vkDeviceWaitIdle(self._device.handle)
        self._slots.clear()  # and with them the arrays of what is closed now
        self._made.close()

    def write(self, frame: Any, number: int) -> None:
        found = self._slots.get(int(frame.buffer.handle))
        if found is None:
            found = self._slots[int(frame.buffer.handle)] = self._of_slot(frame.buffer)
        array, values, info = found
        array[:] = number  # the slot is free, so that nobody copies from here
        ((semaphore, value),) = frame.promise()
        info.pSignalSemaphores = [semaphore.handle]
        values.pSignalSemaphoreValues[0] = value
        vk.vkQueueSubmit(self._device.queue, 1, [info], None)

    def _of_slot(self, target: Any) -> tuple[Any, Any, Any]:
        source = self._made.enter_context(self._device.allocate(target.size))
        buffer = self._made.enter_context(self._device.buffer(source))
        (commands,) = vk.vkAllocateCommandBuffers(
            self._device.handle,
            vk.VkCommandBufferAllocateInfo(commandPool=self._pool, commandBufferCount=1),
        )
        vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
        region = vk.VkBufferCopy(size=target.size)
        vk.vkCmdCopyBuffer(commands, buffer.handle, target.handle, 1, [region])
        vk.vkEndCommandBuffer(commands)
        values = vk.VkTimelineSemaphoreSubmitInfo(pSignalSemaphoreValues=[0])
        info = vk.VkSubmitInfo(pNext=values, pCommandBuffers=[commands], pSignalSemaphores=[0])
        return source.numpy("int32"), values, info


def told_of(told: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    return told["early"], told["late"]


def counting(pipe: Any, name: str, driver: str) -> None:
    import torch

    def used() -> dict[str, int]:
        free, total = torch.cuda.mem_get_info()
        return {**common.usage(), "GPU MiB": (total - free) // MIB}

    seen, early = 0, {}
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")
    with (
        common.vulkan(driver) as device,
        extmem.subscribe(name, policy="all", timeout=20, device=device) as arriving,
    ):
        pipe.send("joined")
        for frame in arriving:
            tensor = torch.from_dlpack(frame)
            wrong += (tensor != frame.sequence).any()  # on the GPU: nobody waits for it here
            del tensor
            seen += 1
            if seen == 1000:
                torch.cuda.synchronize()
                early = used()
        torch.cuda.synchronize()
        late = used()
    pipe.send({"frames": seen, "wrong": int(wrong.item()), "early": early or late, "late": late})
