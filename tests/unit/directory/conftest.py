"""Each test has a directory of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # Windows has handles of its own


@pytest.fixture
def place() -> Iterator[Any]:
    """A folder, in which a directory starts with the first use."""
    from tests.support.directory import Place, entered

    with entered(Place()) as made:
        yield made


@pytest.fixture
def kernel(place: Any) -> Any:
    """A client of the directory."""
    return place.kernel()
