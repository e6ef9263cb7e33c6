"""Channels: handles with their passports between two processes, and peers that are no good."""

from __future__ import annotations

import os
import random
import secrets
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import extmem
from extmem import channel
from extmem.handles.handle import Handle
from extmem.handles.system import kernel
from extmem.share import parcels
from extmem.share.channel import Channel, Listener, connect, pair
from extmem.share.parcels import Item, Packet
from tests.support import second
from tests.support.strict import missing

SIZE = 10_000
PATIENCE = 60.0
TYPES = ["opaque_fd", "opaque_win32", "opaque_win32_kmt"]
if sys.platform == "win32":
    TYPES.remove("opaque_fd")


@pytest.fixture
def name() -> str:
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def gpu(used_before: None) -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = pair()
    with here, there:
        yield here, there


# -- the second process ---------------------------------------------------------------------------


def importer(home: Any, name: str, driver: str) -> dict[str, Any]:
    """Connects, imports what comes, changes it, and shares something of its own."""
    with connect(name, timeout=PATIENCE) as other, extmem.open_device(driver=driver) as gpu:
        with other.receive(timeout=PATIENCE) as parcel:
            [handle] = parcel.handles
            kind = handle.handle_type.name
            with gpu.import_memory(handle) as memory:
                memory.invalidate()
                read = bytes(memory.numpy()[:16])
                memory.numpy()[-1] = 99
                memory.flush()
        with gpu.allocate(SIZE, export=kind) as own:
            own.numpy()[:] = 5
            own.flush()
            other.send(b"mine", [own])
            other.receive(timeout=PATIENCE)
            own.invalidate()
            return {"read": read.hex(), "back": int(own.numpy()[0]), "peer": list(other.peer)}


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_are_shared_both_ways(driver: str, kind: str, name: str) -> None:
    with (
        Listener(name) as door,
        extmem.open_device(driver=driver) as gpu,
        gpu.allocate(SIZE, export=kind) as memory,
        second.start(importer, name=name, driver=driver) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        assert other.peer.process_id == process.pid
        memory.numpy()[:] = 7
        memory.flush()
        other.send(b"yours", [memory])
        with other.receive(timeout=PATIENCE) as parcel:
            assert parcel.message == b"mine"
            [handle] = parcel.handles
            assert handle.passport is not None
            assert handle.passport.exporter is not None
            assert handle.passport.exporter.process_id == process.pid
            with gpu.import_memory(handle) as theirs:
                assert (theirs.size, int(theirs.numpy()[SIZE - 1])) == (SIZE, 5)
                theirs.numpy()[0] = 6
                theirs.flush()
                other.send(b"seen")
                told = process.result()
        memory.invalidate()
        assert int(memory.numpy()[SIZE - 1]) == 99
        assert told == {
            "read": "07" * 16,
            "back": 6,
            "peer": [os.getpid(), other.peer.user],
        }


def silent(home: Any, name: str) -> None:
    """Connects, and never reads."""
    with connect(name, timeout=PATIENCE):
        home.send("connected")
        time.sleep(PATIENCE)


def _fill(other: Channel, memory: extmem.Memory) -> None:
    for _ in range(1000):
        other.send(bytes(parcels.LARGEST_MESSAGE), [memory], timeout=0.05)


def test_a_peer_that_hangs_costs_a_timeout(name: str, gpu: extmem.Device) -> None:
    with (
        Listener(name) as door,
        gpu.allocate(SIZE, export=TYPES[0]) as memory,
        second.start(silent, name=name) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        process.receive()
        with pytest.raises(TimeoutError, match="nothing came"):
            other.receive(timeout=0.05)
        with pytest.raises(TimeoutError, match="does not read"):
            _fill(other, memory)
        assert other.closed


@pytest.mark.parametrize("kind", TYPES)
def test_a_peer_that_is_killed_costs_its_own_handles(
    name: str, gpu: extmem.Device, kind: str
) -> None:
    with (
        Listener(name) as door,
        gpu.allocate(SIZE, export=kind) as memory,
        second.start(silent, name=name) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        process.receive()
        other.send(b"never read", [memory])
        process.kill()
        with pytest.raises(EOFError):
            other.receive(timeout=PATIENCE)
        with pytest.raises((BrokenPipeError, OSError)):
            other.send(b"nobody", [memory])
        memory.numpy()[:] = 1  # ours is as it was
        memory.export().close()


def sender_that_ends(home: Any, name: str, kind: str) -> None:
    with (
        connect(name, timeout=PATIENCE) as other,
        extmem.open_device(driver="embedded") as gpu,
        gpu.allocate(SIZE, export=kind) as memory,
    ):
        memory.numpy()[:] = 8
        other.send(b"inherit this", [memory])


@pytest.mark.parametrize("kind", [each for each in TYPES if each != "opaque_win32_kmt"])
def test_what_was_sent_outlives_its_sender(name: str, gpu: extmem.Device, kind: str) -> None:
    with (
        Listener(name) as door,
        second.start(sender_that_ends, name=name, kind=kind) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        process.result()
        with (
            other.receive(timeout=PATIENCE) as parcel,
            gpu.import_memory(parcel.handles[0]) as memory,
        ):
            assert (memory.numpy() == 8).all()
        with pytest.raises(EOFError):
            other.receive(timeout=PATIENCE)


# -- one process ----------------------------------------------------------------------------------


def test_several_handles_arrive_in_their_order(
    gpu: extmem.Device, ends: tuple[Channel, Channel]
) -> None:
    here, there = ends
    made = [gpu.allocate(1000 + i, export=TYPES[i % len(TYPES)]) for i in range(9)]
    with made[0].export() as first:
        here.send(b"m" * parcels.LARGEST_MESSAGE, [first, *made[1:]])
    with there.receive(timeout=PATIENCE) as parcel:
        assert len(parcel.message) == parcels.LARGEST_MESSAGE
        assert [each.size for each in parcel.handles] == [1000 + i for i in range(9)]
        for each, memory in zip(parcel.handles, made, strict=True):
            memory.numpy()[0] = memory.size & 0xFF
            with gpu.import_memory(each) as again:
                assert again.numpy()[0] == memory.size & 0xFF
            if each.handle_type.kind == "fd":
                assert not os.get_inheritable(int(each))
    for memory in made:
        memory.close()


def test_what_nobody_received_is_closed_with_the_channel(
    gpu: extmem.Device, ends: tuple[Channel, Channel]
) -> None:
    here, there = ends
    with gpu.allocate(SIZE, export=TYPES[-2]) as memory:
        for _ in range(5):
            here.send(b"", [memory])
        there.close()
        there.close()
        with pytest.raises(extmem.ClosedError):
            there.receive()
        with pytest.raises((BrokenPipeError, ConnectionError)):
            here.send(b"", [memory])


def test_mistakes_are_told_before_anything_is_sent(
    gpu: extmem.Device, ends: tuple[Channel, Channel], name: str
) -> None:
    here, there = ends
    with gpu.allocate(64) as private, gpu.allocate(64, export=TYPES[0]) as memory:
        for wrong, error, told in (
            ((b"", [private]), ValueError, "allocate"),
            ((b"", [memory] * 33), ValueError, "at most 32"),
            ((b"", [int(memory.handle)]), TypeError, "expected a Memory, a Semaphore"),
            ((bytes(parcels.LARGEST_MESSAGE + 1),), ValueError, "shared memory"),
            (("text",), TypeError, "expected bytes"),
            ((b"", [Handle(4096, "host_allocation")]), extmem.Unsupported, "export="),
        ):
            with pytest.raises(error, match=told):
                here.send(*wrong)  # type: ignore[arg-type]
        here.send(b"well")
        assert there.receive(timeout=PATIENCE).message == b"well"
    for bad in ("", "a/b", "x" * 41, "\0", "../up", "ä"):
        with pytest.raises(ValueError, match="name of a listener"):
            Listener(bad)
        with pytest.raises(ValueError, match="name of a listener"):
            connect(bad)
    with pytest.raises(ConnectionRefusedError, match="start the listener"):
        connect(name, timeout=0.02)
    with Listener(name) as door:
        with pytest.raises(TimeoutError, match="nobody connected"):
            door.accept(timeout=0.02)
        assert repr(door) == f"<Listener '{name}'>"
    with pytest.raises(extmem.ClosedError):
        door.accept()


def test_a_thread_that_waits_is_woken_by_the_close(ends: tuple[Channel, Channel]) -> None:
    here, _ = ends
    met: list[BaseException] = []

    def wait() -> None:
        try:
            here.receive(timeout=PATIENCE)
        except (EOFError, OSError, extmem.ClosedError) as error:
            met.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    here.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert met
    assert not isinstance(met[0], TimeoutError)


# -- hostile bytes --------------------------------------------------------------------------------


def _raw(end: Channel, data: bytes, fds: list[int] | None = None) -> None:
    end._open().send(data, fds or [], PATIENCE)


def _packed(*items: Item, message: bytes = b"") -> bytes:
    return parcels.encode(Packet(message, items))


HOSTILE = {
    "nothing of msgpack": b"\xc1" * 10,
    "a number": b"\x01",
    "another version": msgspec.msgpack.encode((2, (b"", ()))),
    "one member more": msgspec.msgpack.encode((1, (b"", (), "", 4))),
    "wrong types": msgspec.msgpack.encode((1, ("text", (), ""))),
    "a huge length": b"\x92\x01\x93\xc6\xff\xff\xff\xff",
    "a huge array": b"\x92\x01\x93\xc4\x00\xdd\xff\xff\xff\xff",
    "deep": b"\x91" * 60_000,
    "too many handles": _packed(*[Item("opaque_win32_kmt", 2, None)] * 33),
    "a message too long": _packed(message=bytes(parcels.LARGEST_MESSAGE + 1)),
    "an unknown type": _packed(Item("opaque_socks", 4, None)),
    "an address": _packed(Item("host_allocation", 4096, None)),
    "a descriptor that is not there": _packed(Item("opaque_fd", None, None)),
    "a descriptor by number": _packed(Item("opaque_fd", 1, None)),
    "an NT handle without a number": _packed(Item("opaque_win32", None, None)),
    "an NT handle that is not open": _packed(Item("opaque_win32", 0x7FFFFFF0, None)),
    "a wide KMT value": _packed(Item("opaque_win32_kmt", 1 << 40, None)),
    "no passport": _packed(Item("opaque_win32_kmt", 2, b"nonsense")),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_close_the_channel(data: bytes, ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    _raw(here, data)
    with pytest.raises(ConnectionAbortedError, match="Nothing of it was used"):
        there.receive(timeout=PATIENCE)
    assert there.closed


def test_a_passport_of_another_type_is_refused(
    gpu: extmem.Device, ends: tuple[Channel, Channel]
) -> None:
    here, there = ends
    with gpu.allocate(SIZE, export="opaque_win32") as memory:
        _raw(here, _packed(Item("opaque_win32_kmt", 2, memory.passport.encode())))
        with pytest.raises(ConnectionAbortedError, match="passport for opaque_win32"):
            there.receive(timeout=PATIENCE)


def test_one_number_twice_in_a_parcel_is_refused(
    gpu: extmem.Device, ends: tuple[Channel, Channel]
) -> None:
    here, there = ends
    with gpu.allocate(SIZE, export="opaque_win32") as memory, memory.export() as handle:
        item = Item("opaque_win32", int(handle), None)
        _raw(here, _packed(item, item))
        with pytest.raises(ConnectionAbortedError, match="arrived before"):
            there.receive(timeout=PATIENCE)
        assert kernel().info(int(handle)).handle_count > 0  # it is still ours


def test_handles_of_ours_are_not_taken_from_us(
    gpu: extmem.Device, ends: tuple[Channel, Channel]
) -> None:
    here, there = ends
    with gpu.allocate(SIZE, export="opaque_win32") as memory:
        here.send(b"", [memory])
        with there.receive(timeout=PATIENCE) as parcel:
            _raw(here, _packed(Item("opaque_win32", int(parcel.handles[0]), None)))
            with pytest.raises(ConnectionAbortedError, match="arrived before"):
                there.receive(timeout=PATIENCE)
            gpu.import_memory(parcel.handles[0]).close()


def test_a_process_handle_is_no_memory(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    process = kernel().open_process(0x40, False, os.getpid())
    try:
        _raw(here, _packed(Item("opaque_win32", process, None)))
        with pytest.raises(ConnectionAbortedError, match="is a Process and no memory"):
            there.receive(timeout=PATIENCE)
    finally:
        kernel().close(process)


def test_random_bytes_never_do_harm() -> None:
    dice = random.Random(20)
    good = _packed(Item("opaque_win32_kmt", 2, None), message=b"hello")
    for turn in range(300):
        data = bytearray(dice.randbytes(dice.randrange(1, 200)) if turn % 2 else good)
        if not turn % 2:
            for _ in range(dice.randrange(1, 4)):
                data[dice.randrange(len(data))] = dice.randrange(256)
        here, there = pair()
        with here, there:
            _raw(here, bytes(data))
            try:
                there.receive(timeout=PATIENCE).close()
            except (ConnectionAbortedError, PermissionError):
                assert there.closed


# -- Linux ----------------------------------------------------------------------------------------

if sys.platform != "win32":
    import array
    import socket

    from extmem.handles.directory.folder import where

    def _files() -> list[str]:
        return [each for each in os.listdir(where()) if each.startswith("channel-")]

    def test_surplus_descriptors_are_closed(ends: tuple[Channel, Channel]) -> None:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        ours, theirs = os.pipe()
        try:
            for data, fds in (
                (_packed(), [null]),  # that no item speaks of
                (_packed(Item("opaque_fd", None, None)), [null, null]),
                (_packed(*[Item("opaque_fd", None, None)] * 32), [null] * 33),  # too many
                (_packed(Item("opaque_fd", None, None)), [null] * 200),
                (_packed(Item("opaque_fd", None, None)), [ours]),  # a pipe
                (_packed(Item("opaque_fd", None, b"no passport")), [null]),
                (b"\xc1", [null] * 32),
            ):
                before = len(os.listdir("/proc/self/fd"))
                here, there = pair()
                with here, there:
                    _raw(here, data, fds)
                    with pytest.raises(ConnectionAbortedError):
                        there.receive(timeout=PATIENCE)
                assert len(os.listdir("/proc/self/fd")) == before
        finally:
            for fd in (null, ours, theirs):
                os.close(fd)

    def test_a_packet_too_large_and_an_empty_one() -> None:
        for data, error in (
            (bytes(parcels.LARGEST_PACKET + 1), ConnectionAbortedError),
            (b"", EOFError),
        ):
            here, there = pair()
            with here, there:
                _raw(here, data)
                with pytest.raises(error):
                    there.receive(timeout=PATIENCE)

    def test_a_name_is_one_listeners_and_free_again(name: str) -> None:
        with Listener(name), pytest.raises(FileExistsError, match="already"):
            Listener(name)
        with Listener(name) as door:
            assert _files() == [f"channel-{name}.sock"]
            door.close()
        assert _files() == []

    def _listen_and_wait(home: Any, name: str) -> None:
        with Listener(name):
            home.send("there")
            time.sleep(PATIENCE)

    def test_a_killed_listener_leaves_its_name(name: str) -> None:
        with second.start(_listen_and_wait, name=name) as process:
            process.receive()
            process.kill()
        assert _files() == [f"channel-{name}.sock"]
        with Listener(name) as door, connect(name) as other, door.accept(timeout=PATIENCE) as it:
            other.send(b"hello")
            assert it.receive(timeout=PATIENCE).message == b"hello"
        assert _files() == []

    _AS_NOBODY = """
import os, socket, sys
import extmem
from extmem import channel  # now: the folder of this Python may be closed to others
name, whose, there = sys.argv[1], int(sys.argv[2]), os.environ.pop("FOLDER")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    sock.connect(f"{there}/channel-{name}.sock")
except OSError as error:
    print(type(error).__name__)
with channel.connect(name, user=whose) as other:
    try:
        print(other.receive(timeout=10).message.decode(), other.peer == (os.getppid(), whose))
    except PermissionError as error:
        print("refused", "users=[65534]" in str(error))
"""

    @pytest.mark.parametrize("admitted", [False, True])
    def test_another_user_is_refused_unless_admitted(name: str, admitted: bool) -> None:
        if os.getuid():
            missing("root, to act for another user", installable=False)
        with Listener(name, users=[65534 if admitted else 1234]) as door:
            process = subprocess.Popen(
                [sys.executable, "-c", _AS_NOBODY, name, "0"],
                stdout=subprocess.PIPE,
                env={**os.environ, "FOLDER": str(where())},
            )
            with process:
                if admitted:
                    with door.accept(timeout=PATIENCE) as other:
                        assert other.peer == (process.pid, 65534)
                        other.send(b"welcome")
                        process.wait(PATIENCE)
                else:
                    with pytest.raises(TimeoutError):
                        door.accept(timeout=4)
                assert process.stdout is not None
                said = process.stdout.read().decode().splitlines()
        assert said[0] in ("PermissionError", "FileNotFoundError")
        assert said[1] == ("welcome True" if admitted else "refused True")

    def test_another_users_folder_is_closed_to_all(name: str) -> None:
        with Listener(name):
            assert os.stat(where()).st_mode & 0o777 == 0o700

    def test_an_impostor_is_not_taken_for_a_listener(
        name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Listener(name, users=[4321]) as door:
            monkeypatch.setattr(
                "extmem.share.sockets._abstract", lambda name, whose: f"\0extmem-channel-0-{name}"
            )
            with pytest.raises(PermissionError, match="is of user"):
                connect(name, user=4321)
            assert not door.closed

    def test_other_messages_beside_a_packet_are_nothing(ends: tuple[Channel, Channel]) -> None:
        here, there = ends
        beside = (socket.SOL_SOCKET, 2, struct.pack("iII", os.getpid(), os.getuid(), os.getgid()))
        here._open()._sock.sendmsg([_packed(message=b"x")], [beside])
        assert there.receive(timeout=PATIENCE).message == b"x"
        here._open()._sock.sendmsg(
            [_packed(message=b"y")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i"))]
        )
        assert there.receive(timeout=PATIENCE).message == b"y"


def test_the_face_is_small() -> None:
    assert extmem.channel is channel
    assert {"Channel", "Listener", "Parcel", "Peer", "connect", "pair"} == set(channel.__all__)
