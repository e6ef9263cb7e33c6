"""The directory's service as packets meet it: the real one, on real sockets, turned by hand.

One input is what up to four peers say to it, packet by packet: two connections of a process of this
user, another user's directory that asks, and another user's directory that is asked. Whatever they
say, each request is answered or its connection ends, the service makes no mistake of its own, and
nothing is left when they are gone.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import itertools
import logging
import os
import secrets
import socket
import tempfile
import traceback
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from extmem.handles import memfd
from extmem.handles.directory import foreign
from extmem.handles.directory import protocol as p
from extmem.handles.directory.folder import Folder
from extmem.handles.directory.limits import Limits
from extmem.handles.directory.service import Service
from tests.fuzz import frames

__all__ = ["FIRST", "GUEST", "LENDER", "SECOND", "Descriptors", "lowest_free", "opened"]

# Where a packet goes: the lowest two bits of its control byte.
FIRST, SECOND, GUEST, LENDER = range(4)

# Few, so that inputs of a few packets meet them.
_LIMITS = Limits(
    handles=24, all_handles=32, objects=8, all_objects=12, names=4, all_names=6, processes=4,
    connections=2, guests=2, tokens=2,
)  # fmt: skip
_WITH_DESCRIPTOR = (p.Sent, p.Borrowed)


def lowest_free() -> int:
    """The lowest descriptor that is free: another one than before means that something leaked."""
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return fd


class Descriptors:
    """What peers send beside packets: bits 2 and 3 of a control byte say how many, the next three
    what."""

    def __init__(self) -> None:
        large, small = memfd.make(8192), memfd.make(4096)
        reads, writes = os.pipe()
        os.close(writes)
        self._kinds = [
            memfd.again(large, write=False),
            large,
            memfd.again(small, write=False),
            small,
            os.memfd_create("unsealed", os.MFD_CLOEXEC),
            os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
            reads,
            os.open("/", os.O_PATH | os.O_CLOEXEC),
        ]

    @staticmethod
    def control(count: int, kind: int = 0) -> int:
        """The bits for so many descriptors of a kind."""
        return count << 2 | kind << 4

    def beside(self, control: int) -> list[int]:
        """What a control byte asks for."""
        return [self._kinds[control >> 4 & 7]] * (control >> 2 & 3)

    def close(self) -> None:
        for fd in self._kinds:
            os.close(fd)


class _Mistakes(logging.Handler):
    """What the service says of itself: mistakes that it survived."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self.found.append(text)


class _Peer:
    """A connection to the service, and the requests that have no answer yet."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.sock.connect(address)
        self.waiting: deque[p.Request | None] = deque()
        self.ended = False

    def send(self, packet: bytes, fds: list[int]) -> None:
        if not _sent(self.sock, packet, fds):
            return
        try:
            self.waiting.append(p.decode_request(packet))
        except p.Malformed:
            self.waiting.append(None)

    def read(self) -> None:
        """All replies that are there."""
        while not self.ended:
            try:
                packet, fd = p.receive(self.sock)
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet, fd = b"", None
            if not packet:
                self.ended = True
                return
            try:
                self._check(p.decode_reply(packet), fd)
            finally:
                if fd is not None:
                    os.close(fd)

    def _check(self, reply: p.Reply, fd: int | None) -> None:
        assert self.waiting or isinstance(reply, p.Failed), "an answer that nobody asked for"
        request = self.waiting.popleft() if self.waiting else None
        assert isinstance(reply, _WITH_DESCRIPTOR) or fd is None, "a descriptor that nobody expects"
        if isinstance(reply, p.Sent):
            assert fd is not None, "no descriptor"
            if isinstance(request, p.Fetch) and request.size:
                # Who maps more than there is dies of it at the first touch.
                assert os.fstat(fd).st_size >= request.size, "fewer bytes than were asked for"
                assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK, "it can shrink"
        if isinstance(reply, p.ListingPage):
            for each in reply.objects:
                assert each.name is None or p.unpack_text(each.name)


class Directory:
    """The service and its peers."""

    def __init__(self, folder: Folder, service: Service, lender: socket.socket) -> None:
        self._folder, self._service, self._lender = folder, service, lender
        self._guests = f"\0{foreign.prefix()}-{os.geteuid()}"
        self._descriptors = Descriptors()
        self._mistakes = _Mistakes()
        self._peers: dict[int, _Peer] = {}
        self._past: list[_Peer] = []
        self._asking: list[socket.socket] = []  # connections to the directory that is asked
        log = logging.getLogger("extmem.directory")
        log.addHandler(self._mistakes)
        log.propagate = False
        self._before = lowest_free()

    def __call__(self, data: bytes) -> None:
        """Serve one input. AssertionError if something is wrong then."""
        # What is random otherwise: an input does the same whenever it is tried.
        tokens = itertools.count(1)
        secrets.randbelow = lambda below: 0
        secrets.token_hex = lambda count=32: f"{next(tokens):0{2 * count}x}"
        for control, packet in frames.split(data):
            self._say(control, packet)
            self._turn()
        self._end()
        assert not self._mistakes.found, "\n".join(self._mistakes.found)
        state = self._service.state
        left = (state.handles, state.descriptors, len(state), len(state.names), len(state.tokens))
        assert left == (0, 0, 0, 0, 0), f"handles, descriptors, objects, names, tokens: {left}"
        assert not state.accounts, state.accounts
        assert not state.borrowed, state.borrowed
        assert lowest_free() == self._before, "a descriptor is left"

    def _say(self, control: int, packet: bytes) -> None:
        fds = self._descriptors.beside(control)
        to = control & 3
        if to == LENDER:
            self._accept()
            if self._asking:
                _sent(self._asking[-1], packet, fds)
            return
        peer = self._peers.get(to)
        if peer is None or peer.ended:
            if peer is not None:
                self._past.append(peer)
            peer = self._peers[to] = _Peer(self._guests if to == GUEST else self._folder.address)
        peer.send(packet, fds)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._asking.append(self._lender.accept()[0])

    def _turn(self) -> None:
        """Let the service do what there is to do."""
        while self._service.turn(0):
            for peer in self._peers.values():
                peer.read()

    def _end(self) -> None:
        """All peers leave, once they have their answers."""
        while True:  # the directory that is asked says nothing more
            self._accept()
            if not self._asking:
                break
            while self._asking:
                self._asking.pop().close()
            self._turn()
        for peer in self._peers.values():
            waiting = [type(each).__name__ for each in peer.waiting]
            assert peer.ended or not waiting, f"no answer to {waiting}"
        for peer in (*self._peers.values(), *self._past):
            peer.sock.close()
        self._peers.clear()
        self._past.clear()
        self._turn()
        # The processes end, and time goes by.
        for process_id in list(self._service._watched):
            self._service._process_ended(process_id)
        timers, self._service._timers = self._service._timers, []
        for _, _, call in timers:
            call()

    def close(self) -> None:
        self._descriptors.close()


def _sent(sock: socket.socket, packet: bytes, fds: list[int]) -> bool:
    """Whether a packet could be sent; there may be nobody any more, or no room."""
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([packet], beside, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionError):
        return False
    return bool(packet)


@contextlib.contextmanager
def opened() -> Iterator[Directory]:
    """A service that nobody else meets, and another user's directory as it sees one."""
    os.environ[foreign.VARIABLE] = prefix = f"xf-{os.getpid()}"
    with (
        tempfile.TemporaryDirectory(prefix="xf-") as path,
        Folder.open(Path(path)) as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as lender,
    ):
        listener.bind(folder.address)
        listener.listen(64)
        service = Service(folder, listener, 1e9, _LIMITS)
        lender.bind(f"\0{prefix}-{os.geteuid()}-{0:08x}")
        lender.listen(64)
        yield Directory(folder, service, lender)
