"""Skips, and which of them a strict run allows.

EXTMEM_TEST_STRICT=1 (`./test --strict`) means: everything that the tests install is there. Then
only three kinds of skip are left, and all say so in their reason: hardware (or a kernel) that is
not there, a driver that was asked and answered no, and a library that is too large for every run
to install, whose part a small stand-in of the tests plays as well. Any other skip is a failure;
the hooks in conftest.py see to that.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

import pytest

__all__ = ["VARIABLE", "allowed", "driver_cannot", "missing", "optional", "strict"]

VARIABLE = "EXTMEM_TEST_STRICT"

_HARDWARE = "hardware: "
_ANSWER = "the driver's answer: "
_OPTIONAL = "optional: "


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


def optional(module: str, install: str) -> Any:
    """A large library, or a skip that says how to install it.

    Only where the tests have a stand-in for it, which always runs.
    """
    if find_spec(module) is None:
        pytest.skip(f"{_OPTIONAL}{module}, which is large ({install})")
    return import_module(module)


def allowed(reason: str) -> bool:
    """Whether a strict run accepts a skip with this reason.

    A `skipif` for another operating system is hardware too: reason="hardware: ...".
    """
    return reason.startswith((_HARDWARE, _ANSWER, _OPTIONAL))
