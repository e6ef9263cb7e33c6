"""Memory as tensors of other libraries: the same bytes, held as views are, in every order."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import extmem
from extmem import Array, ClosedError, Device, Memory, TensorError, ViewsAlive, vk
from tests.support import second
from tests.support.second import Channel
from tests.support.strict import driver_cannot, optional
from tests.support.tensors import NUMPY_HAS_VERSIONS, Asking, Taken, Twice, writable

SIZE = 10_000  # bytes; no multiple of anything
KIND = "opaque_win32" if sys.platform == "win32" else "opaque_fd"

Consumer = Callable[[Any], Any]


def _deleted(tensor: Any) -> None:
    """What a consumer does when it is done."""
    if isinstance(tensor, Taken):
        tensor.delete()


def consumer_of(name: str) -> Consumer:
    if name == "torch":
        torch = optional("torch", "pip install torch==2.13.0")
        return torch.from_dlpack  # type: ignore[no-any-return]
    return {"numpy": np.from_dlpack, "plain": Taken}[name]


@pytest.fixture(scope="session", params=["plain", "numpy", "torch"])
def consumer(request: pytest.FixtureRequest) -> Consumer:
    """What takes a tensor. For the session: PyTorch starts threads that are no test's leak."""
    take = consumer_of(request.param)
    if request.param == "torch":
        take(np.zeros(4, "uint8"))
    return take


@pytest.fixture(autouse=True)
def _with_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA is installed, exportable memory would be a tensor of that."""
    monkeypatch.setenv("EXTMEM_TENSORS", "cpu")


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def memory(gpu: Device) -> Memory:
    return gpu.allocate(SIZE)


@pytest.fixture
def plain(used_before: None) -> Iterator[Memory]:
    """Memory of the embedded device, for what no driver has a part in."""
    with extmem.open_device(driver="embedded") as device:
        yield device.allocate(SIZE)


# -- the same bytes -------------------------------------------------------------------------------


def test_written_here_and_there(memory: Memory, consumer: Consumer) -> None:
    tensor = consumer(memory)
    assert tuple(tensor.shape) == (SIZE,)
    assert "uint8" in str(tensor.dtype)
    assert memory.__dlpack_device__() == (1, 0)
    memory.numpy()[:] = 5
    assert int(tensor[0]) == int(tensor[SIZE - 1]) == 5
    if writable(tensor):
        tensor[7] = 77
        assert memory.numpy()[7] == 77
    _deleted(tensor)


def write_there(channel: Channel, driver: str, name: str, passport: str) -> list[int]:
    """Imports memory, reads and writes it through a tensor of its own."""
    take = consumer_of(name)
    handle, fds = channel.receive()
    with extmem.open_device(driver=driver) as gpu:
        memory = gpu.import_memory(
            fds[0] if fds else handle, handle_type=KIND, passport=bytes.fromhex(passport)
        )
        tensor = take(memory.array((SIZE // 4,), "int32"))
        memory.invalidate()
        if isinstance(tensor, Taken):
            read = [tensor[0], tensor[4 * 9]]
            tensor[4 * 5] = 55
        else:
            read = [int(tensor[0]), int(tensor[9])]
            if writable(tensor):
                tensor[5] = 55
            else:
                memory.numpy("int32")[5] = 55
        memory.flush()
        with pytest.raises(ViewsAlive):
            memory.close()
        _deleted(tensor)
        del tensor
    return read


def test_two_processes(
    request: pytest.FixtureRequest, gpu: Device, driver: str, consumer: Consumer
) -> None:
    name = request.node.callspec.params["consumer"]
    if not gpu.physical.can_export(KIND):
        driver_cannot(f"it exports no {KIND}")
    memory = gpu.allocate(SIZE, export=KIND)
    tensor = consumer(memory.array((SIZE // 4,), "int32"))
    memory.numpy("int32")[:] = np.arange(SIZE // 4)
    memory.flush()
    passport = memory.passport.encode().hex()
    with (
        memory.export() as handle,
        second.start(write_there, driver=driver, name=name, passport=passport) as other,
    ):
        if sys.platform == "win32":
            other.send(other.give(handle.value))
        else:
            other.send(None, [handle.value])
        assert other.result() == [0, 9]
    memory.invalidate()
    assert int(tensor[4 * 5 if isinstance(tensor, Taken) else 5]) == 55
    _deleted(tensor)


NUMBERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
           "float16", "float32", "float64", "complex64", "complex128"]  # fmt: skip


@pytest.mark.parametrize("dtype", [*NUMBERS, "bfloat16"])
def test_element_types(plain: Memory, consumer: Consumer, dtype: str) -> None:
    array = plain.array((3, 2), dtype, offset=16)
    assert array.dtype == dtype
    if dtype == "bfloat16":
        plain.numpy("uint16")[8:14] = [0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0]  # 0 to 5
        if consumer is np.from_dlpack:
            with pytest.raises((BufferError, RuntimeError)):
                np.from_dlpack(array)
            return
    else:
        array.numpy()[...] = np.arange(6).reshape(3, 2)
    tensor = consumer(array)
    assert dtype in str(tensor.dtype)
    assert tuple(tensor.shape) == (3, 2)
    if not isinstance(tensor, Taken):
        like = "float32" if dtype == "bfloat16" else dtype
        assert tensor.tolist() == np.array([[0, 1], [2, 3], [4, 5]]).astype(like).tolist()
    _deleted(tensor)


def test_numpy_looks_at_bfloat16(plain: Memory) -> None:
    array = plain.array(4, "bfloat16")
    assert array.nbytes == 8
    assert np.asarray(array).dtype == np.dtype("V2")
    if "ml_dtypes" not in sys.modules:
        with pytest.raises(TypeError, match="ml_dtypes"):
            array.numpy()


@pytest.mark.parametrize("dtype", ["O", "U4", "datetime64[s]", "V8", "i4,f8"])
def test_what_is_no_number(plain: Memory, dtype: str) -> None:
    with pytest.raises(TypeError, match="array has numbers"):
        plain.array(4, dtype)


def test_the_other_byte_order_stays_in_numpy(plain: Memory) -> None:
    array = plain.array(4, ">u4")
    assert array.dtype == ">u4"
    array.numpy()[0] = 1
    assert plain.numpy()[3] == 1
    with pytest.raises(BufferError):
        array.__dlpack__(max_version=(1, 0))


SHAPES = [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (2, 3, 4), (SIZE // 4 - 4,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(plain: Memory, consumer: Consumer, shape: tuple[int, ...]) -> None:
    array = plain.array(shape, "float32", offset=16)
    assert (array.shape, array.nbytes) == (shape, 4 * int(np.prod(shape)))
    plain.numpy("float32")[4] = 2.5
    tensor = consumer(array)
    assert tuple(tensor.shape) == shape
    if array.nbytes and not isinstance(tensor, Taken):
        assert float(tensor.reshape(-1)[0]) == 2.5
    view = np.asarray(array)
    assert (view.shape, view.dtype) == (shape, np.float32)
    with pytest.raises(ViewsAlive):
        plain.close()
    _deleted(tensor)


@pytest.mark.parametrize(
    ("shape", "dtype", "offset", "says"),
    [
        ((2501,), "uint32", 0, r"\(2501,\) of uint32 needs 10004 .*offset 0.*has 10000"),
        ((2500,), "uint32", 4, r"needs 10000 bytes from offset 4 on, 10004 in all.*has 10000"),
        ((1 << 62, 1 << 62), "uint8", 0, "needs 21267"),
        ((0,), "uint8", SIZE + 1, "has 10000"),
        ((1,), "float32", 3, "offset is 3; float32 begins at multiples of 4"),
        ((1,), "bfloat16", 1, "offset is 1; bfloat16 begins at multiples of 2"),
        ((1,), "uint8", -1, "offset is -1"),
        ((2, -1), "uint8", 0, "no extent can be negative"),
    ],
)
def test_what_does_not_fit(plain: Memory, shape: Any, dtype: str, offset: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plain.array(shape, dtype, offset=offset)
    assert plain.views == 0


def test_extents_of_any_whole_number(plain: Memory) -> None:
    for shape in (np.int64(5), (np.uint8(5),), [5], np.array([5])):
        assert plain.array(shape).shape == (5,)
    assert plain.array(np.array([2, 3])).shape == (2, 3)  # type: ignore[arg-type]
    for wrong in (1.5, "5", (2, 1.5), None):
        with pytest.raises(TypeError, match=r"shape is .*; expected a whole number, or a sequence"):
            plain.array(wrong)  # type: ignore[arg-type]


def test_what_is_pickled_says_whose_tensors_it_makes(
    plain: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = plain.array((2, 3), "float32", offset=64)
    monkeypatch.setenv("EXTMEM_TENSORS", "cuda")  # where it arrives
    make, about = array.__reduce__()
    again = make(*about)
    assert (again.device, again.shape, again.dtype, again.offset) == ("cpu", (2, 3), "float32", 64)


def test_up_to_the_last_byte(plain: Memory) -> None:
    plain.array(1, "uint8", offset=SIZE - 1).numpy()[0] = 9
    assert plain.numpy()[-1] == 9
    assert plain.array((0,), "uint8", offset=SIZE).shape == (0,)
    assert "at offset 9999" in repr(plain.array(1, offset=SIZE - 1))


# -- what a consumer may ask for ------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 3), (2, 0)])
def test_versions(plain: Memory, version: tuple[int, int] | None) -> None:
    taken = Taken(plain, version)
    assert taken.versioned == (version is not None and version >= (1, 0) and NUMPY_HAS_VERSIONS)
    assert not taken.read_only
    assert not taken.copied
    if taken.versioned:
        assert taken.managed.major == 1
    taken.delete()


def test_nothing_that_the_processor_has_not(plain: Memory) -> None:
    for parameters in ({"stream": 1}, {"dl_device": (2, 0)}, {"dl_device": (1, 1)}):
        with pytest.raises(TensorError):
            plain.__dlpack__(**parameters)  # type: ignore[arg-type]
    assert plain.views == 0
    _deleted(np.from_dlpack(Asking(plain, dl_device=(1, 0), copy=False, stream=None)))


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_copy_is_made_when_it_is_asked_for(plain: Memory, version: Any) -> None:
    plain.numpy()[0] = 1
    copy = Taken(Asking(plain, copy=True, max_version=version))
    assert copy.copied == copy.versioned
    plain.numpy()[0] = 2
    assert copy[0] == 1
    assert plain.views == 0
    plain.close()
    copy.delete()


def test_memory_that_only_the_device_sees(used_before: None) -> None:
    with extmem.open_device(driver="embedded") as gpu, gpu.allocate(64, memory="device_local") as m:
        for ask in (
            m.__dlpack__,
            m.__dlpack_device__,
            lambda: m.array(4),
            lambda: np.from_dlpack(m),
        ):
            with pytest.raises(extmem.Unsupported, match=r"host_visible.*Device\.copy"):
                ask()  # type: ignore[operator]
        with pytest.raises(BufferError):
            m.__dlpack__()


def test_closed_memory(plain: Memory) -> None:
    plain.close()
    for ask in (plain.__dlpack__, lambda: plain.array(4)):
        with pytest.raises(ClosedError):
            ask()


def test_a_part_that_was_mapped_by_hand(plain: Memory) -> None:
    view = vk.vkMapMemory(plain.device.handle, plain.handle, 4096, 256)
    with pytest.raises(extmem.Unsupported, match="256 bytes from 4096 on"):
        plain.array(4)
    del view
    vk.vkUnmapMemory(plain.device.handle, plain.handle)
    assert plain.array(4).shape == (4,)


# -- to read alone --------------------------------------------------------------------------------


@pytest.fixture
def readable(used_before: None) -> Iterator[tuple[Memory, Memory]]:
    """Memory, and an import of it that may only be read."""
    with extmem.open_device(driver="embedded") as gpu:
        memory = gpu.allocate(SIZE, export="opaque_win32", access="read")
        with memory.export() as handle:
            imported = gpu.import_memory(handle)
        assert imported.read_only
        yield memory, imported


def test_memory_to_read_alone(readable: tuple[Memory, Memory]) -> None:
    memory, imported = readable
    array = imported.array((10,), "uint16")
    assert array.read_only
    assert "read-only" in repr(array)
    for view in (array.numpy(), np.asarray(array), imported.numpy()):
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.setflags(write=True)
    memory.numpy()[0] = 3
    assert array.numpy()[0] == 3
    with pytest.raises(BufferError, match=r"before 1\.0"):
        imported.__dlpack__()
    if NUMPY_HAS_VERSIONS:
        taken = Taken(imported)
        assert taken.read_only
        assert taken[0] == 3
        taken.delete()
        assert not np.from_dlpack(imported).flags.writeable
        assert extmem.from_dlpack(np.from_dlpack(imported)).read_only
    else:
        with pytest.raises(BufferError, match=r"NumPy 2\.1"):
            imported.__dlpack__(max_version=(1, 0))
    copy = Taken(Asking(imported, copy=True))
    assert not copy.read_only
    copy[0] = 4
    assert memory.numpy()[0] == 3
    copy.delete()


# -- lifetimes ------------------------------------------------------------------------------------


def test_a_tensor_keeps_the_memory(driver: str, consumer: Consumer) -> None:
    gpu = extmem.open_device(driver=driver)
    memory = gpu.allocate(SIZE)
    tensor = consumer(memory)
    for end in (memory.close, gpu.close):
        with pytest.raises(ViewsAlive) as raised:
            end()
        assert raised.value.count == memory.views == 1
        del raised
    memory.numpy()[0] = 8
    assert int(tensor[0]) == 8
    _deleted(tensor)
    del tensor
    assert memory.views == 0
    memory.close()
    gpu.close()


def test_an_array_is_a_view(plain: Memory) -> None:
    array = plain.array(4)
    with pytest.raises(ViewsAlive):
        plain.close()
    view = np.asarray(array)
    del array
    with pytest.raises(ViewsAlive):
        plain.close()
    del view
    plain.close()


def test_a_capsule_that_nobody_takes(plain: Memory) -> None:
    for version in (None, (1, 0)):
        capsule = plain.__dlpack__(max_version=version)
        with pytest.raises(ViewsAlive):
            plain.close()
        del capsule
        assert plain.views == 0
    plain.close()


def test_a_capsule_that_two_take(plain: Memory, consumer: Consumer) -> None:
    twice = Twice(plain)
    first = consumer(twice)
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        consumer(twice)
    plain.numpy()[0] = 3
    assert int(first[0]) == 3
    with pytest.raises(ViewsAlive):
        plain.close()
    _deleted(first)


def test_deleted_by_other_threads(memory: Memory, consumer: Consumer) -> None:
    """Several at once, while this one tries to close."""
    tensors = [consumer(memory) for _ in range(200)]
    start = threading.Barrier(5)

    def work() -> None:
        start.wait()
        while True:
            try:
                tensor = tensors.pop()
            except IndexError:
                return
            _deleted(tensor)
            del tensor

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    while not memory.closed:
        with suppress(ViewsAlive):
            memory.close()
    for thread in threads:
        thread.join()
    assert not tensors


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: pthread_create")
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_deleted_by_a_thread_that_python_never_saw(plain: Memory, version: Any) -> None:
    libc = ctypes.CDLL(None)
    taken, thread = Taken(plain, version), ctypes.c_ulong()
    assert plain.views == 1
    assert not libc.pthread_create(
        ctypes.byref(thread), None, ctypes.c_void_p(taken.deleter), ctypes.c_void_p(taken.address)
    )
    assert not libc.pthread_join(thread, None)
    assert plain.views == 0
    plain.close()


def test_an_exception_passes_a_tensor(plain: Memory, consumer: Consumer) -> None:
    """The tensor on the stack is freed while the exception is on its way."""

    def fails() -> None:
        raise LookupError("this one")

    class Held:
        """Calls the deleter as C does, when it is freed."""

        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def __del__(self) -> None:
            _deleted(self.tensor)

    for _ in range(10):
        with pytest.raises(LookupError, match="this one"):
            print(Held(consumer(plain)) if consumer is Taken else consumer(plain), fails())
    gc.collect()
    assert plain.views == 0


def test_nothing_is_left_of_a_thousand(plain: Memory, consumer: Consumer) -> None:
    def use() -> None:
        tensor = consumer(plain.array((5, 2), "float32", offset=8))
        assert extmem.from_dlpack(plain).offset == 0
        plain.__dlpack__()
        _deleted(tensor)

    for _ in range(50):
        use()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(1000):
        use()
    gc.collect()
    assert sys.getallocatedblocks() - before < 500  # what is made once, but not one for each
    assert plain.views == 0


# -- the end of Python ----------------------------------------------------------------------------

kept: list[Any] = []  # what a process still holds when Python ends


def end_holding(channel: Channel, driver: str, what: list[str]) -> None:
    """Leave the process with tensors alive."""
    gpu = extmem.open_device(driver=driver)
    memory = gpu.allocate(SIZE)
    for name in what:
        if name == "late":
            # A library in C that frees its tensors when the process ends, after Python.
            for version in (None, (1, 0)):
                taken = Taken(memory, version)
                assert not ctypes.CDLL(None).__cxa_atexit(
                    ctypes.c_void_p(taken.deleter), ctypes.c_void_p(taken.address), None
                )
        elif name == "capsule":
            kept.append(memory.__dlpack__())
        elif name == "device":
            kept.append(gpu)
        elif name == "memory":
            kept.append(memory)
        elif name == "array":
            kept.append(memory.array((4, 4), "float32"))
        else:
            kept.append(consumer_of(name)(memory))


ENDS = [
    ["numpy", "torch", "capsule"],
    ["torch", "memory", "device"],
    ["device", "memory", "array", "numpy", "plain", "capsule"],
    ["plain"],
]
if sys.platform != "win32":
    ENDS += [["late"], ["late", "device", "memory", "numpy", "late", "plain"]]


@pytest.mark.parametrize("what", ENDS, ids="+".join)
def test_python_ends_with_tensors_alive(driver: str, what: list[str]) -> None:
    if "torch" in what:
        consumer_of("torch")
    second.run(end_holding, driver=driver, what=what)


def test_nothing_is_imported_before_it_is_used() -> None:
    program = """
import sys, extmem
with extmem.open_device(driver="embedded") as gpu, gpu.allocate(16) as memory:
    memory.numpy()[:] = 1
    assert not [name for name in sys.modules if name.startswith("extmem.interop")]
    memory.array(4)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.fixture(scope="session")
def jax() -> Any:
    """For the session: it starts threads that are no test's leak."""
    found = optional("jax", "pip install jax==0.10.2")
    found.numpy.zeros(4).astype("bfloat16").sum().block_until_ready()
    found.dlpack.from_dlpack(np.zeros(4, "float32")).sum().block_until_ready()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax_looks_without_a_copy(jax: Any, plain: Memory, dtype: str) -> None:
    seen = jax.dlpack.from_dlpack(plain.array((8, 8), dtype))
    assert (seen.shape, str(seen.dtype), seen.sum()) == ((8, 8), dtype, 0)
    plain.numpy("uint16")[:] = 0x3F80  # in both types close to one
    assert 63.9 < float(seen.astype("float32").sum()) < 65
    assert extmem.from_dlpack(seen).memory is plain
    del seen
    gc.collect()
    assert plain.views == 0


# -- back to the memory ---------------------------------------------------------------------------


def test_found_again(memory: Memory, consumer: Consumer) -> None:
    if consumer is Taken:
        found = extmem.from_dlpack(memory)
    else:
        found = extmem.from_dlpack(consumer(memory.array((20, 30), "int16", offset=64))[3:5, 2::4])
        assert (found.dtype, found.shape, found.strides) == ("int16", (2, 7), (60, 8))
        assert found.offset == 64 + 3 * 60 + 2 * 2
        found.numpy()[1, 1] = -5
        assert memory.array((20, 30), "int16", offset=64).numpy()[4, 6] == -5
    assert isinstance(found, Array)
    assert found.memory is memory
    with pytest.raises(ViewsAlive):
        memory.close()
    del found


def test_any_stride_is_found(plain: Memory) -> None:
    whole = plain.numpy("int32", (50, 50))
    for part in (
        whole[::-1, 5],
        whole.T[::-3, ::-2],
        whole[3:3],
        whole[7, 7, ...],
        whole[:0, ::-1],
    ):
        found = extmem.from_dlpack(part)
        assert (found.shape, found.strides) == (part.shape, part.strides)
        assert found.numpy().ctypes.data == part.ctypes.data


def test_the_right_one_of_several(driver: str, gpu: Device) -> None:
    memories = [gpu.allocate(SIZE) for _ in range(5)]
    for memory in memories:
        tensor = np.from_dlpack(memory.array(9, offset=90))
        assert extmem.from_dlpack(tensor).memory is memory
        del tensor
    freed = memories.pop(2)
    freed.close()
    for memory in memories:
        assert extmem.from_dlpack(np.from_dlpack(memory)).memory is memory


class Elsewhere:
    """A tensor that is not in the processor's memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 4, 1

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("nobody needs it")


def test_why_none_is_found(plain: Memory) -> None:
    array = plain.numpy()
    for tensor, says in (
        (array.copy(), r"none of the \d+ memories"),
        (np.zeros(0, "uint8"), "none of the"),
        (Elsewhere(), "OpenCL, number 1"),
        (beyond(array), "only partly"),
    ):
        with pytest.raises(TensorError, match=says):
            extmem.from_dlpack(tensor)
    for nothing in (b"bytes", None, 7):
        with pytest.raises(TypeError, match="is no tensor"):
            extmem.from_dlpack(nothing)


def beyond(array: Any) -> Any:
    """An array that ends in the pages after the memory's, which nobody looks into."""
    size = len(array) + 64
    return np.frombuffer((ctypes.c_uint8 * size).from_address(array.ctypes.data), "uint8")


def test_a_type_that_is_not_known(plain: Memory) -> None:
    strange = Twice(plain)
    strange.tensor.code = 99
    with pytest.raises(TensorError, match="type 99, 8 bits"):
        extmem.from_dlpack(strange)
