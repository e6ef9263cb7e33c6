"""From a frame's publication in one process to its sight in another; and what stands beside it.

    python bench/streams.py [--rounds 5] [--json]

A publisher on one core, a subscriber on the other. The subscriber says that it is ready, and some
0.3 ms later the publisher fills a frame and publishes it. Three figures, in microseconds, by the
clock that both have:

- handed over: from the frame being filled to the subscriber having it, as an array to be read
- read: from there on, until the subscriber has summed it up
- in all: from before the frame is filled, which is where a copy costs most

Beside the stream, taking turns with it round by round:

- copied: multiprocessing.shared_memory; the frame is copied into it, its number goes through a
  multiprocessing queue, and the reader copies it out, because nothing keeps it from being
  overwritten
- pickled: the frame itself goes through the queue (up to 16 MiB: it takes too long)
- zmq: the frame goes through an ipc socket of pyzmq, if that is installed
- iceoryx2: a publisher and a subscriber of a slice of bytes, if that is installed

Each figure is the median of the rounds' own percentiles; the spread is of the rounds' p50.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from multiprocessing import shared_memory
from typing import Any

import numpy as np

import extmem

SIZES = (4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20, 256 << 20)
GAP = 300_000  # nanoseconds between the reader's word and the frame: it is waiting by then
PATIENCE = 60.0
WARM = 3
LARGEST_PICKLED = 16 << 20
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
READER, WRITER = CORES[:2] if len(CORES) > 1 else (None, None)

now = time.monotonic_ns


def alone_on(core: int | None) -> None:
    """Stay on one core, if there are two to choose from."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def wait_for(ready: Any, index: int) -> None:
    """Until the reader is ready for a frame, and a little longer."""
    until = now() + int(PATIENCE * 1e9)
    while ready.value < index:
        if now() > until:
            raise SystemExit("the reader does not read")
        time.sleep(0.0001)
    due = now() + GAP
    while now() < due:
        pass


# -- the process that reads: each of these gives (sequence, array) again and again -----------------


def of_stream(name: str, size: int, queue: Any) -> Any:
    with extmem.subscribe(name, timeout=PATIENCE) as frames:
        for frame in frames:
            yield frame.sequence, frame.numpy()


def of_copies(name: str, size: int, queue: Any) -> Any:
    block = shared_memory.SharedMemory(name)
    source = np.ndarray(size, "uint8", buffer=block.buf)
    while (number := queue.get(timeout=PATIENCE)) is not None:
        yield number, source.copy()
    del source
    block.close()


def of_queue(name: str, size: int, queue: Any) -> Any:
    while (found := queue.get(timeout=PATIENCE)) is not None:
        yield found


def of_zmq(name: str, size: int, queue: Any) -> Any:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(f"ipc:///tmp/{name}")
        while (data := socket.recv(copy=False).buffer).nbytes > 1:
            yield 0, np.frombuffer(data, "uint8")


def of_iceoryx(name: str, size: int, queue: Any) -> Any:
    import iceoryx2 as iox2

    iox2.set_log_level(iox2.LogLevel.Fatal)
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
    service, event = _iceoryx_services(iox2, node, name)
    subscriber = service.subscriber_builder().create()
    listener = event.listener_builder().create()
    queue.put("there")
    while True:
        sample = subscriber.receive()
        if sample is None:
            listener.timed_wait(iox2.Duration.from_millis(1000))
            continue
        data = np.frombuffer(sample.payload().as_memory_view(), "uint8")
        if data.size == 1:
            return
        yield 0, data
        del data, sample


def reads(
    kind: str, name: str, size: int, count: int, queue: Any, ready: Any, had: Any, read: Any
) -> None:
    alone_on(READER)
    frames = READERS[kind](name, size, queue)
    ready.value = 1
    for index in range(count):
        _, array = next(frames)
        had[index] = now()
        int(array.view("uint64").sum())
        read[index] = now()
        del array
        ready.value = index + 2
    with contextlib.suppress(StopIteration):
        next(frames)


READERS = {
    "stream": of_stream,
    "copied": of_copies,
    "pickled": of_queue,
    "zmq": of_zmq,
    "iceoryx2": of_iceoryx,
}


# -- the process that writes ----------------------------------------------------------------------


class Stream:
    """A stream of the embedded device."""

    def __init__(self, name: str, size: int, queue: Any) -> None:
        self.stream = extmem.publish(name, shape=size, dtype="uint8", slots=3)

    def put(self, value: int) -> int:
        with self.stream.frame() as frame:
            frame.numpy().fill(value)
            return now()

    def close(self) -> None:
        self.stream.close()


class Copied:
    """multiprocessing.shared_memory, and a queue for the news."""

    def __init__(self, name: str, size: int, queue: Any) -> None:
        self.block = shared_memory.SharedMemory(name, create=True, size=size)
        self.target = np.ndarray(size, "uint8", buffer=self.block.buf)
        self.source = np.zeros(size, "uint8")
        self.queue = queue

    def put(self, value: int) -> int:
        self.source.fill(value)
        filled = now()
        self.target[:] = self.source
        self.queue.put(value)
        return filled

    def close(self) -> None:
        self.queue.put(None)
        del self.target

    def end(self) -> None:
        self.block.close()
        self.block.unlink()


class Pickled:
    """The queue alone."""

    def __init__(self, name: str, size: int, queue: Any) -> None:
        self.source = np.zeros(size, "uint8")
        self.queue = queue

    def put(self, value: int) -> int:
        self.source.fill(value)
        filled = now()
        self.queue.put((value, self.source))
        return filled

    def close(self) -> None:
        self.queue.put(None)


class Zmq:
    """An ipc socket of pyzmq."""

    def __init__(self, name: str, size: int, queue: Any) -> None:
        import zmq

        self.source = np.zeros(size, "uint8")
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.bind(f"ipc:///tmp/{name}")

    def put(self, value: int) -> int:
        self.source.fill(value)
        filled = now()
        self.socket.send(self.source)
        return filled

    def close(self) -> None:
        self.socket.send(b"\0")
        self.socket.close()
        self.context.term()


def _iceoryx_services(iox2: Any, node: Any, name: str) -> tuple[Any, Any]:
    payload = iox2.Slice[ctypes.c_uint8]
    service = node.service_builder(iox2.ServiceName.new(name)).publish_subscribe(payload)
    event = node.service_builder(iox2.ServiceName.new(name)).event()
    return service.open_or_create(), event.open_or_create()


class Iceoryx:
    """iceoryx2: loaned samples, and its events for the news."""

    def __init__(self, name: str, size: int, queue: Any) -> None:
        import iceoryx2 as iox2

        self.size = size
        iox2.set_log_level(iox2.LogLevel.Fatal)
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        service, event = _iceoryx_services(iox2, self.node, name)
        self.publisher = service.publisher_builder().initial_max_slice_len(size).create()
        self.notifier = event.notifier_builder().create()
        self.queue = queue
        self.there = False

    def _send(self, size: int, value: int) -> int:
        if not self.there:
            self.there = self.queue.get(timeout=PATIENCE) == "there"
        sample = self.publisher.loan_slice_uninit(size)
        np.frombuffer(sample.payload().as_memory_view(), "uint8").fill(value)
        filled = now()
        sample.assume_init().send()
        self.notifier.notify()
        return filled

    def put(self, value: int) -> int:
        return self._send(self.size, value)

    def close(self) -> None:
        self._send(1, 0)


WRITERS: dict[str, Any] = {
    "stream": Stream,
    "copied": Copied,
    "pickled": Pickled,
    "zmq": Zmq,
    "iceoryx2": Iceoryx,
}


# -- all of it ------------------------------------------------------------------------------------


def one_round(kind: str, size: int, count: int, number: int) -> dict[str, list[float]]:
    """Microseconds of each frame."""
    context = multiprocessing.get_context("spawn")
    name = f"bench-{os.getpid()}-{kind}-{number}"
    queue, ready = context.Queue(), context.RawValue("q", 0)
    had, read = context.RawArray("q", count), context.RawArray("q", count)
    writer = WRITERS[kind](name, size, queue)
    process = context.Process(target=reads, args=(kind, name, size, count, queue, ready, had, read))
    process.start()
    began, filled = [0] * count, [0] * count
    for index in range(count):
        wait_for(ready, index + 1)
        if index == 0:
            time.sleep(1.0)  # it has said so before it looks for us
        began[index] = now()
        filled[index] = writer.put(index % 251 + 1)
    wait_for(ready, count + 1)
    writer.close()
    process.join(PATIENCE)
    if process.exitcode != 0:
        raise SystemExit(f"the reader of {kind} ended with {process.exitcode}")
    process.close()
    if hasattr(writer, "end"):
        writer.end()
    return {
        "handed over": [(h - f) / 1000 for h, f in zip(had, filled, strict=True)][WARM:],
        "read": [(r - h) / 1000 for r, h in zip(read, had, strict=True)][WARM:],
        "in all": [(r - b) / 1000 for r, b in zip(read, began, strict=True)][WARM:],
    }


def summary(rounds: list[list[float]]) -> dict[str, float]:
    """Of the rounds' own percentiles: the median, and the lowest and highest p50."""
    middles = [statistics.median(each) for each in rounds]
    highs = [statistics.quantiles(each, n=20)[-1] for each in rounds]
    return {
        "p50": round(statistics.median(middles), 1),
        "lowest_p50": round(min(middles), 1),
        "highest_p50": round(max(middles), 1),
        "p95": round(statistics.median(highs), 1),
    }


def kinds_for(size: int) -> list[str]:
    kinds = ["stream", "copied"]
    if size <= LARGEST_PICKLED:
        kinds.append("pickled")
    for module in ("zmq", "iceoryx2"):
        if importlib.util.find_spec(module) is not None:
            kinds.append(module)
    return kinds


def measure(rounds: int, sizes: list[int]) -> dict[str, Any]:
    """Everything, as one JSON-able object."""
    os.environ["EXTMEM_DRIVER"] = "embedded"
    alone_on(WRITER)
    found: dict[str, dict[str, list[list[float]]]] = {}
    for size in sizes:
        count = WARM + min(200, max(15, (1 << 30) // size))
        for number in range(rounds):
            for kind in kinds_for(size):
                row = found.setdefault(f"{words(size)} {kind}", {})
                for what, values in one_round(kind, size, count, number).items():
                    row.setdefault(what, []).append(values)
    return {
        "what": "frames from one process to another",
        "device": "the embedded device",
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": rounds,
        "microseconds": {
            label: {what: summary(values) for what, values in row.items()}
            for label, row in found.items()
        },
    }


def words(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--largest", type=int, default=256, help="MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rounds, [each for each in SIZES if each <= options.largest << 20])
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{result['what']}\n{result['device']}; {result['machine']}")
    print(f"{'':20}{'':14}{'p50':>10}{'lowest':>10}{'highest':>10}{'p95':>10}   (us)")
    for label, row in result["microseconds"].items():
        for what, each in row.items():
            print(
                f"{label:20}{what:14}{each['p50']:10.1f}{each['lowest_p50']:10.1f}"
                f"{each['highest_p50']:10.1f}{each['p95']:10.1f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
