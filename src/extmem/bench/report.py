"""What a run of the benchmarks says: one JSON object, whose keys are the members of `Report`.

`extmem schema bench` describes it to others.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from extmem.errors import ExtmemError, plain

__all__ = ["SCHEMA", "Failed", "Measurement", "Missing", "Report", "Row", "decode", "encode"]

SCHEMA = "urn:extmem:schema:bench:1"


class Row(Struct, frozen=True, omit_defaults=True):
    """What one contestant took, in the unit of its measurement."""

    label: str  # the contestant
    p50: float  # the median of the rounds' own medians
    lowest: float  # the lowest and the highest of the rounds' medians
    highest: float
    p95: float  # the median of the rounds' own 95th percentiles
    rounds: int
    count: int  # actions in each round
    x: float | None = None  # where on the measurement's axis, if that has one
    ratios: dict[str, float] = field(default_factory=dict)  # how many times what that peer took:
    # the median of the rounds' own ratios


class Missing(Struct, frozen=True):
    """A peer, or a whole measurement, that is not in the result."""

    what: str
    why: str
    remedy: str  # empty if there is none


class Failed(Struct, frozen=True):
    """A part that ended with an error."""

    part: str
    error: str


class Measurement(Struct, frozen=True):
    """One table, and one plot."""

    name: str  # of the plot's file as well
    part: str  # that it is of, as `extmem bench` takes it
    what: str  # is measured
    rows: list[Row]
    unit: str = "µs"
    axis: str = ""  # what `x` of the rows is; "" if they have none
    axis_unit: str = ""  # "bytes", or "" for a plain number
    facts: dict[str, Any] = field(default_factory=dict)  # what else was found
    missing: list[Missing] = field(default_factory=list)


class Report(Struct, frozen=True):
    """One run."""

    schema: str  # SCHEMA
    command: list[str]  # how it was started, beginning with "extmem"
    began: str  # ISO 8601, UTC
    seconds: float
    quick: bool  # too few rounds to be quoted
    rounds: int | None  # asked for; None where each part took its own number
    machine: dict[str, Any]
    measurements: list[Measurement]
    missing: list[Missing] = field(default_factory=list)  # whole parts
    failed: list[Failed] = field(default_factory=list)


def encode(report: Report) -> str:
    """As JSON, indented.

    >>> empty = Report(SCHEMA, ["extmem", "bench"], "", 0.0, True, 1, {}, [])
    >>> decode(encode(empty)) == empty
    True
    """
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode()


def decode(data: str | bytes) -> Report:
    """From JSON of an earlier run. ExtmemError if it is none."""
    try:
        schema = msgspec.json.decode(data, type=dict[str, Any]).get("schema")
        if schema != SCHEMA:
            raise ExtmemError(
                f"this says of itself that it is {plain(schema)}, and {SCHEMA} is known here; give "
                "what `extmem bench --json` printed, of a release that is as old as this one"
            )
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise ExtmemError(
            f"this is no result of extmem bench: {error}; expected what `--json` prints"
        ) from None
