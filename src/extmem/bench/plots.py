"""The plot of each measurement."""

from __future__ import annotations

from pathlib import Path

from extmem.bench.report import Measurement, Report
from extmem.bench.svg import Bar, Point, Series, bars, lines
from extmem.cli.words import size_of

__all__ = ["draw", "figure", "plot", "where"]


def figure(value: float) -> str:
    """A number with three figures, mostly.

    >>> figure(0.512), figure(4.71), figure(40.6), figure(1245.0), figure(270_000.0)
    ('0.51', '4.7', '41', '1,245', '270,000')
    """
    if value >= 10:
        return f"{value:,.0f}"
    return (
        f"{value:.2f}".rstrip("0").rstrip(".") if value < 1 else f"{value:.1f}".removesuffix(".0")
    )


def where(measurement: Measurement, x: float) -> str:
    """A place on the measurement's axis."""
    return size_of(int(x)) if measurement.axis_unit == "bytes" else f"{int(x):,}"


def draw(measurement: Measurement, machine: str) -> str:
    """As SVG. machine: what is said of it below the title"""
    rows = measurement.rows
    title = f"{measurement.what}"
    how = f"Median of rounds with the lowest and highest round. {machine}"
    if not measurement.axis:
        found = [Bar(row.label, row.p50, row.lowest, row.highest) for row in rows]
        return bars(title, how, measurement.unit, found, figure)
    series = []
    for label in dict.fromkeys(row.label for row in rows):
        mine = [row for row in rows if row.label == label and row.x is not None]
        points = [Point(float(row.x or 0), row.p50, row.lowest, row.highest) for row in mine]
        series.append(Series(label, sorted(points)))
    return lines(
        title, how, measurement.axis, measurement.unit, series,
        lambda x: where(measurement, x), figure,
    )  # fmt: skip


def plot(report: Report, folder: Path) -> list[Path]:
    """One file for each measurement that has anything to show."""
    folder.mkdir(parents=True, exist_ok=True)
    known = report.machine
    said = (
        f"{known.get('cores')} cores of {known.get('processor') or 'an unknown processor'}, "
        f"{known.get('system')}, {known.get('python')}, {report.began[:10]}"
        + (", a quick run" if report.quick else "")
    )
    made = []
    for each in report.measurements:
        if each.rows:
            made.append(folder / f"{each.name}.svg")
            made[-1].write_text(draw(each, said), encoding="utf-8", newline="\n")
    return made
