"""What the conformance cases vary: the driver, the kind of memory, and where the importer is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.peers import far
from tests.support.rig import Kind, Rig

KINDS = [Kind(dedicated, visible) for dedicated in (True, False) for visible in (True, False)]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Dedicated or suballocated, host-visible or device-only."""
    return request.param


@pytest.fixture
def rig(driver: str) -> Iterator[Rig]:
    """The exporting device."""
    with Rig(driver) as made:
        yield made


@pytest.fixture(params=["same_device", "second_instance", "second_process"])
def importer(request: pytest.FixtureRequest, driver: str, rig: Rig) -> Iterator[Any]:
    """The importing device: the exporter's own, one of another instance, one far away."""
    if request.param == "same_device":
        yield rig
    elif request.param == "second_instance":
        with Rig(driver) as other:
            yield other
    else:
        with far.rig(driver) as other:
            yield other
