"""Find the service, or start it; when many do so at once, one is started.

The one who holds the lock binds the socket, listens, and hands the socket to the new service. So
nobody ever meets a service that is not listening yet: connections wait until it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import extmem
from extmem.handles import winerror
from extmem.handles.directory import protocol as p
from extmem.handles.directory.folder import Folder, unusable, where
from extmem.handles.directory.processes import peer_of, program
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
    with _said_why(), Folder.open(where()) as folder:
        until = time.monotonic() + _PATIENCE
        started = False
        for turn in range(_TRIES):
            sock = _dial(folder)
            if sock is None:
                started, sock = True, _start(folder, until)
            try:
                return sock, _greet(sock, token)
            except Ended:  # it was leaving at that moment
                sock.close()
                time.sleep(0.01 * turn)
            except BaseException:
                sock.close()
                raise
        raise _ends(folder, started)


def running() -> tuple[socket.socket, p.Welcome] | None:
    """A connection to the service that runs; None if none does. Nothing is made or started."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_said_why())
        try:
            folder = stack.enter_context(Folder.open(where(), make=False))
        except FileNotFoundError:
            return None
        for turn in range(_TRIES):
            sock = _dial(folder)
            if sock is None:
                return None
            try:
                return sock, _greet(sock, None)
            except Ended:  # it was leaving at that moment; the next one is told that it has left
                sock.close()
                time.sleep(0.01 * turn)
            except BaseException:
                sock.close()
                raise
        raise _ends(folder, started=False)


def _ends(folder: Folder, started: bool) -> OSError:
    what = "ends as soon as it is started" if started else "closes every connection unasked"
    why = f"it {what}; its log is {folder.log}: {_tail(folder.log)}"
    return failure(winerror.SERVER_UNAVAILABLE, ASKED, why)


@contextlib.contextmanager
def _said_why() -> Iterator[None]:
    """Errors of the system's are errors of ours, that say what could not be done."""
    try:
        yield
    except OSError as error:
        if winerror.code_of(error) is not None:
            raise
        few = error.errno in (errno.EMFILE, errno.ENFILE)
        code = winerror.NO_SYSTEM_RESOURCES if few else winerror.SERVER_UNAVAILABLE
        raise failure(code, ASKED, str(error.strerror or error)) from None


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
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        why = "this process has no descriptor left for it; close some, or see `ulimit -n`"
        raise failure(winerror.NO_SYSTEM_RESOURCES, "cannot take a descriptor", why) from None
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
    reply, fd = ask(sock, p.Hello(p.VERSION, token, program()))
    if fd is not None:
        os.close(fd)
    if not isinstance(reply, p.Welcome):
        raise failure(winerror.SERVER_UNAVAILABLE, ASKED, "it did not say hello")
    return reply


def _socket(folder: Folder) -> socket.socket:
    """A new one, whose number is none that a program takes for its input, output or errors."""
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if sock.fileno() > 2:
            return sock
        with sock:
            return socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 3))
    except OSError as error:
        raise unusable(error, folder.path / "directory.sock") from None


def _dial(folder: Folder) -> socket.socket | None:
    """A connection to a service that is there; None if there is none."""
    sock = _socket(folder)
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
        with _socket(folder) as listener, _not_for_children(listener):
            folder.bind(listener)
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
        # A child that was forked meanwhile has it too, and would hold the lock with it.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


_listeners: set[socket.socket] = set()  # which are being handed to a service


@contextlib.contextmanager
def _not_for_children(listener: socket.socket) -> Iterator[None]:
    """A child that is forked meanwhile does not keep it: connections would wait there for ever."""
    _listeners.add(listener)
    try:
        yield
    finally:
        _listeners.discard(listener)


def _after_fork() -> None:
    while _listeners:
        _listeners.pop().close()


os.register_at_fork(after_in_child=_after_fork)


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
    output = folder.open_log()
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
