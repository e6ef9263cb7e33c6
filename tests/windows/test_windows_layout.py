"""Structures lie in memory on Windows as they do on Linux.

tests/layout holds those of Linux against what a C compiler for Windows says.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.layout.facts import facts, structures
from tests.support.strict import missing

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="hardware: needs Windows")


def test_every_structure_lies_as_on_linux() -> None:
    name = os.environ.get("EXTMEM_TEST_LAYOUT")
    if name is None:
        missing("EXTMEM_TEST_LAYOUT (./test --windows writes the layout down, and says where)")
    expected = json.loads(Path(name).read_text())
    here = {name: facts(cls) for name, cls in structures().items()}
    assert len(here) > 250
    assert here.keys() == expected.keys()
    assert {name: found for name, found in here.items() if found != expected[name]} == {}
