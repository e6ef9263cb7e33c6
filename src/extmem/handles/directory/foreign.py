"""Global\\ names, which the directories of other users have.

Each directory listens on an abstract socket that carries its user's number. Anybody can make a
socket of that name: it is the kernel that says whose it is. A directory that is asked lends what it
has for as long as the connection lasts. One that hangs, lies or dies costs the one who asked a
second at most, and nobody else anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from extmem.handles import winerror
from extmem.handles.access import MAXIMUM_ALLOWED, SECTION, SECTION_MAP_WRITE
from extmem.handles.directory import items
from extmem.handles.directory import protocol as p
from extmem.handles.directory.accounts import Account, Record
from extmem.handles.directory.items import Borrowed
from extmem.handles.directory.processes import peer_of
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["VARIABLE", "Answer", "Lookup", "install", "listen", "others", "prefix"]

log = logging.getLogger("extmem.directory")

VARIABLE = "EXTMEM_DIRECTORY_GLOBAL"  # directories of the same prefix see each other's names
_MOST = (
    256  # sockets that are asked at once; each of them is somebody's whom the kernel vouches for
)
_LISTENS = re.compile(r"\S+: \S+ \S+ 00010000 0005 \S+ +\d+ @(\S+)")


def prefix() -> str:
    """How the abstract sockets begin."""
    return os.environ.get(VARIABLE) or "extmem-directory"


def listen(uid: int) -> tuple[socket.socket, str]:
    """This user's socket, and its name.

    Another directory of this user (of another folder), or somebody else, may have the name: there
    are others for that, which are found just as well.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        for ending in ("", *(f"-{os.urandom(4).hex()}" for _ in range(4))):
            name = f"{prefix()}-{uid}{ending}"
            try:
                sock.bind(f"\0{name}")
            except OSError as error:
                log.warning("cannot answer for Global\\ names as %s: %s", name, error)
                continue
            sock.listen(128)
            return sock, name
        raise OSError("no abstract socket could be had; Global\\ names need one")
    except BaseException:
        sock.close()
        raise


def others(own: str) -> list[tuple[int, str]]:
    """Sockets that could be directories: whose, as they claim, and their names."""
    pattern = re.compile(re.escape(prefix()) + r"-(\d{1,10})(?:-[0-9a-f]{8})?")
    found: dict[str, int] = {}
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            for line in file:
                listens = _LISTENS.match(line)
                fits = listens and pattern.fullmatch(listens[1])
                if listens and fits and listens[1] != own:
                    found[listens[1]] = int(fits[1])
    except OSError as error:
        log.warning("other users' directories cannot be found: %s", error)
    # The plain name first, which a directory has if it can.
    return sorted(((uid, name) for name, uid in found.items()), key=lambda each: len(each[1]))


@dataclass(slots=True)
class Answer:
    """What another user's directory said."""

    uid: int
    reply: p.Holder | p.Borrowed | p.Failed
    sock: socket.socket | None  # which keeps what it lent
    reads: int | None = None
    writes: int | None = None

    def give_back(self) -> None:
        """Close all that came with it."""
        for fd in (self.reads, self.writes):
            if fd is not None:
                os.close(fd)
        self.reads = self.writes = None
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class Lookup:
    """One question to several directories. `done` gets those that have the name, or refuse it."""

    def __init__(
        self,
        question: p.Find | p.Borrow,
        sockets: list[tuple[int, str]],
        watch: Callable[[socket.socket, Callable[[], None]], None],
        unwatch: Callable[[socket.socket], None],
        done: Callable[[list[Answer]], None],
    ) -> None:
        self._question = question
        self._watch, self._unwatch, self._done = watch, unwatch, done
        self._asked: dict[socket.socket, Answer | int] = {}  # the uid until there is an answer
        self._answers: list[Answer] = []
        self.over = False
        for uid, name in sockets[:_MOST]:
            self._ask(uid, name)
        if len(sockets) > _MOST:
            log.warning("of %d sockets with our prefix, %d were asked", len(sockets), _MOST)

    def begin(self) -> None:
        """If nobody could be asked, it is over at once."""
        if not self._asked:
            self._end()

    def _ask(self, uid: int, name: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(f"\0{name}")
            whose = peer_of(sock).user.uid
            if whose != uid:
                log.warning("user %d claims to be the directory of user %d", whose, uid)
                sock.close()
                return
            p.send(sock, self._question)
        except OSError as error:
            log.warning("the directory of user %d cannot be asked: %s", uid, error)
            sock.close()
            return
        self._asked[sock] = uid
        self._watch(sock, lambda: self._read(sock))

    def _read(self, sock: socket.socket) -> None:
        so_far = self._asked[sock]
        uid = so_far if isinstance(so_far, int) else so_far.uid
        fd: int | None = None
        try:
            packet, fd = p.receive(sock)
            reply = p.decode_reply(packet) if packet else None
            if isinstance(so_far, Answer):
                self._lent(so_far, reply, fd)
                fd = None
            else:
                answer, fd = self._answer(uid, sock, reply, fd), None
                if answer is None:
                    return  # there is more to come
                so_far = answer
        except BlockingIOError:
            return
        except (p.Malformed, OSError) as error:
            log.warning("the directory of user %d does not answer properly: %s", uid, error)
            if fd is not None:
                os.close(fd)
            self._drop(sock)
            return
        del self._asked[sock]
        self._unwatch(sock)
        if isinstance(so_far.reply, p.Failed):
            so_far.give_back()
        if not isinstance(so_far.reply, p.Failed) or so_far.reply.code != winerror.FILE_NOT_FOUND:
            self._answers.append(so_far)
        if not self._asked:
            self._end()

    def _answer(
        self, uid: int, sock: socket.socket, reply: p.Reply | None, fd: int | None
    ) -> Answer | None:
        """The first answer of a directory; None if a second was asked for.

        The descriptor is taken if this does not fail.
        """
        question = self._question
        wanted = p.Borrowed if isinstance(question, p.Borrow) else p.Holder
        if not isinstance(reply, wanted | p.Failed) or (
            fd is not None and not isinstance(reply, p.Borrowed)
        ):
            raise p.Malformed(f"{type(reply).__name__} is no answer")
        answer = Answer(uid, reply, sock, fd)
        writes = SECTION_MAP_WRITE if isinstance(reply, p.Borrowed) else 0
        if isinstance(reply, p.Borrowed) and reply.kind == SECTION.name and reply.access & writes:
            p.send(sock, p.Lend())
            self._asked[sock] = answer
            return None
        return answer

    @staticmethod
    def _lent(answer: Answer, reply: p.Reply | None, fd: int | None) -> None:
        """The second answer: the descriptor that writes."""
        if not isinstance(reply, p.Sent) or fd is None:
            raise p.Malformed("nothing was lent")
        answer.writes = fd

    def _drop(self, sock: socket.socket) -> None:
        so_far = self._asked.pop(sock)
        self._unwatch(sock)
        if isinstance(so_far, Answer):
            so_far.give_back()
        sock.close()
        if not self._asked:
            self._end()

    def give_up(self) -> None:
        """The time is over: who has not answered has nothing."""
        for sock, so_far in list(self._asked.items()):
            uid = so_far if isinstance(so_far, int) else so_far.uid
            log.warning("the directory of user %d does not answer in time", uid)
            self._drop(sock)

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self._done(self._answers)


def install(answer: Answer, request: p.OpenNamed, maker: Account, asked: str) -> tuple[
    Borrowed, int, Record
]:  # fmt: skip
    """What was lent, examined: the object, the rights, and what is known of it.

    The descriptors and the connection are the object's from then on.
    """
    reply = answer.reply
    assert isinstance(reply, p.Borrowed)
    kind = items.kind_of(request.kind, asked)
    wanted = items.bits_of(kind, request.access)
    access = reply.access if wanted & MAXIMUM_ALLOWED else wanted & reply.access
    if reply.kind != request.kind or not access or (wanted & ~MAXIMUM_ALLOWED & ~access):
        raise failure(winerror.ACCESS_DENIED, asked, f"user {answer.uid} lent something else")
    for fd, write in ((answer.reads, False), (answer.writes, True)):
        if fd is None:
            continue
        if kind is SECTION:
            items.examine_pages(fd, reply.size, write, asked)
        else:
            items.examine(fd, asked)
    item = Borrowed(kind, p.unpack_text(request.name), answer.uid, reply.size)
    item.key = (answer.uid, reply.epoch, reply.identity)
    item.adopt(answer.reads, answer.writes)
    sock = answer.sock
    assert sock is not None
    item.leases.append(lambda: _give_back(sock))
    descriptors = 1 + (answer.reads is not None) + (answer.writes is not None)
    answer.reads = answer.writes = answer.sock = None
    return item, access, Record(item, maker, reply.size, reply.passport, descriptors)


def _give_back(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.close()
