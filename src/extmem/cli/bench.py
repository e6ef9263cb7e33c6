"""`extmem bench`: what things cost, side by side with their peers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from extmem.bench.plots import figure, plot, where
from extmem.bench.report import Measurement, Report, decode, encode
from extmem.bench.running import run
from extmem.cli.words import say

__all__ = ["collect", "earlier", "keep", "show"]


def collect(
    wanted: list[str], rounds: int | None, quick: bool, driver: str, command: list[str]
) -> Report:
    """Measure, and say on stderr how far it is."""
    with _Watch() as watch:
        return run(wanted, watch, command, rounds=rounds, quick=quick, driver=driver)


def earlier(path: str) -> Report:
    """What a run said before."""
    return decode(Path(path).read_bytes())


def keep(report: Report, folder: str) -> list[Path]:
    """Write the result and its plots there."""
    into = Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    result = into / "bench.json"
    result.write_text(encode(report) + "\n", encoding="utf-8", newline="\n")
    return [result, *plot(report, into)]


class _Watch:
    """A bar where somebody looks, and a line for each part where nobody does."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[part]:12}"),
            BarColumn(30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            auto_refresh=False,  # its thread would draw while something is measured
        )
        self._task = self._progress.add_task("", part="", what="", total=1)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, part: str, what: str) -> None:
        """A part begins."""
        if not self._console.is_terminal:
            print(f"extmem: bench: {part}: {what}", file=sys.stderr, flush=True)
        self._progress.reset(self._task, part=part, what=what, total=1)
        self._progress.refresh()

    def steps(self, number: int) -> None:
        """So many steps there are in it."""
        self._progress.update(self._task, total=number)

    def step(self, what: str) -> None:
        """The next one begins."""
        self._progress.update(self._task, advance=1, what=what, refresh=True)

    def end(self) -> None:
        """It has ended."""


# -- for people -----------------------------------------------------------------------------------


def show(report: Report) -> None:
    """Tables."""
    machine = report.machine
    say(f"{machine.get('processor')}, {machine.get('cores')} cores; {machine.get('system')}")
    peers = ", ".join(f"{name} {version}" for name, version in machine.get("peers", {}).items())
    say(f"{machine.get('python')}, extmem {machine.get('extmem')}; {peers}")
    say(
        f"began {report.began}, took {report.seconds:.0f} s; load "
        f"{_load(machine.get('load_before'))} before and {_load(machine.get('load_after'))} after"
    )
    if report.quick:
        say("a quick run: it shows that everything works, and no figure that should be quoted")
    for each in report.measurements:
        _table(each)
    gone = [*report.missing, *(each for m in report.measurements for each in m.missing)]
    if gone:
        say("\nmissing here")
        for lacking in dict.fromkeys((each.what, each.why, each.remedy) for each in gone):
            what, why, remedy = lacking
            say(f"  {what}: {why}" + (f" ({remedy})" if remedy else ""))
    for failed in report.failed:
        say(f"\nfailed: {failed.part}: {failed.error}")


def _load(load: list[float] | None) -> str:
    return "unknown" if not load else f"{load[0]:.1f}"


def _table(found: Measurement) -> None:
    say(f"\n{found.what} ({found.unit})")
    for name, value in found.facts.items():
        say(f"  {name}: {value}")
    if not found.rows:
        return
    peers = list(dict.fromkeys(peer for row in found.rows for peer in row.ratios))
    first = [f"{row.label}" for row in found.rows]
    if found.axis:
        first = [f"{where(found, row.x or 0):>9}  {row.label}" for row in found.rows]
    rows = sorted(zip(first, found.rows, strict=True), key=lambda each: each[1].x or 0)
    wide = max(map(len, first))
    columns = ["p50", "lowest", "highest", "p95", *(f"x {_short(peer)}" for peer in peers)]
    widths = [max(10, len(each) + 2) for each in columns]
    say(" " * (wide + 2) + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True)))
    for label, row in rows:
        values = [figure(each) for each in (row.p50, row.lowest, row.highest, row.p95)]
        values += [f"{row.ratios[p]:.3g}" if p in row.ratios else "" for p in peers]
        cells = "".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))
        say(f"  {label:{wide}}{cells}")


def _short(peer: str) -> str:
    return peer if len(peer) <= 22 else peer[:21] + "…"
