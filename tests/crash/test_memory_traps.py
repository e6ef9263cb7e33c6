"""No trap of memory, descriptors and host pointers reaches a driver: each ends with our error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import second
from tests.support.strict import driver_cannot

sys.path.insert(0, str(Path(__file__).parent))
import memory_traps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hardware: descriptors of Linux")


@pytest.fixture(scope="module")
def outcomes(driver: str) -> dict[str, Any]:
    found: dict[str, Any] = second.run(memory_traps.run_all, driver=driver, timeout=110)
    return found


# What only the identity of a descriptor tells, which NVIDIA's do not have: the specification calls
# it undecidable there, and the driver took it (or refused it) without harm.
UNDECIDABLE = {"nvidia": ("import_of_fewer_bytes", "import_of_one_byte_more")}


@pytest.mark.parametrize("name", memory_traps.CASES)
def test_trap(outcomes: dict[str, Any], name: str, driver: str) -> None:
    vuid, _ = memory_traps.CASES[name]
    outcome = outcomes[name]
    if "nvidia" in driver and name in UNDECIDABLE["nvidia"] and not isinstance(outcome, list):
        driver_cannot(f"its descriptors do not tell which payload they are of ({outcome})")
    assert isinstance(outcome, list), outcome
    assert vuid in outcome
