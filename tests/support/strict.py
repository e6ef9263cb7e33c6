"""Skips, and which of them a strict run allows.

EXTMEM_TEST_STRICT=1 (`./test --strict`) means: everything that can be installed is there. Then only
two kinds of skip are left, and both say so in their reason: hardware (or a kernel) that is not
there, and a driver that was asked and answered no. Any other skip is a failure; the hooks in
conftest.py see to that.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

__all__ = ["VARIABLE", "allowed", "driver_cannot", "missing", "strict"]

VARIABLE = "EXTMEM_TEST_STRICT"

_HARDWARE = "hardware: "
_ANSWER = "the driver's answer: "


def strict() -> bool:
    """Whether a skip for want of something installable is a failure."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def missing(what: str, installable: bool = True) -> NoReturn:
    """Skip, because something is not there: say what, and how to get it.

    installable: False for hardware and kernels, which no package brings
    """
    if not installable:
        pytest.skip(_HARDWARE + what)
    if strict():
        pytest.fail(f"missing, and a strict run needs it: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


def driver_cannot(reason: str) -> NoReturn:
    """Skip, because the driver itself says that it does not offer this."""
    pytest.skip(_ANSWER + reason)


def allowed(reason: str) -> bool:
    """Whether a strict run accepts a skip with this reason.

    A `skipif` for another operating system is hardware too: reason="hardware: ...".
    """
    return reason.startswith((_HARDWARE, _ANSWER))
