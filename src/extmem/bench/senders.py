"""Who can bring frames from one process to others: extmem's streams, and their peers.

Each kind is a writer, in the process that measures, and a generator in each process that reads. The
generator gives None once it has joined, and then one array of bytes for each frame, until the
writer is closed. Of a peer is measured what its users would write.
"""

from __future__ import annotations

import ctypes
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import extmem

__all__ = [
    "KINDS",
    "PATIENCE",
    "PEERS",
    "READERS",
    "WRITERS",
    "Frame",
    "Reading",
    "Writer",
    "Writing",
    "now",
]

PATIENCE = 60.0  # seconds for whatever the other process has to do
KINDS = ("extmem", "shared_memory, copied", "pickled", "pyzmq", "iceoryx2")
PEERS = {"pyzmq": ("zmq", "whose sockets carry copies"), "iceoryx2": ("iceoryx2", "the floor")}

now = time.perf_counter_ns  # one clock for all processes, and on Windows the only fine one

Frame = np.ndarray[Any, Any]
Writing = Callable[[Frame], None]  # how a frame is written
Reading = Callable[[str, int, Any], Iterator[Frame | None]]


class Writer(Protocol):
    """A way to publish frames."""

    def ready(self, readers: int) -> None:
        """Wait until so many have joined, as far as that has to be waited for."""

    def put(self, write: Writing) -> int:
        """Have a frame written, and publish it; when it was written."""

    def close(self) -> None:
        """Have the readers end."""

    def end(self) -> None:
        """Give back what is left, once they have."""


def _optional(name: str) -> Any:
    """A module that nothing else here needs, and that type checkers need not know."""
    return importlib.import_module(name)


# -- a stream of extmem ---------------------------------------------------------------------------


class _Stream:
    def __init__(self, name: str, size: int, readers: int, news: list[Any]) -> None:
        self._stream = extmem.publish(name, shape=size, dtype="uint8", slots=3)

    def ready(self, readers: int) -> None:
        pass

    def put(self, write: Writing) -> int:
        with self._stream.frame() as frame:
            write(frame.numpy())
            return now()

    def close(self) -> None:
        self._stream.close()

    def end(self) -> None:
        pass


def _of_stream(name: str, size: int, news: Any) -> Iterator[Frame | None]:
    with extmem.subscribe(name, timeout=PATIENCE, patience=PATIENCE) as frames:
        yield None
        for frame in frames:
            yield frame.numpy()


# -- multiprocessing.shared_memory, and a queue for the news ---------------------------------------


class _Copied:
    """Readers copy the frame out, because nothing keeps it from being overwritten."""

    def __init__(self, name: str, size: int, readers: int, news: list[Any]) -> None:
        self._block = shared_memory.SharedMemory(name, create=True, size=size)
        self._target = np.ndarray(size, "uint8", buffer=self._block.buf)
        self._source = np.zeros(size, "uint8")
        self._news = news

    def ready(self, readers: int) -> None:
        pass

    def put(self, write: Writing) -> int:
        write(self._source)
        written = now()
        self._target[:] = self._source
        for queue in self._news:
            queue.put(1)
        return written

    def close(self) -> None:
        for queue in self._news:
            queue.put(None)
        del self._target

    def end(self) -> None:
        self._block.close()
        self._block.unlink()


def _of_copies(name: str, size: int, news: Any) -> Iterator[Frame | None]:
    block = shared_memory.SharedMemory(name)
    source = np.ndarray(size, "uint8", buffer=block.buf)
    yield None
    while news.get(timeout=PATIENCE) is not None:
        yield source.copy()
    del source
    block.close()


# -- the queue alone ------------------------------------------------------------------------------


class _Pickled:
    def __init__(self, name: str, size: int, readers: int, news: list[Any]) -> None:
        self._source = np.zeros(size, "uint8")
        self._news = news

    def ready(self, readers: int) -> None:
        pass

    def put(self, write: Writing) -> int:
        write(self._source)
        written = now()
        for queue in self._news:
            queue.put(self._source)
        return written

    def close(self) -> None:
        for queue in self._news:
            queue.put(None)

    def end(self) -> None:
        pass


def _of_queue(name: str, size: int, news: Any) -> Iterator[Frame | None]:
    yield None
    while (found := news.get(timeout=PATIENCE)) is not None:
        yield found


# -- pyzmq ----------------------------------------------------------------------------------------


def _address(name: str) -> str:
    return f"ipc://{tempfile.gettempdir()}/{name}"


class _Zmq:
    """Publish and subscribe; XPUB, which tells who has subscribed."""

    def __init__(self, name: str, size: int, readers: int, news: list[Any]) -> None:
        zmq = _optional("zmq")

        self._source = np.zeros(size, "uint8")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._name = name
        self._socket.bind(_address(name))

    def ready(self, readers: int) -> None:
        for _ in range(readers):
            self._socket.recv()

    def put(self, write: Writing) -> int:
        write(self._source)
        written = now()
        self._socket.send(self._source)
        return written

    def close(self) -> None:
        self._socket.send(b"\0")

    def end(self) -> None:
        self._socket.close()
        self._context.term()
        Path(tempfile.gettempdir(), self._name).unlink(missing_ok=True)


def _of_zmq(name: str, size: int, news: Any) -> Iterator[Frame | None]:
    zmq = _optional("zmq")

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(_address(name))
        yield None
        while (data := socket.recv(copy=False).buffer).nbytes > 1:
            yield np.frombuffer(data, "uint8")


# -- iceoryx2 -------------------------------------------------------------------------------------


def _services(iox2: Any, node: Any, name: str, readers: int) -> tuple[Any, Any]:
    service = iox2.ServiceName.new(name)
    frames = node.service_builder(service).publish_subscribe(iox2.Slice[ctypes.c_uint8])
    frames = frames.max_subscribers(readers).subscriber_max_buffer_size(2).max_nodes(readers + 1)
    events = node.service_builder(service).event()
    events = events.max_listeners(readers).max_nodes(readers + 1)
    return frames.open_or_create(), events.open_or_create()


class _Iceoryx:
    """Loaned samples, and its events for the news."""

    def __init__(self, name: str, size: int, readers: int, news: list[Any]) -> None:
        iox2 = _optional("iceoryx2")

        self._size = size
        iox2.set_log_level(iox2.LogLevel.Fatal)
        self._node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        service, event = _services(iox2, self._node, name, readers)
        self._publisher = service.publisher_builder().initial_max_slice_len(size).create()
        self._notifier = event.notifier_builder().create()
        for queue in news:
            queue.put(readers)

    def ready(self, readers: int) -> None:
        pass

    def _send(self, size: int, write: Writing) -> int:
        sample = self._publisher.loan_slice_uninit(size)
        write(np.frombuffer(sample.payload().as_memory_view(), "uint8"))
        written = now()
        sample.assume_init().send()
        self._notifier.notify()
        return written

    def put(self, write: Writing) -> int:
        return self._send(self._size, write)

    def close(self) -> None:
        self._send(1, lambda frame: None)

    def end(self) -> None:
        del self._publisher, self._notifier, self._node


def _of_iceoryx(name: str, size: int, news: Any) -> Iterator[Frame | None]:
    iox2 = _optional("iceoryx2")

    iox2.set_log_level(iox2.LogLevel.Fatal)
    readers = news.get(timeout=PATIENCE)
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
    service, event = _services(iox2, node, name, readers)
    subscriber = service.subscriber_builder().create()
    listener = event.listener_builder().create()
    yield None
    while True:
        sample = subscriber.receive()
        if sample is None:
            listener.timed_wait(iox2.Duration.from_millis(1000))
            continue
        data = np.frombuffer(sample.payload().as_memory_view(), "uint8")
        if data.size == 1:
            return
        yield data
        del data, sample


WRITERS: dict[str, Callable[[str, int, int, list[Any]], Writer]] = {
    "extmem": _Stream,
    "shared_memory, copied": _Copied,
    "pickled": _Pickled,
    "pyzmq": _Zmq,
    "iceoryx2": _Iceoryx,
}
READERS: dict[str, Reading] = {
    "extmem": _of_stream,
    "shared_memory, copied": _of_copies,
    "pickled": _of_queue,
    "pyzmq": _of_zmq,
    "iceoryx2": _of_iceoryx,
}
