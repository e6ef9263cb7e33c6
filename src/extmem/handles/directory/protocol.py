"""What client and service say to each other: one packet for a request, one for its reply.

Packets are msgpack on a SOCK_SEQPACKET socket, decoded strictly and bounded in size. At most one
descriptor goes with a packet, and only where the packet is one that has one. Text that need not be
Unicode (names may have lone surrogates) goes as bytes.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import sys
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from extmem.errors import plain
from extmem.handles import winerror
from extmem.handles.sddl import LONGEST
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["Malformed", "Reply", "Request", "decode_reply", "decode_request", "receive", "send"]

VERSION: Final = 2
MAX_PACKET: Final = 64 * 1024
MAX_PASSPORT: Final = 16 * 1024
MAX_DESCRIPTOR: Final = 16 * 1024  # of SDDL, in bytes
MAX_NAME: Final = 1024  # bytes; 260 UTF-16 units are 780 at most
PAGE_OF_LIST: Final = 40 * 1024  # bytes of a listing in one packet

assert MAX_DESCRIPTOR < LONGEST

HandleValue = Annotated[int, Meta(ge=-1, le=(1 << 63) - 1)]  # -1: the calling process
Mask = Annotated[int, Meta(ge=0, lt=1 << 32)]
Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
ProcessId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Name = Annotated[bytes, Meta(max_length=MAX_NAME)]
Sddl = Annotated[bytes, Meta(max_length=MAX_DESCRIPTOR)]
Passport = Annotated[bytes, Meta(max_length=MAX_PASSPORT)]
Word = Annotated[str, Meta(max_length=64)]


class Malformed(Exception):
    """A peer said what cannot be; its connection ends."""


class Message(Struct, forbid_unknown_fields=True, tag=True):
    """One packet."""


# -- requests --------------------------------------------------------------------------------------


class Hello(Message):
    """First on every connection of this user's processes."""

    version: int
    token: Word | None = None  # of inheritance
    program: Annotated[bytes, Meta(max_length=16)] = b""  # what `execve` makes another; b"": any


class CreateSection(Message):
    size: Size
    name: Name | None
    access: Mask
    security: Sddl | None
    inherit: bool
    passport: Passport


class Share(Message):
    """With a descriptor of a driver."""

    kind: Word
    name: Name | None
    access: Mask
    security: Sddl | None
    inherit: bool
    passport: Passport


class OpenNamed(Message):
    kind: Word
    name: Name
    access: Mask


class SectionSize(Message):
    handle: HandleValue


class Fetch(Message):
    """The descriptor behind a handle."""

    handle: HandleValue
    write: bool | None  # None: as much as the handle grants, of whatever kind it is
    size: Size  # bytes that shall be mapped; 0: none


class Close(Message):
    handle: HandleValue


class Duplicate(Message):
    handle: HandleValue
    access: Mask | None
    inherit: bool
    source: HandleValue
    target: HandleValue
    close_source: bool


class Info(Message):
    handle: HandleValue


class Same(Message):
    first: HandleValue
    second: HandleValue


class Flags(Message):
    handle: HandleValue
    mask: Mask  # 0: change nothing
    flags: Mask


class OpenProcess(Message):
    process_id: ProcessId
    access: Mask
    inherit: bool


class CountHandles(Message):
    pass


class ReadPassport(Message):
    handle: HandleValue


class Offer(Message):
    """A token for the handles that a child shall inherit."""


class Listing(Message):
    after: Size  # the identity of the last object that is known


class Status(Message):
    pass


class Find(Message):
    """From another user's directory: who has this name?"""

    name: Name


class Borrow(Message):
    """From another user's directory: open this name. Once on a connection, which keeps it open."""

    kind: Word
    name: Name
    access: Mask


class Lend(Message):
    """After Borrow: a descriptor that writes."""


# -- replies ---------------------------------------------------------------------------------------


class Failed(Message):
    """An OSError."""

    code: int  # Windows' number
    number: int  # errno
    text: Annotated[str, Meta(max_length=8192)]


class Welcome(Message):
    """The answer to Hello."""

    epoch: Annotated[bytes, Meta(min_length=16, max_length=16)]
    process_id: ProcessId  # of the service


class Done(Message):
    pass


class Number(Message):
    value: int


class Blob(Message):
    value: Passport


class Sent(Message):
    """With a descriptor."""


class Described(Message):
    """What is known of a handle."""

    kind: Word
    name: Name | None
    handles: int
    access: Mask
    identity: Size


class Holding(Struct, frozen=True, forbid_unknown_fields=True):
    """A process, or another user's directory, and how many handles of an object it has."""

    process_id: ProcessId
    uid: int
    command: Word
    handles: int


class Listed(Struct, frozen=True, forbid_unknown_fields=True):
    """An object."""

    identity: Size
    kind: Word
    name: Name | None
    size: Size  # bytes, 0 where it is not known
    owner: Holding  # who made it, and how many handles of it that process has
    holders: Annotated[tuple[Holding, ...], Meta(max_length=64)]
    more_holders: int  # processes that are not listed
    age: float  # seconds
    passport: Passport
    kmt: bool  # it is a KMT number of the embedded device
    lender: int | None  # the uid of another user, whose directory has it


class ListingPage(Message):
    objects: tuple[Listed, ...]
    more: bool


class State(Message):
    """How the service is."""

    process_id: ProcessId
    uid: int
    uptime: float  # seconds
    counts: dict[Word, int]
    limits: dict[Word, float]
    folder: Annotated[str, Meta(max_length=4096)]


class Holder(Message):
    """To another user's directory: who has the name that was asked for."""

    process_id: ProcessId
    command: Word


class Borrowed(Message):
    """To another user's directory, with a descriptor that reads if that was granted."""

    epoch: Annotated[bytes, Meta(min_length=16, max_length=16)]
    identity: Size
    kind: Word
    size: Size
    access: Mask
    passport: Passport
    process_id: ProcessId
    command: Word


Request = (
    Hello | CreateSection | Share | OpenNamed | SectionSize | Fetch | Close | Duplicate | Info
    | Same | Flags | OpenProcess | CountHandles | ReadPassport | Offer | Listing | Status | Find
    | Borrow | Lend
)  # fmt: skip
Reply = (
    Failed | Welcome | Done | Number | Blob | Sent | Described | ListingPage | State | Holder
    | Borrowed
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
encode = _encoder.encode


def decode_request(packet: bytes) -> Request:
    """Malformed if it is none."""
    try:
        return _requests.decode(packet)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(f"this is no request: {plain(error)}") from None


def decode_reply(packet: bytes) -> Reply:
    """Malformed if it is none."""
    try:
        return _replies.decode(packet)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Malformed(f"this is no reply: {plain(error)}") from None


def pack_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def unpack_text(packed: bytes) -> str:
    """Malformed if it is no text that a client of ours sends."""
    if b"\0" in packed:
        raise Malformed("a text has a NUL in it")
    try:
        return packed.decode("utf-8", "surrogatepass")
    except UnicodeError:
        raise Malformed("a text is not one") from None


def failed(error: OSError) -> Failed:
    """An error, to be sent."""
    code = winerror.code_of(error)
    if code is None:
        error = failure(winerror.NOT_SUPPORTED, "the directory failed", str(error))
        code = winerror.NOT_SUPPORTED
    # The text may quote a name that is no Unicode.
    text = str(error.strerror).encode("utf-8", "backslashreplace").decode()
    return Failed(code, error.errno or 0, text[:8000])


def remade(reply: Failed) -> OSError:
    """The error that was sent."""
    error = OSError(reply.number, reply.text)
    error.__dict__["winerror"] = reply.code
    return error


# -- packets ---------------------------------------------------------------------------------------

_ROOM = socket.CMSG_LEN(array.array("i").itemsize)  # for one descriptor and no more


def send(connection: socket.socket, message: Message, fd: int | None = None) -> None:
    """One packet, as it is or not at all. The descriptor stays the caller's."""
    extra = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    connection.sendmsg([encode(message)], extra, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """The next packet and its descriptor, which is the caller's. b"" when the peer is gone.

    Malformed if there was more than a packet may have; nothing of it stays open then. OSError
    (EMFILE) if the descriptor that came could not be had; the next packet is whole again.
    """
    packet, extra, flags, _ = connection.recvmsg(MAX_PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    wrong = ""
    if flags & socket.MSG_TRUNC:
        wrong = f"a packet is larger than {MAX_PACKET} bytes"
    elif flags & socket.MSG_CTRUNC and not fds:  # there was room for one here, but no number
        raise OSError(errno.EMFILE, "no descriptor is left for the one that came")
    elif flags & socket.MSG_CTRUNC or len(fds) > 1:
        wrong = "a packet has more than one descriptor"
    elif fds and not packet:
        wrong = "a descriptor came alone"
    if wrong:
        for fd in fds:
            os.close(fd)
        raise Malformed(wrong)
    return packet, (fds[0] if fds else None)
