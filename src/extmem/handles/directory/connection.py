"""One connection of the service: packets in, packets out, and never a wait."""

from __future__ import annotations

import logging
import os
import socket
import sys

from extmem.handles import winerror
from extmem.handles.directory import protocol
from extmem.handles.directory.accounts import Account
from extmem.handles.directory.processes import Peer
from extmem.handles.directory.protocol import Malformed, Message, Request, Share
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["Connection"]

log = logging.getLogger("extmem.directory")


class Connection:
    """Of a process of this user, or of another user's directory (a guest)."""

    def __init__(self, sock: socket.socket, peer: Peer, guest: bool) -> None:
        self.sock = sock
        self.peer = peer
        self.guest = guest
        self.account: Account | None = None  # once it has said hello, or borrowed something
        self.borrowed: int | None = None  # a guest's one handle
        self.closed = False
        self.refusal: OSError | None = None  # what it is told to its first request, which is all

    def read(self) -> tuple[Request, int | None] | None:
        """The next request, and its descriptor, which is the caller's; None when there is none.

        Malformed if it is no request, ConnectionError if the peer is gone.
        """
        try:
            packet, fd = protocol.receive(self.sock)
        except BlockingIOError:
            return None
        try:
            if not packet:
                raise ConnectionResetError("closed")
            request = protocol.decode_request(packet)
            if isinstance(request, Share) != (fd is not None):
                what = "without a descriptor" if fd is None else "with a descriptor"
                raise Malformed(f"{type(request).__name__} came {what}")
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise
        return request, fd

    def reply(self, message: Message, fd: int | None = None) -> None:
        """Answer, and close the descriptor. ConnectionError if the peer does not read."""
        try:
            try:
                protocol.send(self.sock, message, fd)
            except OSError:
                raise
            except Exception:  # it cannot be packed; who waits for it is not to wait for ever
                log.exception("a mistake in the directory, in its reply to %s", self)
                error = failure(winerror.INTERNAL_ERROR, "cannot answer this")
                protocol.send(self.sock, protocol.failed(error))
        except BlockingIOError:
            raise ConnectionAbortedError("it does not read its replies") from None
        finally:
            if fd is not None:
                os.close(fd)

    def close(self) -> None:
        self.closed = True
        self.sock.close()

    def __str__(self) -> str:
        kind = "directory" if self.guest else "process"
        return f"{kind} {self.peer.process_id} of user {self.peer.user.uid}"
