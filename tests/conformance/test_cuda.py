"""CUDA as far as it goes without a GPU: devices matched, handles lent, capsules, streams, ends."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extmem
from extmem import ClosedError, DriverError, DriverNotFound, TensorError, Unsupported
from extmem.handle_types import memory_type, sync_type
from extmem.handles import remembering
from extmem.interop import dlpack, placing
from extmem.interop.cuda import devices, driver, images, semaphores, streams, taking
from extmem.interop.cuda import memory as memories
from extmem.interop.cuda.devices import Gpu, Wanted, match
from extmem.interop.cuda.endings import Endings
from extmem.interop.cuda.memory import CudaMemory
from extmem.interop.cuda.semaphores import CudaSemaphore
from extmem.interop.cuda.views import CudaArray, Order
from extmem.share.leases import Lease, Leased, Leases, Returns
from extmem.share.passport import ImageInfo
from tests.support.leaks import held, left_over
from tests.support.strict import optional
from tests.support.tensors import NUMPY_HAS_VERSIONS, Asking, Taken

ADDRESS = 0x7F00_0000_0000  # on a GPU, for all that is done with it here: nobody looks there
SIZE = 4096
KIND = "opaque_win32" if sys.platform == "win32" else "opaque_fd"


@pytest.fixture
def gpu() -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


# -- which GPU ------------------------------------------------------------------------------------

A, B, C = (bytes([each]) * 16 for each in b"abc")
LUID = b"12345678"


def gpus(*found: tuple[bytes, bytes | None]) -> list[Gpu]:
    return [Gpu(number, "NVIDIA H200", *each) for number, each in enumerate(found)]


@pytest.mark.parametrize(
    ("device", "found", "number"),
    [
        (Wanted("", A, None), gpus((A, None)), 0),
        (Wanted("", B, None), gpus((A, None), (B, None)), 1),
        (Wanted("", None, LUID), gpus((A, b"87654321"), (B, LUID)), 1),
        # Where both sides have LUIDs, they count: they are Windows' own.
        (Wanted("", A, LUID), gpus((A, b"87654321"), (B, LUID)), 1),
        (Wanted("", B, LUID), gpus((A, None), (B, None)), 1),
        (Wanted("", A, None), gpus((A, LUID)), 0),
    ],
)
def test_the_same_gpu(device: Wanted, found: list[Gpu], number: int) -> None:
    assert match(device, found).number == number
    assert match(device, found, number).number == number


@pytest.mark.parametrize("number", [None, 0, 1])
def test_another_gpu_is_refused_with_both(number: int | None) -> None:
    found = gpus((A, None), (B, LUID))
    with pytest.raises(Unsupported) as caught:
        match(Wanted("Quadro", C, LUID[::-1]), found, number)
    told = str(caught.value)
    assert f"Quadro (UUID {uuid.UUID(bytes=C)}, LUID {LUID[::-1].hex()})" in told
    for each in found if number is None else [found[number]]:
        assert str(uuid.UUID(bytes=each.uuid)) in told


def test_the_wrong_one_of_two() -> None:
    with pytest.raises(Unsupported, match=r"not the GPU that was asked for.* It is CUDA's GPU 1"):
        match(Wanted("", B, None), gpus((A, None), (B, None)), 0)
    with pytest.raises(Unsupported, match=r"CUDA has no GPU 7; it sees 0: "):
        match(Wanted("", B, None), gpus((A, None)), 7)
    with pytest.raises(Unsupported, match=r"CUDA sees no GPU"):
        match(Wanted("", B, None), [])
    with pytest.raises(Unsupported, match="of no known UUID"):
        match(Wanted("", None, None), gpus((bytes(16), None)))


# -- the driver -----------------------------------------------------------------------------------


@pytest.fixture
def _anew() -> Iterator[None]:
    """What was found of CUDA is looked for again, before and after."""
    caches = (driver.bindings, driver.ready, devices.gpus, devices.seen)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(Unsupported, match=r"pip install 'extmem\[cuda\]'"):
        devices.gpus()
    assert "extmem[cuda]" in str(devices.seen(Wanted("", A, None)))


@pytest.fixture(scope="session")
def has_driver() -> bool:
    """For the session: a driver that is there opens what is no test's leak."""
    try:
        devices.gpus()
    except (DriverNotFound, Unsupported):
        return False
    except DriverError:
        pass
    return True


@pytest.mark.usefixtures("_anew")
def test_without_a_driver(gpu: extmem.Device, has_driver: bool) -> None:
    optional("cuda.bindings", "pip install cuda-bindings==13.5.0")
    if has_driver:
        pytest.skip("hardware: a machine without NVIDIA's driver")
    with pytest.raises(DriverNotFound, match="Install NVIDIA's driver"):
        devices.gpus()
    with gpu.allocate(64, export=KIND) as memory:
        with pytest.raises(DriverNotFound, match="libcuda on Linux"):
            memory.array(4, device="cuda")
        before = held()
        with memory.export() as handle, pytest.raises(DriverNotFound):
            extmem.interop.cuda.import_memory(handle)  # type: ignore[attr-defined]
        assert left_over(before) == []
        assert memory.array(4).__dlpack_device__() == (1, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: the bench is for Linux")
def test_the_bench_says_that_there_is_no_gpu(has_driver: bool) -> None:
    if has_driver:
        pytest.skip("hardware: a machine without NVIDIA's driver")
    script = Path(__file__).resolve().parents[2] / "bench" / "gpu" / "tensors.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert "devices: no CUDA device: " in done.stdout
    assert json.loads(done.stdout[done.stdout.index("{\n") :])["devices"]["status"] == "no GPU"


def test_results_are_errors() -> None:
    cu: Any = optional("cuda.bindings.driver", "pip install cuda-bindings==13.5.0")
    result = cu.CUresult
    for number, says in (
        (result.CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
        (result.CUDA_ERROR_NOT_INITIALIZED, "spawn"),
        (result.CUDA_ERROR_INVALID_HANDLE, "still open"),
        (result.CUDA_ERROR_ILLEGAL_ADDRESS, "cuInit returned CUDA_ERROR_ILLEGAL_ADDRESS"),
    ):
        with pytest.raises(DriverError, match=says) as caught:
            driver.answered("cuInit", (number, None))
        assert caught.value.result is number
    assert driver.answered("cuDeviceGetLuid", (result.CUDA_SUCCESS, b"x", 3)) == (b"x", 3)
    for name in driver._MEANINGS:  # none of them is misspelled
        assert hasattr(result, name)


# -- handles --------------------------------------------------------------------------------------


def test_what_cuda_calls_the_handles() -> None:
    cu: Any = optional("cuda.bindings.driver", "pip install cuda-bindings==13.5.0")
    names = {"d3d11_texture": "d3d11_resource", "d3d11_texture_kmt": "d3d11_resource_kmt"}
    for ours, number in taking.MEMORY.items():
        memory = cu.CUexternalMemoryHandleType(number).name.lower()
        assert memory == f"cu_external_memory_handle_type_{names.get(ours, ours)}"
    for ours, number in taking.SEMAPHORES.items():
        semaphore = cu.CUexternalSemaphoreHandleType(number).name.lower()
        assert semaphore == f"cu_external_semaphore_handle_type_{ours}"
    kinds = cu.CUexternalSemaphoreHandleType
    assert taking.TIMELINES == {
        "opaque_fd": kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD,
        "opaque_win32": kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_WIN32,
        "d3d12_fence": kinds.CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_D3D12_FENCE,
    }
    if sys.platform != "win32":  # where the directory has a descriptor behind them
        assert taking.kind_of(memory_type("opaque_win32"), taking.MEMORY) == 1
        assert taking.kind_of(sync_type("semaphore", "opaque_win32"), taking.TIMELINES) == 9
    with pytest.raises(Unsupported, match="CUDA imports no sync_fd of a semaphore"):
        taking.kind_of(sync_type("semaphore", "sync_fd"), taking.SEMAPHORES)


def refused(descriptor: int) -> None:
    """Some drivers close what they refuse."""
    os.close(descriptor)
    os.fstat(descriptor)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors")
def test_cuda_gets_a_duplicate(gpu: extmem.Device) -> None:
    with gpu.allocate(64, export="opaque_fd") as memory, memory.export() as handle:
        given: list[int] = []
        with taking.lent(handle, given.append):
            pass  # it took it, and closes it some time
        assert given[0] != handle.value
        assert os.path.sameopenfile(given[0], handle.value)
        os.close(given.pop())
        with pytest.raises(KeyError), taking.lent(handle, given.append):
            raise KeyError
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(given.pop())
        with pytest.raises(OSError, match="Bad file"), taking.lent(handle, given.append):
            refused(given[0])
        os.fstat(handle.value)


def test_what_has_no_handle_or_passport(gpu: extmem.Device) -> None:
    with gpu.allocate(64) as memory, pytest.raises(Unsupported, match="export='opaque_fd'"):
        memory.cuda()
    with gpu.semaphore() as semaphore, pytest.raises(Unsupported, match="export='opaque_fd'"):
        semaphore.cuda()
    with gpu.allocate(64, export="opaque_win32") as memory:
        memory.close()
        with pytest.raises(ClosedError):
            memory.cuda()
    with gpu.allocate(64, export="opaque_win32") as memory, memory.export() as handle:
        handle.passport = None
        with pytest.raises(Unsupported, match="no passport that says which GPU"):
            extmem.interop.cuda.import_memory(handle)  # type: ignore[attr-defined]
        with pytest.raises(Unsupported, match="no passport that says which GPU"):
            extmem.interop.cuda.import_semaphore(handle)  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: descriptors")
def test_an_import_keeps_its_handle_for_cuda(
    gpu: extmem.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NVIDIA, whose driver does not export again what it has imported."""
    with gpu.allocate(64, export="opaque_fd") as memory, memory.export() as handle:
        with gpu.import_memory(handle) as again:
            assert again._origin is None
            assert not again.gives_handles
        monkeypatch.setattr(remembering, "can_be_cudas", lambda _: True)
        for given, passport in ((handle, None), (handle.value, memory.passport)):
            with gpu.import_memory(given, passport=passport) as again:
                assert again.gives_handles
                with remembering.origin(again, ("opaque_fd",)) as found:
                    assert os.path.sameopenfile(found.value, handle.value)
                    assert found.passport == memory.passport
        with gpu.semaphore(export="opaque_fd") as done, done.export() as given_by:
            imported = gpu.import_semaphore(given_by)
            with remembering.origin(imported, ("opaque_fd",)) as found:
                assert found.passport == given_by.passport
            imported.close()
            assert imported._origin is None


# -- where memory is ------------------------------------------------------------------------------


def test_the_embedded_device_is_the_processors(gpu: extmem.Device) -> None:
    with gpu.allocate(64, export="opaque_win32") as memory:
        assert placing.place(memory) == "cpu"
        array = memory.array(4)
        assert (array.device, array.__dlpack_device__()) == ("cpu", (1, 0))
        assert not hasattr(array, "__cuda_array_interface__")
        del array
        with pytest.raises(ValueError, match="expected 'cpu', 'cuda'"):
            memory.array(4, device="gpu")
    with (
        gpu.allocate(64, export="opaque_win32", memory="device_local") as memory,
        pytest.raises(TensorError, match="no GPU of NVIDIA's"),
    ):
        memory.__dlpack_device__()
    with (
        gpu.allocate(64, export="opaque_win32", memory="device_local") as memory,
        pytest.raises(TensorError, match="not CUDA's because device is 'cpu'"),
    ):
        memory.array(4, device="cpu")


def test_the_variable_decides_for_who_says_nothing(
    gpu: extmem.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu.allocate(64, export="opaque_win32") as memory:
        for value, found in (("cuda", "cuda"), ("cpu", "cpu"), ("", "cpu")):
            monkeypatch.setenv("EXTMEM_TENSORS", value)
            assert placing.place(memory) == found
            assert placing.place(memory, "cpu") == "cpu"
        monkeypatch.setenv("EXTMEM_TENSORS", "gpu")
        with pytest.raises(ValueError, match="EXTMEM_TENSORS is 'gpu'; expected 'cpu', 'cuda'"):
            memory.array(4)


def test_optimal_images_are_no_arrays(gpu: extmem.Device) -> None:
    with gpu.image((4, 4), "rgba8") as image, pytest.raises(TensorError, match="mipmapped"):
        image.memory.array(64)
    with gpu.image((4, 4), "rgba8", tiling="linear") as image:
        assert image.memory.array(64).__dlpack_device__() == (1, 0)


@pytest.mark.parametrize(
    ("name", "found"),
    [("rgba8", ("uint8", 4)), ("rg16f", ("float16", 2)), ("r32f", ("float32", 1)),
     ("rgba8_snorm", ("int8", 4)), ("r32_uint", ("uint32", 1))],
)  # fmt: skip
def test_texels(gpu: extmem.Device, name: str, found: tuple[str, int]) -> None:
    with gpu.image((4, 6), name, levels=1) as image:
        assert images.texels_of(image.info) == found
    optional("cuda.bindings", "pip install cuda-bindings==13.5.0")
    about = images.described(image.info)
    array = about.arrayDesc
    assert (array.Width, array.Height, array.Depth, array.NumChannels) == (6, 4, 0, found[1])
    assert np.dtype(found[0]).itemsize == {1: 1, 8: 1, 3: 4, 16: 2, 32: 4}[int(array.Format)]
    assert about.numLevels == 1


def test_images_that_cuda_has_not() -> None:
    with pytest.raises(Unsupported, match="several planes"):
        images.texels_of(ImageInfo(1, 1000156003, 4, 4, 1, 1, 1, 1, 0, 0))  # nv12
    optional("cuda.bindings", "pip install cuda-bindings==13.5.0")
    with pytest.raises(Unsupported, match="one sample"):
        images.described(ImageInfo(1, 37, 4, 4, 1, 1, 1, 4, 0, 0))


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [0, -2, "1", 1.5, object()])
def test_streams_that_are_none(stream: Any) -> None:
    with pytest.raises(TensorError, match="stream is"):
        streams.of_dlpack(stream)


def test_streams_of_others() -> None:
    for given_, expected in (
        (SimpleNamespace(cuda_stream=77), 77),  # PyTorch
        (SimpleNamespace(cuda_stream=0), 1),
        (SimpleNamespace(ptr=78), 78),  # CuPy
        (SimpleNamespace(handle=SimpleNamespace(value=79)), 79),  # Numba
        (SimpleNamespace(__cuda_stream__=lambda: (0, 80)), 80),
        (2, 2),
        (np.int64(81), 81),
        (ctypes.c_void_p(82), 82),  # Numba's own bindings
        (ctypes.c_void_p(0), 1),
        (SimpleNamespace(handle=ctypes.c_void_p(0)), 1),
        (ctypes.c_uint64(83), 83),
    ):
        assert streams.number_of(given_) == expected
    for refused_ in ("default", "7", b"7", 1.5, True, None, object()):
        with pytest.raises(TypeError, match=r"is no CUDA stream; expected one of PyTorch, CuPy"):
            streams.number_of(refused_)
    with pytest.raises(ValueError, match="expected 0, 1, 2"):
        streams.number_of(-1)


def test_streams_of_the_bindings() -> None:
    cu: Any = optional("cuda.bindings.driver", "pip install cuda-bindings==13.5.0")
    runtime: Any = optional("cuda.bindings.runtime", "pip install cuda-bindings==13.5.0")
    for made in (cu.CUstream, runtime.cudaStream_t):
        assert streams.number_of(made(77)) == 77
        assert streams.number_of(made(0)) == 1


def in_another_thread(act: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found[0]


def test_the_default_stream_of_each_thread() -> None:
    here = streams.lane_of(streams.PER_THREAD)
    others = [in_another_thread(lambda: streams.lane_of(streams.PER_THREAD)) for _ in range(2)]
    assert streams.lane_of(streams.PER_THREAD) == here
    assert len({here, *others}) == 3  # also of threads that the system calls the same
    assert in_another_thread(lambda: streams.lane_of(77)) == streams.lane_of(77)


# -- arrays and capsules --------------------------------------------------------------------------


class Noted(Order):
    """What happened, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None]] = []

    def begin(self, stream: int | None) -> None:
        self.seen.append(("begin", stream))

    def end(self, stream: int | None) -> None:
        self.seen.append(("end", stream))


@pytest.fixture
def endings() -> Endings:
    return Endings("this test")


def array_of(endings: Endings, shape: Any = (3, 4), dtype: str = "float32", **rest: Any) -> Any:
    options = {"offset": 64, "strides": None, **rest}
    return CudaArray(endings, 1, lambda: ADDRESS, SIZE, shape, dtype, **options)


def taken(array: CudaArray, stream: Any, version: tuple[int, int] | None) -> Taken:
    return Taken(Asking(array, stream=stream, max_version=version))


VERSIONS = [None, (1, 0)] if NUMPY_HAS_VERSIONS else [None]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64", "complex64", "bfloat16"])
def test_what_a_capsule_says(endings: Endings, version: Any, dtype: str) -> None:
    array = array_of(endings, dtype=dtype)
    tensor = taken(array, None, version)
    assert tensor.__dlpack_device__() == array.__dlpack_device__() == (2, 1)
    assert (tensor.tensor.data or 0) + tensor.tensor.byte_offset == ADDRESS + 64 == array.pointer
    assert (tensor.shape, tensor.dtype) == ((3, 4), dtype)
    if tensor.tensor.strides:  # older NumPys leave them out where there are no gaps
        assert [tensor.tensor.strides[each] for each in range(2)] == [4, 1]
    assert not tensor.read_only
    assert endings.users == 2
    del array
    assert endings.users == 1
    tensor.delete()
    assert endings.users == 0


@pytest.mark.skipif(not NUMPY_HAS_VERSIONS, reason="hardware: NumPy 2.1")
def test_a_capsule_to_read_alone(endings: Endings) -> None:
    array = array_of(endings, read_only=True)
    tensor = taken(array, 1, (1, 0))
    assert tensor.read_only
    tensor.delete()
    with pytest.raises(TensorError, match="to be read alone"):
        array.__dlpack__()  # before 1.0 nobody can be told
    assert array.__cuda_array_interface__["data"] == (ADDRESS + 64, True)


@pytest.mark.parametrize(
    ("stream", "number"), [(None, 1), (1, 1), (2, 2), (0x5555_0000, 0x5555_0000), (-1, None)]
)
def test_the_order_is_the_streams(endings: Endings, stream: Any, number: int | None) -> None:
    order = Noted()
    array = array_of(endings, order=order)
    first, second = taken(array, stream, None), taken(array, stream, None)
    assert order.seen == [("begin", number)] * 2
    first.delete()
    assert order.seen[2:] == [("end", number)]
    del array
    second.delete()
    assert order.seen[3:] == [("end", number)]
    assert endings.users == 0


def test_a_capsule_that_nobody_takes(endings: Endings) -> None:
    order = Noted()
    array = array_of(endings, order=order)
    capsule = array.__dlpack__(stream=2)
    assert endings.users == 2
    del capsule
    assert order.seen == [("begin", 2), ("end", 2)]
    assert endings.users == 1


def test_closed_meanwhile_nothing_begins(endings: Endings) -> None:
    order = Noted()
    array = array_of(endings, order=order)
    endings.close()
    with pytest.raises(ClosedError):
        array.__dlpack__()
    assert order.seen == []  # what has begun would have no end


def test_what_cannot_begin_keeps_nothing(endings: Endings) -> None:
    class Refusing(Order):
        def begin(self, stream: int | None) -> None:
            raise KeyError(stream)

    array = array_of(endings, order=Refusing())
    with pytest.raises(KeyError):
        array.__dlpack__()
    assert endings.users == 1


def test_what_a_capsule_cannot_be(endings: Endings) -> None:
    array = array_of(endings)
    for options, says in (
        ({"dl_device": (1, 0)}, r"dl_device is \(1, 0\).*on CUDA's GPU 1"),
        ({"dl_device": (2, 0)}, r"dl_device is \(2, 0\)"),
        ({"copy": True}, "clone"),
        ({"stream": 0}, "may mean two streams"),
    ):
        with pytest.raises(BufferError, match=says):
            array.__dlpack__(**options)
    assert endings.users == 1
    array.__dlpack__(dl_device=(2, 1), copy=False)
    with pytest.raises(TensorError, match=r"on CUDA's GPU 1, from 0x7f0.* in none of the 0"):
        extmem.from_dlpack(array)  # nothing was imported


def test_the_array_interface(endings: Endings) -> None:
    array = array_of(endings)
    assert array.__cuda_array_interface__ == {
        "shape": (3, 4),
        "typestr": "<f4",
        "data": (ADDRESS + 64, False),
        "strides": None,
        "version": 3,
        "stream": 1,
    }
    gaps = array_of(endings, strides=(32, 8))
    assert gaps.__cuda_array_interface__["strides"] == (32, 8)
    assert array_of(endings, dtype="bfloat16").__cuda_array_interface__["typestr"] == "|V2"
    assert array_of(endings, shape=(0, 4)).__cuda_array_interface__["data"][0] == 0


@pytest.mark.parametrize(
    ("shape", "rest", "says"),
    [
        ((1025,), {"offset": 0}, "needs 4100 bytes from offset 0"),
        ((2,), {"offset": SIZE - 4}, "4100 in all; this memory has 4096"),
        ((2,), {"offset": 2}, "multiples of 4"),
        ((2,), {"strides": (SIZE - 64,)}, "reaches from byte 64 to 4100"),
        ((2,), {"strides": (-68,)}, "reaches from byte -4"),
        ((2, 2), {"strides": (4,)}, "1 strides for 2"),
        ((-1,), {}, "no extent can be negative"),
    ],
)
def test_what_does_not_fit(endings: Endings, shape: Any, rest: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        array_of(endings, shape, **rest)
    assert endings.users == 0


def test_nothing_is_left_of_a_thousand(endings: Endings) -> None:
    array = array_of(endings)
    for _ in range(1000):
        taken(array, 1, VERSIONS[-1]).delete()
    assert endings.users == 1


def test_torch_takes_no_cuda_where_it_has_none(endings: Endings) -> None:
    torch: Any = optional("torch", "pip install torch==2.13.0")
    if torch.cuda.is_available():
        pytest.skip("hardware: a machine without a GPU")
    array = array_of(endings)
    with pytest.raises((RuntimeError, AssertionError)):
        torch.from_dlpack(array)
    assert endings.users == 1  # and whatever it did with the capsule, it is freed


# -- the end --------------------------------------------------------------------------------------


def noted(endings: Endings) -> list[str]:
    done: list[str] = []
    for each in ("import", "mapping", "array"):
        endings.then(lambda each=each: done.append(each))  # type: ignore[misc]
    return done


ORDER = ["array", "mapping", "import"]


def test_whoever_is_done_first(endings: Endings) -> None:
    done = noted(endings)
    endings.take()
    endings.take()
    endings.leave()
    endings.close()
    endings.close()
    assert (done, endings.closed, endings.freed) == ([], True, False)
    with pytest.raises(ClosedError, match="this test is closed"):
        endings.take()
    endings.leave()
    assert (done, endings.freed) == (ORDER, True)
    late: list[str] = []
    with pytest.raises(ClosedError):
        endings.then(lambda: late.append("late"))
    assert late == ["late"]


def test_all_is_freed_although_one_fails(
    endings: Endings, caplog: pytest.LogCaptureFixture
) -> None:
    done = noted(endings)
    endings.then(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        endings.close()
    assert done == ORDER
    other = Endings("another")
    done = noted(other)
    other.then(lambda: 1 // 0)
    other.take()
    other.close()
    other.leave()  # where nobody could catch it
    assert done == ORDER
    assert "another was not freed as it should be" in caplog.text


@given(st.lists(st.sampled_from(["take", "leave", "close"]), max_size=12))
def test_any_sequence_frees_once_and_last(acts: list[str]) -> None:
    endings, users, closed = Endings("this test"), 0, False
    done = noted(endings)
    for act in acts:
        if act == "take" and not closed:
            endings.take()
            users += 1
        elif act == "leave" and users:
            endings.leave()
            users -= 1
        elif act == "close":
            endings.close()
            closed = True
        assert done == (ORDER if closed and not users else [])
    assert endings.users == users


def test_a_forked_child_frees_nothing(endings: Endings) -> None:
    done = noted(endings)
    endings.forget()
    endings.close()
    assert done == []


# -- the end of frames, on streams ----------------------------------------------------------------


class Commands:
    """A timeline that notes what CUDA is told about it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def cuda(self) -> Commands:
        return self

    def wait(self, value: int, stream: int) -> None:
        self.told.append(("wait", value, stream))

    def signal(self, value: int, stream: int) -> None:
        self.told.append(("signal", value, stream))

    def close(self) -> None:
        self.told.append(("close", 0, 0))


def test_returns_come_in_order_on_any_streams() -> None:
    commands: Any = Commands()
    returns = Returns(lambda: commands)
    for stream in (7, 7, 9, 0):
        returns.signal(stream)
    returns.close()
    assert commands.told == [
        ("signal", 1, 7),
        ("signal", 2, 7),
        ("wait", 2, 9),
        ("signal", 3, 9),
        ("wait", 3, 1),  # CUDA's default stream
        ("signal", 4, 1),
        ("close", 0, 0),
    ]


class Reached:
    """A timeline that the test moves."""

    def __init__(self) -> None:
        self.value = 0

    def waitable(self, value: int) -> None:
        pass

    def wait(self, value: int, timeout: float) -> None:
        raise TimeoutError


@pytest.mark.parametrize("order", list(itertools.permutations(["release", "tensor", "device"])))
def test_a_frame_goes_back_when_all_are_done(order: tuple[str, ...]) -> None:
    """Released, its tensor gone, the device there: in any order that can be."""
    gone: list[bool] = []
    lease, leases, timeline = Lease(lambda: gone.append(True)), Leases(), Reached()
    returns: Any = SimpleNamespace(signal=lambda stream: (timeline, 1))
    leased = Leased(lease, leases, returns, [], lambda: None)
    leased.begin(1)
    for what in order:
        assert gone == []
        if what == "release":
            lease.release([])
            leases.add(lease)
        elif what == "tensor":
            leased.end(1)
        else:
            timeline.value = 1
            leases.settle()
    leases.settle()
    assert gone == [True]
    leases.close()


def test_a_stream_that_is_no_more_is_waited_for_here(caplog: pytest.LogCaptureFixture) -> None:
    gone: list[str] = []

    def broken(stream: Any) -> Any:
        raise DriverError("CUDA_ERROR_INVALID_HANDLE", "cuSignalExternalSemaphoresAsync")

    lease, leases = Lease(lambda: gone.append("lease")), Leases()
    returns: Any = SimpleNamespace(signal=broken)
    leased = Leased(lease, leases, returns, [], lambda: gone.append("finished"))
    leased.begin(5)
    leased.end(5)
    leased.begin(None)
    leased.end(None)  # whose stream nobody knows
    assert gone == ["finished", "finished"]
    lease.release([])
    leases.add(lease)
    assert gone == ["finished", "finished", "lease"]
    assert "was not seen on its stream" in caplog.text
    leases.close()


def test_a_stream_of_another_thread_is_waited_for_here() -> None:
    done: list[Any] = []

    def signal(stream: int) -> Any:
        done.append(stream)
        return Reached(), 0

    returns: Any = SimpleNamespace(signal=signal)
    lease, leases = Lease(lambda: None), Leases()

    def leased() -> Leased:
        return Leased(lease, leases, returns, [], lambda: done.append("finished"))

    first = leased()
    first.begin(streams.PER_THREAD)
    first.end(streams.PER_THREAD)
    assert done == [streams.PER_THREAD]
    second = leased()
    second.begin(streams.PER_THREAD)
    in_another_thread(lambda: second.end(streams.PER_THREAD))
    assert done[1:] == ["finished"]
    third = leased()  # of two threads: nobody knows whose tensor ends
    third.begin(streams.PER_THREAD)
    in_another_thread(lambda: third.begin(streams.PER_THREAD))
    third.end(streams.PER_THREAD)
    third.end(streams.PER_THREAD)
    assert done[2:] == ["finished"] * 2
    leases.close()


def test_returns_of_two_threads_default_streams() -> None:
    commands: Any = Commands()
    returns = Returns(lambda: commands)
    returns.signal(streams.PER_THREAD)
    in_another_thread(lambda: returns.signal(streams.PER_THREAD))
    returns.close()
    assert commands.told[:3] == [("signal", 1, 2), ("wait", 1, 2), ("signal", 2, 2)]


# -- what CUDA's driver is told, in which order ---------------------------------------------------


class Told:
    """Notes what would be called; nothing of it is done."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: set[str] = set()

    def __call__(self, name: str, *arguments: Any) -> int:
        if name.endswith("SemaphoresAsync"):
            (about,), stream = arguments[1], arguments[3]
            arguments = (about.params.fence.value, stream)
        self.calls.append((name, *arguments))
        if name in self.fails:
            raise DriverError("CUDA_ERROR_UNKNOWN", name)
        return ADDRESS


WAIT, SIGNAL = "cuWaitExternalSemaphoresAsync", "cuSignalExternalSemaphoresAsync"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    optional("cuda.bindings", "pip install cuda-bindings==13.5.0")
    noted_ = Told()
    for module in (driver, semaphores, memories):
        monkeypatch.setattr(module, "call", noted_)
    monkeypatch.setattr(Gpu, "current", lambda _: nullcontext())
    return noted_


def test_values_come_in_order_on_any_streams(told: Told) -> None:
    with CudaSemaphore(5, gpus((A, None))[0], True) as timeline:
        for value, stream in ((1, 7), (2, 7), (3, 9), (5, 9)):
            timeline.signal_next(value, stream)
        timeline.signal_next(6, 2)
        in_another_thread(lambda: timeline.signal_next(7, 2))
    assert told.calls == [
        (SIGNAL, 1, 7),
        (SIGNAL, 2, 7),
        (WAIT, 2, 9),
        (SIGNAL, 3, 9),
        (WAIT, 4, 9),  # which somebody else signals
        (SIGNAL, 5, 9),
        (WAIT, 5, 2),
        (SIGNAL, 6, 2),
        (WAIT, 6, 2),  # the number is the same, and not the stream
        (SIGNAL, 7, 2),
        ("cuDestroyExternalSemaphore", 5),
    ]


def test_calls_in_the_midst_of_another(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may end a tensor, and so signal, while the thread is about to signal."""
    with CudaSemaphore(5, gpus((A, None))[0], True) as timeline:
        inner = [2, 3]

        def current(_: Gpu) -> Any:
            if inner:
                timeline.signal(inner.pop(), 7)
                timeline.wait(9, 7)
            return nullcontext()

        monkeypatch.setattr(Gpu, "current", current)
        timeline.signal(1, 7)
        signals = [each for each in told.calls if each[0] == SIGNAL]
        assert sorted(signals) == [(SIGNAL, 1, 7), (SIGNAL, 2, 7), (SIGNAL, 3, 7)]


@contextmanager
def publisher(gpu: extmem.Device, patch: pytest.MonkeyPatch) -> Iterator[extmem.Stream]:
    """A stream whose frames are left as CUDA's are."""
    known = gpus((A, None))[0]
    patch.setattr(extmem.Memory, "cuda", lambda _: SimpleNamespace(gpu=known))
    with (
        CudaSemaphore(5, known, True) as there,
        extmem.publish("cudas-order", shape=1, dtype="uint8", slots=4, device=gpu) as stream,
    ):
        patch.setattr(extmem.Semaphore, "cuda", lambda _: there)
        yield stream
        assert stream._promises.timeline is not None
        stream._promises.timeline.signal(1000)  # for all that nobody did


def write(stream: extmem.Stream, lane: streams.Lane) -> None:
    """A frame that CUDA's stream would write."""
    with stream.frame() as frame:
        frame._cuda.add(lane)


def test_frames_on_two_streams_are_promised_in_order(
    gpu: extmem.Device, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publisher(gpu, monkeypatch) as stream:
        for number in (100, 100, 200):
            write(stream, streams.lane_of(number))
        assert told.calls == [(SIGNAL, 1, 100), (SIGNAL, 2, 100), (WAIT, 2, 200), (SIGNAL, 3, 200)]


def test_a_frame_that_another_threads_stream_writes(
    gpu: extmem.Device, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with publisher(gpu, monkeypatch) as stream:
        write(stream, in_another_thread(lambda: streams.lane_of(streams.PER_THREAD)))
        write(stream, streams.lane_of(streams.PER_THREAD))
        assert told.calls == [("cuCtxSynchronize",), (SIGNAL, 1, 2)]


@pytest.mark.parametrize("fails", [WAIT, SIGNAL])
def test_a_promise_that_cannot_be_made_is_over(
    gpu: extmem.Device, told: Told, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    with publisher(gpu, monkeypatch) as stream:
        timeline = stream._promises.timeline
        assert timeline is not None
        write(stream, streams.lane_of(100))
        timeline.signal(1)  # what stream 100 would do
        told.fails.add(fails)
        with pytest.raises(DriverError, match=fails):
            write(stream, streams.lane_of(200))
        assert told.calls[-1] == ("cuCtxSynchronize",)
        assert (timeline.value, stream._promises.running(), stream._writing) == (2, 0, 0)
        assert stream.sequence == 1
        told.fails.clear()
        write(stream, streams.lane_of(200))
        assert told.calls[-2:] == [(WAIT, 2, 200), (SIGNAL, 3, 200)]


def test_an_import_that_fails_promises_nothing(
    gpu: extmem.Device, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_: Any) -> Any:
        raise Unsupported("another GPU")

    with publisher(gpu, monkeypatch) as stream:
        monkeypatch.setattr(extmem.Semaphore, "cuda", refusing)
        with pytest.raises(Unsupported, match="another GPU"):
            write(stream, streams.lane_of(100))
        assert told.calls == [("cuCtxSynchronize",)]
        assert (stream._promises.any, stream._writing) == (False, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_forgotten_is_freed(told: Told) -> None:
    known = gpus((A, None))[0]
    forgotten: Any = CudaMemory(5, known, 64, None)
    assert forgotten.pointer == ADDRESS
    tensor = taken(forgotten.array(16), 1, None)
    told.calls.clear()
    del forgotten
    gc.collect()
    assert told.calls == []  # a tensor keeps it
    tensor.delete()
    gc.collect()
    assert told.calls == [
        ("cuCtxSynchronize",),
        ("cuMemFree", ADDRESS),
        ("cuDestroyExternalMemory", 5),
    ]
    told.calls.clear()
    unused: Any = CudaSemaphore(6, known, True)
    del unused
    gc.collect()
    assert told.calls == [("cuDestroyExternalSemaphore", 6)]
    told.calls.clear()
    used: Any = CudaSemaphore(7, known, True)
    used.wait(1, 7)
    del used
    gc.collect()
    assert told.calls == [(WAIT, 1, 7)]  # the stream may not have come to it


def test_what_is_forgotten_is_told(told: Told) -> None:
    known = gpus((A, None))[0]
    for made in (CudaMemory(5, known, 64, None), CudaSemaphore(6, known, True)):
        with pytest.warns(ResourceWarning, match=r"never closed; made at .*test_cuda"):
            made.__del__()
        assert made.closed


def test_types_of_dlpack_are_told_apart() -> None:
    assert dlpack.CPU[0] != dlpack.CUDA
