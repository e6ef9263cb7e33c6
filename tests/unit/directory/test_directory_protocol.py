"""What hostile and broken peers say. It ends their connection, and nobody else's."""

from __future__ import annotations

import array
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from extmem.handles.directory import protocol as p
from extmem.handles.directory.client import DirectoryKernel
from tests.support.directory import PAGE, Place, eventually

MANY = 300
HELLO = p.Hello(p.VERSION)


@pytest.fixture
def dial(place: Place, kernel: DirectoryKernel) -> Iterator[Any]:
    """More connections, as whoever wants makes them."""
    kernel.count_handles()
    made: list[socket.socket] = []

    def connect(greet: bool = True) -> socket.socket:
        made.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        made[-1].settimeout(5)
        made[-1].connect(str(place.folder / "directory.sock"))
        if greet:
            p.send(made[-1], HELLO)
            assert isinstance(p.decode_reply(p.receive(made[-1])[0]), p.Welcome)
        return made[-1]

    yield connect
    for each in made:
        each.close()


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(p.MAX_PACKET) == b""
    except ConnectionResetError:
        return True


def packed(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


WRONG = [
    b"\0",
    b"\xff" * 100,
    b"\x91" * 5000,  # deep
    b"\xdd\xff\xff\xff\xff",  # four thousand millions, it says
    packed({"type": "Nothing"}),
    packed({"type": "CountHandles", "more": 1}),
    packed({"type": "Close"}),
    packed({"type": "Close", "handle": "1"}),
    packed({"type": "Close", "handle": -2}),
    packed({"type": "Close", "handle": 1 << 63}),
    packed({"type": "Close", "handle": 1.0}),
    packed({"type": "OpenNamed", "kind": "x" * 65, "name": b"", "access": 0}),
    packed({"type": "OpenNamed", "kind": "Section", "name": b"x" * 1025, "access": 0}),
    packed({"type": "OpenNamed", "kind": "Section", "name": b"\xff", "access": 0}),
    packed({"type": "OpenNamed", "kind": "Section", "name": b"\0", "access": 0}),
    packed({"type": "OpenNamed", "kind": "Section", "name": b"Global\\\0x", "access": 0}),
    packed({"type": "OpenNamed", "kind": "Section", "name": b"x", "access": 1 << 32}),
    packed(p.CreateSection(1, b"x", 0, None, False, bytes(p.MAX_PASSPORT + 1))),
    packed(p.CreateSection(1, b"x", 0, b"D" * (p.MAX_DESCRIPTOR + 1), False, b"")),
    packed(p.CountHandles()) + b"\0",
    packed(HELLO),  # again
    packed(p.Find(b"Global\\x")),
    packed(p.Borrow("Section", b"Global\\x", 0)),
    packed(p.Lend()),
    packed(p.Share("Memory", None, 0, None, False, b"")),  # and no descriptor
    bytes(p.MAX_PACKET + 1),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: repr(each[:30]))
def test_what_is_no_request(kernel: DirectoryKernel, dial: Any, wrong: bytes) -> None:
    hostile = dial()
    hostile.send(wrong)
    assert ended(hostile)
    assert kernel.count_handles() == 0


@pytest.mark.parametrize("decode", [p.decode_request, p.decode_reply])
def test_what_is_said_of_it_is_one_short_line(decode: Any) -> None:
    for kind in ("CountHandles", "Done"):
        for more in ("a\nb", "\x1b[2J", "x" * 60_000):
            with pytest.raises(p.Malformed) as refused:
                decode(packed({"type": kind, more: 1}))
            assert str(refused.value).isprintable()
            assert len(str(refused.value)) < 400


def test_a_name_that_is_none(kernel: DirectoryKernel, dial: Any) -> None:
    sock = dial()
    for name in (b"", b"Global\\", b"a\\b"):
        p.send(sock, p.OpenNamed("Section", name, 0))
        assert isinstance(p.decode_reply(p.receive(sock)[0]), p.Failed)


@pytest.mark.timeout(60)
def test_random_bytes(kernel: DirectoryKernel, dial: Any) -> None:
    chance = random.Random(1)
    good = [packed(each) for each in (p.CountHandles(), p.Close(4), p.Listing(0), HELLO)]
    good += [each for each in WRONG if len(each) < 1000]
    for turn in range(MANY):
        hostile = dial(greet=turn % 2 == 0)
        message = bytearray(chance.choice(good) if turn % 3 else chance.randbytes(turn))
        for _ in range(chance.randrange(4)):
            if message:
                message[chance.randrange(len(message))] = chance.randrange(256)
        hostile.send(bytes(message) or b"\1")
        hostile.close()
    assert kernel.count_handles() == 0
    assert eventually(lambda: kernel.status().counts["connections"] <= 2)


def test_before_hello_there_is_nothing(kernel: DirectoryKernel, dial: Any) -> None:
    hostile = dial(greet=False)
    p.send(hostile, p.CountHandles())
    assert ended(hostile)


def test_another_version(dial: Any) -> None:
    old = dial(greet=False)
    p.send(old, p.Hello(p.VERSION + 1))
    reply = p.decode_reply(p.receive(old)[0])
    assert isinstance(reply, p.Failed)
    assert "speaks version" in reply.text


def descriptors_of(process_id: int) -> int:
    return len(os.listdir(f"/proc/{process_id}/fd"))


@pytest.mark.parametrize("count", [1, 2, 5, 200])
@pytest.mark.parametrize("message", [p.CountHandles(), HELLO], ids=["request", "hello"])
def test_descriptors_that_nobody_expects(
    place: Place, kernel: DirectoryKernel, dial: Any, count: int, message: p.Message
) -> None:
    service = kernel.status().process_id
    before = descriptors_of(service)
    hostile = dial(greet=message is not HELLO)
    fd = os.open("/dev/null", os.O_RDONLY)
    rights = array.array("i", [fd] * count)
    hostile.sendmsg([packed(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert ended(hostile)
    os.close(fd)
    assert kernel.count_handles() == 0
    assert eventually(lambda: descriptors_of(service) <= before)


def test_several_descriptors_to_share(kernel: DirectoryKernel, dial: Any) -> None:
    service = kernel.status().process_id
    before = descriptors_of(service)
    hostile = dial()
    fd = os.memfd_create("x")
    extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd, fd]))]
    hostile.sendmsg([packed(p.Share("Memory", None, 1 << 28, None, False, b""))], extra)
    assert ended(hostile)
    os.close(fd)
    assert eventually(lambda: descriptors_of(service) <= before)
    assert kernel.listing() == []


def test_a_refused_descriptor_is_closed(kernel: DirectoryKernel) -> None:
    service = kernel.status().process_id
    before = descriptors_of(service)
    reads, writes = os.pipe()
    for _ in range(10):
        with pytest.raises(OSError, match="is a pipe"):
            kernel.share(reads, "Memory")
    os.close(reads)
    os.close(writes)
    assert descriptors_of(service) == before


def test_one_who_does_not_read_its_replies(kernel: DirectoryKernel, dial: Any) -> None:
    handle = kernel.create_section(PAGE, passport=bytes(16000))
    hostile = dial()
    hostile.settimeout(0.5)

    def ask_and_ask() -> None:
        for _ in range(100_000):
            p.send(hostile, p.ReadPassport(handle))

    with pytest.raises((ConnectionError, TimeoutError)):
        ask_and_ask()
    assert kernel.info(handle).handle_count == 1
    kernel.close(handle)


def test_too_many_connections_of_one_process(kernel: DirectoryKernel, dial: Any) -> None:
    many = [dial() for _ in range(31)]
    one_more = dial(greet=False)
    p.send(one_more, HELLO)
    reply = p.decode_reply(p.receive(one_more)[0])
    assert isinstance(reply, p.Failed)
    assert "limit of 32" in reply.text
    assert len(many) == 31


def test_silent_connections_end(place: Place, kernel: DirectoryKernel, dial: Any) -> None:
    silent = dial(greet=False)
    silent.settimeout(8)
    assert ended(silent)
    assert kernel.count_handles() == 0
