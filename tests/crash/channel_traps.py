"""Channels, and Windows' own calls: parcels that are none, peers that are gone, dead handles."""

from __future__ import annotations

import os
import socket
import sys

from extmem import ClosedError, Unsupported, channel, win32
from extmem.handles.handle import Handle
from tests.crash.scene import Scene
from tests.crash.trap import trap

# -- channels -------------------------------------------------------------------------------------


@trap(TypeError, says="the message is 'text'; expected bytes")
def message_that_is_text(here: Scene) -> None:
    one, other = channel.pair()
    with one, other:
        one.send("text")  # type: ignore[arg-type]


@trap(ValueError, says="the message has 1000000 bytes; at most 65536 fit into a parcel")
def message_of_a_million_bytes(here: Scene) -> None:
    one, other = channel.pair()
    with one, other:
        one.send(bytes(1_000_000))


@trap(ValueError, says="33 handles; at most 32 fit into a parcel")
def parcel_of_too_many_handles(here: Scene) -> None:
    one, other = channel.pair()
    with one, other, here.gpu.allocate(64) as memory:
        one.send(b"", [memory] * 33)


@trap(TypeError, says="7 cannot be sent; expected a Memory")
def parcel_with_a_number(here: Scene) -> None:
    one, other = channel.pair()
    with one, other:
        one.send(b"", [7])  # type: ignore[list-item]


@trap(ValueError, says="this memory can be exported as: none")
def parcel_with_private_memory(here: Scene) -> None:
    one, other = channel.pair()
    with one, other, here.gpu.allocate(64) as memory:
        one.send(b"", [memory])


@trap(Unsupported, says="is an address, which means nothing in another process")
def parcel_with_an_address(here: Scene) -> None:
    one, other = channel.pair()
    with one, other:
        one.send(b"", [Handle(4096, "host_allocation")])


@trap(ClosedError, says="handle is closed")
def parcel_with_a_closed_handle(here: Scene) -> None:
    kind = "opaque_fd" if sys.platform == "linux" else "opaque_win32"
    one, other = channel.pair()
    with one, other, here.gpu.allocate(64, export=kind) as memory:
        with memory.export() as handle:
            pass
        one.send(b"", [handle])


@trap(ClosedError, says="this channel is closed")
def message_to_a_closed_channel(here: Scene) -> None:
    one, other = channel.pair()
    with other:
        one.close()
        one.send(b"hello")


@trap(BrokenPipeError, ConnectionResetError, OSError, says="")
def message_to_nobody(here: Scene) -> None:
    one, other = channel.pair()
    other.close()
    with one:
        for _ in range(3):
            one.send(b"hello")


@trap(EOFError, OSError, says="")
def message_from_nobody(here: Scene) -> None:
    one, other = channel.pair()
    other.close()
    with one:
        one.receive(timeout=5)


@trap(TimeoutError, says="")
def message_that_never_comes(here: Scene) -> None:
    one, other = channel.pair()
    with one, other:
        one.receive(timeout=0)


@trap(ConnectionAbortedError, says="no parcel", on="linux")
def noise_in_the_place_of_a_parcel(here: Scene) -> None:
    one, other = channel.pair()
    with one, other:
        raw = socket.socket(fileno=os.dup(other.fileno()))
        with raw:
            raw.send(os.urandom(500))
        one.receive(timeout=5)


@trap(ValueError, says="the name of a listener is '../../etc'")
def listener_of_a_name_that_is_a_path(here: Scene) -> None:
    channel.Listener("../../etc")


@trap(ConnectionRefusedError, FileNotFoundError, OSError, says="")
def connection_to_nobody(here: Scene) -> None:
    channel.connect("nobody-listens-here", timeout=0)


# -- Windows' own calls ---------------------------------------------------------------------------


@trap(OSError, says="")
def handle_closed_twice(here: Scene) -> None:
    process = win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, os.getpid())
    win32.CloseHandle(process)
    win32.CloseHandle(process)


@trap(OSError, says="")
def null_handle_closed(here: Scene) -> None:
    win32.CloseHandle(0)


@trap(OSError, says="the options 0x100 are not known")
def duplicate_with_options_that_nobody_knows(here: Scene) -> None:
    me = win32.GetCurrentProcess()
    win32.DuplicateHandle(me, me, me, 0, False, 0x100)


@trap(OSError, says="")
def duplicate_of_a_dead_handle(here: Scene) -> None:
    me = win32.GetCurrentProcess()
    win32.DuplicateHandle(me, 0x7FFC, me, 0, False, win32.DUPLICATE_SAME_ACCESS)


@trap(OSError, says="")
def process_that_is_not_there(here: Scene) -> None:
    win32.OpenProcess(win32.PROCESS_DUP_HANDLE, False, 0x7FFFFFF0)


@trap(OSError, says="")
def comparison_with_a_dead_handle(here: Scene) -> None:
    win32.CompareObjectHandles(0x7FFC, 0x7FF8)
