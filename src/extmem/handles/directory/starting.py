"""Find the service, or start it; when many do so at once, one is started.

The one who holds the lock binds the socket, listens, and hands the socket to the new service. So
nobody ever meets a service that is not listening yet: connections wait until it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import extmem
from extmem.handles import winerror
from extmem.handles.directory import protocol as p
from extmem.handles.directory.folder import Folder, where
from extmem.handles.directory.processes import peer_of
from extmem.handles.winerror import failure

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["ASKED", "Ended", "connect", "running"]

log = logging.getLogger("extmem.directory")

ASKED = "cannot reach the directory of Windows handles"
_PATIENCE = 20.0  # seconds to wait for the lock, or for an answer
_TRIES = 5  # services that leave or fail just when they are needed

# A process between us and the service, so that it is nobody's child and in no terminal's session.
# It is a fresh one, because a program with threads cannot safely fork.
_LAUNCHER = "import os, sys\nif os.fork(): os._exit(0)\nos.execv(sys.argv[1], sys.argv[1:])"


class Ended(Exception):
    """The service went away."""


def connect(token: str | None) -> tuple[socket.socket, p.Welcome]:
    """A connection that has said hello. OSError 1722 if there is none to be had."""
    try:
        folder = Folder.open(where())
    except OSError as error:
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, str(error)) from None
    with folder:
        until = time.monotonic() + _PATIENCE
        for turn in range(_TRIES):
            sock = _dial(folder) or _start(folder, until)
            try:
                return sock, _greet(sock, token)
            except Ended:  # it was leaving at that moment
                sock.close()
                time.sleep(0.01 * turn)
            except BaseException:
                sock.close()
                raise
        why = f"it ends as soon as it is started; its log is {folder.log}: {_tail(folder.log)}"
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why)


def running() -> tuple[socket.socket, p.Welcome] | None:
    """A connection to the service that runs; None if none does. Nothing is made or started."""
    try:
        folder = Folder.open(where(), make=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, str(error)) from None
    with folder:
        sock = _dial(folder)
        if sock is None:
            return None
        try:
            return sock, _greet(sock, None)
        except Ended:  # it was leaving at that moment
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise


def ask(sock: socket.socket, request: p.Message, fd: int | None = None) -> tuple[
    p.Reply, int | None
]:  # fmt: skip
    """Send a request and wait for the reply and its descriptor. Ended if the service did."""
    try:
        p.send(sock, request, fd)
        packet, got = p.receive(sock)
    except (BrokenPipeError, ConnectionError):
        raise Ended from None
    except BlockingIOError:
        why = (
            f"it has not answered for {_PATIENCE:.0f} s: is it stopped, or the machine overloaded?"
        )
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why) from None
    except p.Malformed as error:
        raise failure(
            winerror.SERVER_UNAVAILABLE, ASKED, f"what it said is wrong: {error}"
        ) from None
    if not packet:
        raise Ended
    try:
        reply = p.decode_reply(packet)
    except p.Malformed as error:
        if got is not None:
            os.close(got)
        why = f"what it said cannot be read: {error}"
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why) from None
    if isinstance(reply, p.Failed):
        if got is not None:
            os.close(got)
        raise p.remade(reply)
    return reply, got


def _greet(sock: socket.socket, token: str | None) -> p.Welcome:
    reply, fd = ask(sock, p.Hello(p.VERSION, token))
    if fd is not None:
        os.close(fd)
    if not isinstance(reply, p.Welcome):
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, "it did not say hello")
    return reply


def _dial(folder: Folder) -> socket.socket | None:
    """A connection to a service that is there; None if there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # The kernel's own time-outs: Python's would ask before each packet whether one is there.
        patience = struct.pack("ll", int(_PATIENCE), 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        sock.connect(folder.address)
        whose = peer_of(sock).user.uid
        if whose != os.geteuid():
            why = f"the socket in {folder.path} is user {whose}'s"
            raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why)
        return sock
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except BlockingIOError:
        sock.close()
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, "it accepts no connections") from None
    except BaseException:
        sock.close()
        raise


def _start(folder: Folder, until: float) -> socket.socket:
    """A connection to a new service, or to one that somebody else has just started."""
    lock = folder.open_lock()
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    why = "somebody else has been starting it for too long"
                    raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why) from None
                time.sleep(0.002)
        sock = _dial(folder)
        if sock is not None:
            return sock
        folder.remove_socket()  # of one that was killed
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(folder.address)
            listener.listen(4096)
            try:
                _spawn(folder, listener.fileno())
            except BaseException:
                folder.remove_socket()
                raise
            sock = _dial(folder)
        if sock is None:
            raise failure(winerror.SERVER_UNAVAILABLE, ASKED, "it could not be started")
        return sock
    finally:
        os.close(lock)


def _spawn(folder: Folder, listener: int) -> None:
    """Start a service that has nothing to do with us, and wait for nothing but that."""
    if not sys.executable:
        why = "this program does not know which Python to start it with (sys.executable)"
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why)
    root = str(Path(extmem.__file__).resolve().parent.parent)
    environment = {key: value for key, value in os.environ.items() if key != "EXTMEM_INHERIT"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    # `-P`: the working directory is not searched for modules.
    service = [sys.executable, "-P", "-m", "extmem.handles.directory", str(listener)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    output = os.open("directory.log", flags, 0o600, dir_fd=folder.fd)
    try:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *service, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            pass_fds=(listener,),
            start_new_session=True,
        )
    except OSError as error:
        raise failure(
            winerror.SERVER_UNAVAILABLE, ASKED, f"it cannot be started: {error}"
        ) from None
    finally:
        os.close(output)
    if launcher.wait() != 0:
        why = f"it cannot be started; its log is {folder.log}: {_tail(folder.log)}"
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, why)
    log.info("started the directory of Windows handles; its folder is %s", folder.path)


def _tail(path: Path) -> str:
    """The end of a log."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-500:].strip() or "(empty)"
    return "(none)"
