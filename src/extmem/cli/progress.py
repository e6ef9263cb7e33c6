"""A progress bar on stderr, where that is a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["on_terminal", "progress"]


def on_terminal() -> bool:
    """Whether somebody could see a progress bar."""
    return sys.stderr.isatty()


@contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar for the time of a `with`, which gives the function that moves it.

    what: a word or two before the bar
    total: where the bar is full, in whatever unit; the function takes how much is done of that

    A thread of the bar's own draws it, four times in a second.

    >>> with progress("counting", 3) as done:
    ...     for number in range(3):
    ...         done(number + 1)
    """
    if not on_terminal():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True,
                  refresh_per_second=4) as bar:  # fmt: skip
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
