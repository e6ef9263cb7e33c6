"""What the sections of `tensors.py` have in common."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import extmem
from extmem.interop import cuda

MIB = 1 << 20
AWAKE = 200.0  # microseconds before each signal, in which the other side begins to wait
SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork

wrongs: list[str] = []
rows: list[dict[str, Any]] = []


class NoGpu(Exception):
    """There is no GPU that Vulkan, CUDA and PyTorch all see."""


def now() -> float:
    """Microseconds of the clock that all processes share."""
    return time.monotonic_ns() / 1000


def rest(began: float, microseconds: float = AWAKE) -> None:
    """Stay awake for so long."""
    while now() < began + microseconds:
        pass


def row(what: str, **values: Any) -> None:
    """Something that was found: printed, and kept for the end."""
    rows.append({"what": what, **values})
    shown = "  ".join(f"{key} {value}" for key, value in values.items())
    print(f"{what:58} {shown}", flush=True)


def check(right: bool, what: str) -> bool:
    """Note what is wrong."""
    if not right:
        wrongs.append(what)
        print(f"WRONG: {what}", flush=True)
    return right


def summary(found: list[float]) -> dict[str, float]:
    """Median and 95th percentile, without the first tenth, which warms up."""
    rest = sorted(found[len(found) // 10 :])
    return {
        "p50": round(statistics.median(rest), 1),
        "p95": round(rest[min(int(len(rest) * 0.95), len(rest) - 1)], 1),
        "least": round(rest[0], 1),
        "of": len(found),
    }


def mib(size: int) -> str:
    return f"{size // MIB} MiB" if size < 1 << 30 else f"{size >> 30} GiB"


def need_cuda() -> Any:
    """PyTorch, once it and CUDA see a GPU."""
    try:
        gpus = cuda.gpus()
    except (extmem.ExtmemError, ImportError) as error:
        raise NoGpu(str(error)) from None
    if not gpus:
        raise NoGpu("CUDA sees none")
    try:
        import torch
    except ImportError as error:
        raise NoGpu(f"PyTorch is not installed: {error}") from None
    if not torch.cuda.is_available():
        raise NoGpu(f"PyTorch {torch.__version__} has no CUDA")
    return torch


@contextmanager
def vulkan(driver: str, checks: str = "full", queue: str = "any") -> Iterator[extmem.Device]:
    """The Vulkan device that is CUDA's GPU 0, which PyTorch takes by itself."""
    wanted = cuda.gpus()[0]
    with extmem.open_device(driver=driver, uuid=wanted.uuid, checks=checks, queue=queue) as device:
        yield device


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Another process, which gets its end of a pipe first; our end is what this gives."""
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=_told, args=(target, theirs, *arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        yield Pipe(ours)
        child.join(20)
        if child.exitcode:
            raise RuntimeError(f"the other process ended with {child.exitcode}")
    finally:
        if child.is_alive():
            child.kill()
        child.join()
        ours.close()


def _told(target: Callable[..., None], pipe: Any, *arguments: Any) -> None:
    try:
        target(pipe, *arguments)
    except BaseException as error:
        with suppress(OSError):
            pipe.send(("failed", repr(error)))
        raise


class Pipe:
    """Our end: what the other one failed with is raised here."""

    def __init__(self, end: Any) -> None:
        self._end = end
        self.send = end.send

    def recv(self, seconds: float = 60.0) -> Any:
        if not self._end.poll(seconds):
            raise TimeoutError(f"the other process said nothing in {seconds:g} s")
        found = self._end.recv()
        if isinstance(found, tuple) and found[:1] == ("failed",):
            raise RuntimeError(f"the other process failed: {found[1]}")
        return found


def usage() -> dict[str, int]:
    """Descriptors and resident MiB of this process."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "host MiB": pages * os.sysconf("SC_PAGE_SIZE") // MIB,
    }
