"""Sections of `tensors.py` with other libraries, and with frames that CUDA writes: CuPy and JAX by
DLPack, PyTorch on two streams, and streams of images.
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
from common import MIB, check, row

import extmem

# -- other libraries ------------------------------------------------------------------------------


def libraries(driver: str, seconds: float) -> dict[str, Any]:
    """What Vulkan writes, CuPy and JAX see; what CuPy writes, Vulkan and other processes see."""
    common.need_cuda()
    with common.vulkan(driver) as device:
        for name, part in (("cupy", with_cupy), ("jax", with_jax)):
            try:
                found = __import__(name)
            except ImportError as error:
                row(name, there=f"not installed: {error}")
                continue
            part(found, device, driver)
            row(f"{name} {found.__version__}", right=not common.wrongs)
    return {}


def filled(device: extmem.Device, memory: Any, value: int) -> None:
    with device.buffer(memory) as buffer:
        device.fill(buffer, value)


def with_cupy(cupy: Any, device: extmem.Device, driver: str) -> None:
    with device.allocate(MIB, export="opaque_fd", memory="device_local") as memory:
        filled(device, memory, 7)
        array = cupy.from_dlpack(memory.array(MIB // 4, "int32"))
        check(bool((array == 7).all()), "CuPy does not see what Vulkan wrote")
        array[...] = cupy.arange(MIB // 4, dtype="int32")
        cupy.cuda.runtime.deviceSynchronize()
        found = extmem.from_dlpack(array)
        check(
            isinstance(found, extmem.Array) and found.memory is memory,
            f"from_dlpack found {found!r} behind CuPy's array",
        )
        with device.allocate(MIB) as staging, device.buffer(staging) as target:
            with device.buffer(memory) as source:
                device.copy(source, target)
            staging.invalidate()
            right = np.array_equal(staging.numpy("int32"), np.arange(MIB // 4, dtype="int32"))
            check(right, "Vulkan does not see what CuPy wrote")
        del array, found
    name = "bench-tensors-cupy"
    with (
        extmem.publish(
            name, shape=MIB // 4, dtype="int32", device=device, memory="device_local", policy="all"
        ) as stream,
        common.process(cupy_side, name, driver) as pipe,
    ):
        assert pipe.recv() == "joined"
        for number in range(1, 201):
            with stream.frame() as frame:
                written = cupy.from_dlpack(frame)
                written[...] = number
                del written
        stream.close()
        wrong, count = pipe.recv()
    check((wrong, count) == (0, 200), f"CuPy saw {wrong} wrong of {count} frames that CuPy wrote")


def cupy_side(pipe: Any, name: str, driver: str) -> None:
    import cupy

    own = cupy.cuda.Stream(non_blocking=True)
    wrong, count = cupy.zeros((), dtype="int64"), 0
    with (
        common.vulkan(driver) as device,
        extmem.subscribe(name, policy="all", timeout=20, device=device, pending=True) as arriving,
    ):
        pipe.send("joined")
        with own:
            for frame in arriving:
                array = cupy.from_dlpack(frame)
                wrong += (array != frame.sequence).any()
                del array
                frame.release(stream=own)
                count += 1
        own.synchronize()
    pipe.send((int(wrong), count))


def with_jax(jax: Any, device: extmem.Device, driver: str) -> None:
    with device.allocate(MIB, export="opaque_fd", memory="device_local") as memory:
        filled(device, memory, 9)
        array = jax.dlpack.from_dlpack(memory.array(MIB // 4, "int32"))
        check(bool((array == 9).all()), "JAX does not see what Vulkan wrote")
        check(next(iter(array.devices())).platform == "gpu", f"JAX has it on {array.devices()}")
        del array


# -- frames that CUDA writes ----------------------------------------------------------------------


def writers(driver: str, seconds: float) -> dict[str, Any]:
    """PyTorch writes frames on two streams in turn, and does not wait for any of them."""
    torch = common.need_cuda()
    name, frames = "bench-tensors-writers", 2000
    with (
        common.vulkan(driver) as device,
        extmem.publish(
            name, shape=MIB // 4, dtype="int32", device=device, memory="device_local", policy="all",
            slots=6, timeout=20,
        ) as stream,
        common.process(written_side, name, driver) as pipe,
    ):  # fmt: skip
        assert pipe.recv() == "joined"
        lanes = [torch.cuda.Stream(), torch.cuda.Stream()]
        for number in range(1, frames + 1):
            with stream.frame() as frame, torch.cuda.stream(lanes[number % 2]):
                tensor = torch.from_dlpack(frame)
                if number % 16 == 0:
                    torch.cuda._sleep(200_000)  # the other stream must not overtake
                tensor.fill_(-1)
                tensor.fill_(number)
                del tensor
        stream.close()
        wrong, count = pipe.recv()
    check((wrong, count) == (0, frames), f"{wrong} wrong of {count} frames from two streams")
    row("frames that PyTorch writes on two streams", seen=count, wrong=wrong)
    return {"frames": count}


def written_side(pipe: Any, name: str, driver: str) -> None:
    import torch

    wrong, count = torch.zeros((), dtype=torch.int64, device="cuda"), 0
    with (
        common.vulkan(driver) as device,
        extmem.subscribe(name, policy="all", timeout=20, device=device, pending=True) as arriving,
    ):
        pipe.send("joined")
        for frame in arriving:
            tensor = torch.from_dlpack(frame)
            wrong += (tensor != frame.sequence).any()
            del tensor
            count += 1
        torch.cuda.synchronize()
    pipe.send((int(wrong.item()), count))


# -- streams of images ----------------------------------------------------------------------------


def pictures(driver: str, seconds: float) -> dict[str, Any]:
    """Optimal images as slots: Vulkan uploads, another process reads them back by Vulkan, and by
    CUDA's mipmapped array into PyTorch. Every pixel is compared.
    """
    common.need_cuda()
    for queue in ("any", "copy"):
        with (
            common.vulkan(driver, queue=queue) as device,
            common.process(looking, driver) as pipe,
        ):
            for shape, kind in (
                ((1080, 1920), "rgba8"),
                ((240, 320), "rgba16f"),
                ((64, 48), "r32f"),
            ):
                name = f"bench-tensors-{kind}"
                with extmem.publish(
                    name, shape=shape, format=kind, device=device, policy="all", timeout=20
                ) as stream:
                    pipe.send((name, shape, kind))
                    assert pipe.recv() == "joined"
                    for number in range(1, 41):
                        with stream.frame() as frame:
                            frame.upload(picture_of(shape, kind, number))
                    stream.close()
                    vulkan, torch, count = pipe.recv()
                right = (vulkan, torch, count) == (0, 0, 40)
                check(right, f"{kind}: {vulkan} wrong by Vulkan, {torch} by torch, of {count}")
                row(f"stream of images {shape} {kind}, queue {queue!r}", frames=count, right=right)
            pipe.send(None)
    return {}


def picture_of(shape: tuple[int, int], kind: str, number: int) -> np.ndarray[Any, Any]:
    """Another one for each frame."""
    channels = 1 if kind.startswith("r32") else 4
    dtype = {"rgba8": "uint8", "rgba16f": "float16", "r32f": "float32"}[kind]
    count = shape[0] * shape[1] * channels
    values = (np.arange(count, dtype="int64") * 7 + number * 31) % 251
    whole = shape if channels == 1 else (*shape, channels)
    return values.astype(dtype).reshape(whole)


def looking(pipe: Any, driver: str) -> None:
    import torch

    with common.vulkan(driver) as device:
        while (told := pipe.recv()) is not None:
            name, shape, kind = told
            by_vulkan = by_torch = count = 0
            with extmem.subscribe(name, policy="all", timeout=20, device=device) as arriving:
                pipe.send("joined")
                for frame in arriving:
                    expected = picture_of(shape, kind, frame.sequence)
                    by_vulkan += not np.array_equal(frame.readback(), expected)
                    seen = torch.empty(
                        expected.shape, dtype=getattr(torch, str(expected.dtype)), device="cuda"
                    )
                    frame.memory.cuda().image.read(seen, stream=torch.cuda.current_stream())
                    torch.cuda.synchronize()
                    by_torch += not np.array_equal(seen.cpu().numpy(), expected)
                    count += 1
            pipe.send((by_vulkan, by_torch, count))
