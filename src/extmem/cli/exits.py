"""How the command line ends: exit codes that scripts can rely on, and errors in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from extmem.errors import DriverNotFound, ExtmemError, Unsupported

__all__ = ["CODES", "EPILOG", "TRACEBACK", "Commands", "NotThere", "code_of", "run"]

TRACEBACK = "EXTMEM_TRACEBACK"  # set to anything but 0: errors come with where they came from

INTERRUPTED, UNREAD = 130, 141  # what a shell says of a program that SIGINT or SIGPIPE ended

# The table of README.md and of `--help`. A meaning never changes; numbers may be added.
CODES = {
    0: "it worked",
    1: "it failed, or what it checked was wrong",
    2: "the command line, or a variable of the environment, was wrong",
    3: "what was named is not there: a driver, a device, a rule, an object, a stream",
    4: "the device, its driver or the system cannot do it",
    INTERRUPTED: "it was interrupted by Ctrl-C",
    UNREAD: "nobody reads its output any more",
}

EPILOG = (
    f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in CODES.items())}. "
    f"{TRACEBACK}=1 shows where an error came from."
)


class NotThere(ExtmemError):
    """What the command line names does not exist."""


def code_of(error: BaseException) -> int:
    """The exit code for an error.

    >>> code_of(Unsupported("no")), code_of(FileNotFoundError("no")), code_of(OSError("no"))
    (4, 3, 1)
    >>> code_of(ValueError("the variable EXTMEM_CHECKS is 'nonsense'"))
    2
    """
    if isinstance(error, (DriverNotFound, NotThere, FileNotFoundError)):
        return 3
    if isinstance(error, ValueError) and not isinstance(error, (ExtmemError, UnicodeError)):
        return 2  # what somebody gave, and not what came of it
    return 4 if isinstance(error, Unsupported) else 1


class Commands(TyperGroup):
    """The group of all commands: what one of them raises becomes a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # what cannot be written is an error of now, not of the end
        except KeyboardInterrupt:
            code = _interrupted()
        except (
            OSError,
            ExtmemError,
            ValueError,
        ) as error:  # a value that somebody gave, as a variable
            code = _ended_by(error)
        except typer.Exit:
            raise
        except Exception as error:
            if _is_usage(error) or os.environ.get(TRACEBACK, "0") != "0":
                raise
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            _tell(f"{said}. This is a bug of extmem: set {TRACEBACK}=1, try again and report it")
            code = 1
        raise typer.Exit(code)


def _is_usage(error: Exception) -> bool:
    """Whether it is about the command line: typer shows those itself, and ends with 2."""
    return hasattr(error, "exit_code") or isinstance(error, typer.Abort)


def _ended_by(error: OSError | ExtmemError | ValueError) -> int:
    """Say what happened, and with which code that ends."""
    if _nobody_reads(error):
        _drop_output()
        return UNREAD
    if os.environ.get(TRACEBACK, "0") != "0":
        traceback.print_exception(error)
    said = str(error)  # a text: a name for the error would keep what its frames hold
    if isinstance(error, OSError) and error.strerror:  # which is a sentence without its number
        said = f"{error.filename}: " if error.filename is not None else ""
        said += error.strerror
    _tell(said)
    return code_of(error)


def _nobody_reads(error: BaseException) -> bool:
    """Whether it says that stdout has no reader any more, and not some other pipe."""
    if sys.platform == "win32":  # which says "invalid argument" of a pipe without a reader
        closed = (errno.EPIPE, errno.EINVAL)
        return isinstance(error, OSError) and error.filename is None and error.errno in closed
    if not isinstance(error, BrokenPipeError):
        return False
    look = select.poll()
    try:
        look.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False
    gone = select.POLLERR | select.POLLHUP
    return any(events & gone for _, events in look.poll(0))


def _tell(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads that either
        print(f"extmem: {sentence}", file=sys.stderr)


def run(app: Callable[..., Any]) -> NoReturn:
    """Run the command line to its end, whatever that is; also outside of any command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as we live
    code: Any = 0
    try:
        app(prog_name="extmem")
    except SystemExit as ended:
        code = ended.code
        if isinstance(ended.__context__, BrokenPipeError):  # rich ends so, with 1
            code = UNREAD
    except KeyboardInterrupt:
        code = _interrupted()
    except OSError as error:
        code = _ended_by(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _ended_by(error)
        _drop_output()
    sys.exit(code)


def _interrupted() -> int:
    _tell("interrupted")
    return INTERRUPTED


def _drop_output() -> None:
    """What stdout still holds goes nowhere, so that Python does not try it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)
