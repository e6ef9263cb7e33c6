"""What it costs to have a helper process try a stranger's handle first (`quarantine=True`).

Memory of 64 KiB is imported by a handle and freed, on a device with checks, with and without. The
first such import of a device starts its helper: a Python, which opens the same device.
"""

from __future__ import annotations

import sys
import time

import extmem
from extmem.bench import cycles
from extmem.bench.report import Measurement, Missing
from extmem.bench.rounds import Effort, Tally, timed
from extmem.errors import DriverNotFound, Unsupported

__all__ = ["measure"]

_PLAIN, _LATER, _FIRST = (
    "extmem, import",
    "extmem, in quarantine",
    "extmem, the first in quarantine",
)


def measure(effort: Effort) -> list[Measurement]:
    """On the embedded device, and on the driver that was asked for."""
    rounds, count = effort.of(3), effort.some(200, 10)
    missing: list[Missing] = []
    drivers = ["embedded"]
    if effort.driver != "embedded":
        drivers.append(effort.driver)
    effort.watch.steps(rounds * len(drivers))
    tally, starts = Tally(), Tally()
    for driver in drivers:
        try:
            for number in range(rounds):
                effort.watch.step(f"round {number + 1} of {rounds}: {driver}")
                _round(driver, count, tally, starts)
        except (DriverNotFound, Unsupported) as problem:
            missing.append(Missing(f"the {driver} driver", str(problem), cycles.REMEDY))
    return [
        Measurement(
            "quarantine",
            "quarantine",
            "Importing 64 KiB by a handle and freeing it, with and without quarantine",
            tally.rows([f"{_PLAIN}, {driver}" for driver in drivers]),
            missing=missing,
        ),
        Measurement(
            "quarantine-first",
            "quarantine",
            "The first import in quarantine on a device, which starts its helper",
            starts.rows(),
            unit="ms",
        ),
    ]


def _round(driver: str, count: int, tally: Tally, starts: Tally) -> None:
    kind = "opaque_win32" if sys.platform == "win32" else "opaque_fd"
    with (
        extmem.open_device(driver=driver) as gpu,
        gpu.allocate(cycles.SIZE, export=kind) as memory,
        memory.export() as handle,
    ):
        began = time.perf_counter_ns()
        gpu.import_memory(handle, quarantine=True).close()
        starts.add(f"{_FIRST}, {driver}", [(time.perf_counter_ns() - began) / 1e6])
        for label, quarantine in ((_PLAIN, False), (_LATER, True)):
            act = timed(lambda q=quarantine: gpu.import_memory(handle, quarantine=q).close())  # type: ignore[misc]
            act(3)
            tally.add(f"{label}, {driver}", act(count))
