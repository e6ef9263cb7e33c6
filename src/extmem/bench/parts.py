"""What can be measured: one table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from extmem.bench.report import Measurement
from extmem.bench.rounds import Effort
from extmem.errors import Unsupported

__all__ = ["PARTS", "Part", "chosen", "load", "unknown"]


class Part(NamedTuple):
    """One module of this package."""

    name: str
    what: str
    linux: bool = False  # alone


PARTS = (
    Part("handover", "allocate, export, import and free, beside C, bare ctypes and PyPI's vulkan"),
    Part("directory", "requests to the directory, its start, and hand-overs by name", linux=True),
    Part("waiting", "a signal to another process, beside eventfd and multiprocessing"),
    Part("streams", "frames of 4 KiB to 1 GiB, beside shared_memory, pickle, pyzmq and iceoryx2"),
    Part("subscribers", "1 to 16 subscribers of a stream, beside the same"),
    Part("quarantine", "an import that a helper process tries first"),
    Part("objects", "1 to 100,000 memories alive"),
    Part("names", "10 names in the directory, to as many as it takes", linux=True),
)


def unknown(names: list[str]) -> str:
    """What is wrong with these names, in a sentence; "" for nothing."""
    known = [each.name for each in PARTS]
    wrong = next((each for each in names if each not in known), None)
    if wrong is None:
        return ""
    return f"there is nothing to measure called {wrong}; expected {', '.join(known)}"


def chosen(names: list[str]) -> tuple[list[Part], list[Part]]:
    """Those with these names, all for none; and which of them are not for this system.

    >>> [each.name for each in chosen(["waiting"])[0]]
    ['waiting']
    """
    if wrong := unknown(names):
        raise Unsupported(wrong)
    wanted = [each for each in PARTS if not names or each.name in names]
    not_here = [each for each in wanted if each.linux and sys.platform == "win32"]
    return [each for each in wanted if each not in not_here], not_here


def load(part: Part) -> Callable[[Effort], list[Measurement]]:
    """What measures it. It is imported only now: parts need much that others do not."""
    measure: Callable[[Effort], list[Measurement]]
    measure = importlib.import_module(f"extmem.bench.{part.name}").measure
    return measure
