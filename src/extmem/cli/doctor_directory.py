"""Checks of the directory of Windows handles: its folder, what lies in it, and its service."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from extmem.cli.findings import Finding, note, ok, problem
from extmem.cli.words import duration
from extmem.handles.directory.client import running
from extmem.handles.directory.folder import VARIABLE, others, where
from extmem.handles.winerror import NO_SYSTEM_RESOURCES, code_of

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["elsewhere", "files", "folder", "service"]

_SOCKET, _LOCK, _LOG = "directory.sock", "directory.lock", "directory.log"
_TAIL = 64 * 1024  # bytes of the log that are read
_HIGH = 0.8  # of a limit
# What the service counts, and the limit of each.
_LIMITS = {
    "processes": "processes",
    "connections": "all_connections",
    "guests": "all_guests",
    "objects": "all_objects",
    "names": "all_names",
    "handles": "all_handles",
    "descriptors": "descriptors",
}


def folder() -> Iterator[Finding]:
    """Whether the folder is there, and this user's alone."""
    path = where()
    facts = {"path": str(path), "chosen": bool(os.environ.get(VARIABLE))}
    other = f"or set {VARIABLE} to another folder"
    yield from _choice(path)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        yield _can_be_made(path)
        return
    except OSError as error:
        remedy = f"Set {VARIABLE} to a folder that this user can reach."
        yield problem(f"The folder {path} cannot be looked at: {error.strerror}.", remedy, **facts)
        return
    mode = stat.S_IMODE(status.st_mode)
    facts |= {"mode": f"{mode:o}", "user_id": status.st_uid}
    quoted = shlex.quote(str(path))
    if stat.S_ISLNK(status.st_mode):
        sentence = f"The folder {path} is a symbolic link, which the directory refuses to follow."
        yield problem(sentence, f"Remove it: rm {quoted}, {other}.", **facts)
    elif not stat.S_ISDIR(status.st_mode):
        sentence = f"{path} is no folder, and the directory needs one there."
        yield problem(sentence, f"Remove it: rm {quoted}, {other}.", **facts)
    elif status.st_uid != os.geteuid():
        sentence = f"The folder {path} belongs to user {status.st_uid}, not to user {os.geteuid()}."
        yield problem(sentence, f"Have that user or root remove it, {other}.", **facts)
    elif mode != 0o700:
        sentence = f"The folder {path} has the mode {mode:o}; the directory uses none but 700."
        yield problem(sentence, f"chmod 700 {quoted}, {other}.", **facts)
    else:
        yield ok(f"The folder of the directory is {path}, this user's own with mode 700.", **facts)


def _choice(path: Path) -> Iterator[Finding]:
    """How the folder came to be the one."""
    chosen = os.environ.get(VARIABLE)
    if chosen and not os.path.isabs(chosen):
        yield note(
            f"{VARIABLE} is {chosen}, which is another folder in each working directory.",
            f"Set it to a path that begins with a slash: {VARIABLE}={shlex.quote(str(path))}.",
        )
    elif chosen:
        yield ok(f"{VARIABLE} chooses the folder; programs share with those that have the same.")
    elif path.parent == Path("/tmp"):
        yield note(
            "This session has no runtime folder (XDG_RUNTIME_DIR, or /run/user), so the directory "
            f"is in {path}; programs of a session that has one would not share with it.",
            f"Where both kinds are to share, set {VARIABLE} to one folder for all of them.",
        )


def _can_be_made(path: Path) -> Finding:
    if not path.parent.is_dir():
        sentence = f"The folder {path} cannot be made, because {path.parent} is not there."
        quoted = shlex.quote(str(path.parent))
        remedy = f"mkdir -p {quoted}, or set {VARIABLE} to another folder."
        return problem(sentence, remedy, path=str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        sentence = f"The folder {path} cannot be made: this user may not write to {path.parent}."
        remedy = f"Set {VARIABLE} to a folder of this user's own."
        return problem(sentence, remedy, path=str(path))
    return ok(f"The folder of the directory, {path}, is made with the first use.", path=str(path))


def _is_usable(path: Path) -> bool:
    """Whether the directory takes the folder, or can make it."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700
    return ours and stat.S_ISDIR(status.st_mode)


# -- what lies in it -------------------------------------------------------------------------------


def files() -> Iterable[Finding]:
    """Whether socket, lock and log are what they have to be, and what the log says."""
    path = where()
    if not path.is_dir() or not _is_usable(path):
        return []  # there are none, or the check before has said so
    found = [*_odd(path), *_lock(path), *_log(path)]
    return found or [ok("Nothing in the folder is out of order.")]


def _odd(path: Path) -> Iterator[Finding]:
    kinds = ((_SOCKET, stat.S_ISSOCK, "socket"), (_LOCK, stat.S_ISREG, "plain file"),
             (_LOG, stat.S_ISREG, "plain file"))  # fmt: skip
    for name, is_right, kind in kinds:
        file = path / name
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(file)
            if not is_right(status.st_mode) or status.st_uid != os.geteuid():
                remedy = f"Remove it: rm -r {shlex.quote(str(file))}."
                yield problem(f"{file} is not this user's {kind}, as it has to be.", remedy)


def _lock(path: Path) -> Iterator[Finding]:
    """Who holds the lock, as the kernel lists it: to take it would keep others from it."""
    try:
        inode = os.lstat(path / _LOCK).st_ino
        lines = Path("/proc/locks").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            yield note(
                f"Process {words[4]} holds the lock of the folder: it starts or ends a directory.",
                f"Ask again in a moment; if it stays so, see what process {words[4]} waits for.",
                process_id=int(words[4]),
            )


def _log(path: Path) -> Iterator[Finding]:
    file = path / _LOG
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        size = os.fstat(fd).st_size
        text = os.pread(fd, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")
    finally:
        os.close(fd)
    lines = text.splitlines()
    errors = [each for each in lines if " ERROR " in each or each.startswith("Traceback")]
    warnings = [each for each in lines if " WARNING " in each]
    facts = {"path": str(file), "size": size, "errors": len(errors), "warnings": len(warnings)}
    if errors:
        sentence = f"The directory wrote of a mistake of its own: {errors[-1][:200]}."
        yield problem(sentence, f"Read {file}, and report it as a bug of extmem.", **facts)
    elif warnings:
        sentence = f"The directory warned {len(warnings)} times, last: {warnings[-1][:200]}."
        yield note(sentence, f"Read {file}.", **facts)


# -- the service -----------------------------------------------------------------------------------


def service() -> Iterator[Finding]:
    """Whether it runs, since when, and how much of each limit is used."""
    if not _is_usable(where()):
        yield note("Whether a directory runs is not known, because its folder cannot be used.",
                   "See the findings on the folder.")  # fmt: skip
        return
    try:
        kernel = running()
    except OSError as error:
        if code_of(error) == NO_SYSTEM_RESOURCES:  # it runs, and answers that
            sentence = str(error.strerror)
            yield problem(f"{sentence[:1].upper()}{sentence[1:]}.", _FEWER, running=True)
        else:
            yield _silent(str(error.strerror))
        return
    if kernel is None:
        yield ok("No directory runs; the first program that shares starts one.", running=False)
        yield from _left()
        return
    try:
        state = kernel.status()
    finally:
        kernel.disconnect()
    facts = {
        "running": True,
        "process_id": state.process_id,
        "uptime": round(state.uptime, 3),
        "epoch": kernel.epoch.hex(),
        "counts": state.counts,
        "limits": state.limits,
    }
    sentence = f"The directory runs as process {state.process_id} for {duration(state.uptime)}"
    yield ok(f"{sentence}; its epoch is {kernel.epoch.hex()}.", **facts)
    used, high = [], False
    for what, name in _LIMITS.items():
        count, limit = state.counts.get(what), state.limits.get(name)
        if count is None or not limit:
            continue
        used.append(f"{count:,} of {limit:,.0f} {what}")
        if count >= limit * _HIGH:
            high = True
            make = problem if count >= limit else note
            yield make(
                f"The directory has {count:,} {what}, and its limit is {limit:,.0f}.",
                _MORE if what == "descriptors" else "See who has them: extmem list. Close some.",
                what=what,
                count=count,
                limit=limit,
            )
    if not high:
        yield ok(f"It has {', '.join(used)} (with this look at it).")


def elsewhere() -> Iterator[Finding]:
    """Directories and folders of this user that programs of other sessions use, or used."""
    ours, alone, live = where(), True, _services()
    for process_id, folder in sorted(live.items()):
        if folder != ours:
            alone = False
            yield note(
                f"Another directory of this user runs as process {process_id}, in {folder}; "
                f"programs that use it do not share with those that use {ours}.",
                f"Where they are to share, set {VARIABLE} to one folder for all of them.",
                process_id=process_id,
                path=str(folder),
            )
    for path in others():
        if path not in live.values() and (path / _SOCKET).is_socket():
            alone = False
            yield note(
                f"The folder {path}, which other sessions of this user choose, has the socket of a "
                "directory that was killed.",
                "Nothing has to be done: the next program there replaces it. To be rid of it now: "
                f"rm {shlex.quote(str(path / _SOCKET))}.",
                path=str(path),
            )
    if alone:
        yield ok("No other directory of this user runs or was left behind.")


def _services() -> dict[int, Path]:
    """This user's directories: their processes and folders."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or entry.stat().st_uid != os.geteuid():
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"extmem.handles.directory" in words[:-2]:  # LISTENER FOLDER, and an end
                found[int(entry.name)] = Path(os.fsdecode(words[-2]))
    return found


def _silent(why: str) -> Finding:
    """A service that does not answer as it should."""
    hung = []
    for number, folder in _services().items():
        with contextlib.suppress(OSError):
            if folder == where():
                text = Path(f"/proc/{number}/stat").read_text(errors="replace")
                hung.append((number, text.rpartition(")")[2].split()[0]))
    remedy = "Ask again when the machine has less to do."
    if hung:
        process_id, state = hung[0]
        remedy = (
            f"End it: kill {process_id}. What is shared is gone then; the next use starts anew."
        )
        if state in "Tt":
            remedy = f"It is stopped; let it go on: kill -CONT {process_id}."
    sentence = f"{why[:1].upper()}{why[1:]}."
    return problem(sentence, remedy, processes=[each for each, _ in hung])


def _left() -> Iterator[Finding]:
    file = where() / _SOCKET
    if file.is_socket():
        yield note(
            f"The socket {file} is left of a directory that was killed; nobody listens there.",
            "Nothing has to be done: the next program that shares replaces it. To be rid of it "
            f"now: rm {shlex.quote(str(file))}.",
            path=str(file),
        )


_FEWER = "End programs that share, or raise the hard limit of descriptors (ulimit -Hn)."
_MORE = "See who has them: extmem list. Close some, or raise the hard limit (ulimit -Hn)."
