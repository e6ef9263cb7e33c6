"""A whole run: part after part, with the machine before and after."""

from __future__ import annotations

import os
import time
import traceback
from datetime import UTC, datetime
from typing import Protocol

from extmem.bench import machine, parts
from extmem.bench.cycles import opened
from extmem.bench.report import SCHEMA, Failed, Measurement, Missing, Report
from extmem.bench.rounds import Effort, Watch
from extmem.cli.exits import TRACEBACK

__all__ = ["Audience", "run"]


class Audience(Watch, Protocol):
    """Who watches a run."""

    def begin(self, part: str, what: str) -> None:
        """A part begins."""

    def end(self) -> None:
        """It has ended."""


def run(
    wanted: list[str],
    audience: Audience,
    command: list[str],
    *,
    rounds: int | None = None,
    quick: bool = False,
    driver: str = "system",
) -> Report:
    """Measure what is wanted, everything for []. What fails is in the report, and the rest goes on.
    DriverNotFound if there is no such driver.

    >>> class Nobody:
    ...     def begin(self, part, what): pass
    ...     def steps(self, number): pass
    ...     def step(self, what): pass
    ...     def end(self): pass
    >>> report = run(["handover"], Nobody(), [], quick=True, driver="embedded")
    >>> [each.name for each in report.measurements]
    ['handover', 'handover-embedded']
    """
    here, not_here = parts.chosen(wanted)
    if driver != "system":  # one that is named has to be there; without the system's it goes on
        with opened(driver, "off"):
            pass
    began, clock = datetime.now(UTC), time.monotonic()
    described = machine.describe()
    described["load_before"] = machine.load()
    measured: list[Measurement] = []
    failed: list[Failed] = []
    missing = [Missing(part.name, "it is for Linux alone", "") for part in not_here]
    effort = Effort(audience, rounds, quick, driver)
    # Streams and objects that open a device by themselves take the embedded one, as all peers do
    # without a driver; so do the processes that they start.
    before = os.environ.get("EXTMEM_DRIVER")
    os.environ["EXTMEM_DRIVER"] = "embedded"
    try:
        for part in here:
            audience.begin(part.name, part.what)
            try:
                measured += parts.load(part)(effort)
            except Exception as error:  # whatever it is: the others have taken minutes
                if os.environ.get(TRACEBACK, "0") != "0":
                    traceback.print_exception(error)
                failed.append(Failed(part.name, f"{type(error).__name__}: {error}"))
            finally:
                audience.end()
    finally:
        os.environ.pop("EXTMEM_DRIVER")
        if before is not None:
            os.environ["EXTMEM_DRIVER"] = before
    described["load_after"] = machine.load()
    return Report(
        schema=SCHEMA,
        command=command,
        began=began.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 1),
        quick=quick,
        rounds=rounds,
        machine=described,
        measurements=measured,
        missing=missing,
        failed=failed,
    )
