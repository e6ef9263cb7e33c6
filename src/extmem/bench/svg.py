"""Plots as SVG: lines and bars on logarithmic axes, readable on light and dark pages.

Everything is placed by counting: text is taken to be as wide as a wide font would have it, and what
has a name has it beside the plot and not inside, so that nothing lies over anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Bar", "Point", "Series", "bars", "lines"]


class Point(NamedTuple):
    """A value with its spread, at a place on the axis."""

    x: float
    y: float
    low: float
    high: float


class Series(NamedTuple):
    """A line."""

    label: str
    points: list[Point]


class Bar(NamedTuple):
    """A bar."""

    label: str
    value: float
    low: float
    high: float


_WIDTH = 860
_LETTER = 7.0  # a letter of 12 px, in a wide font
_LARGE_LETTER = 8.8  # of a title
_ROW = 26  # of bars
_STYLE = """
  text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
  .page { fill: #ffffff } .title { font-weight: 600; font-size: 15px }
  .small { fill: #57606a } .grid { stroke: #d8dee4; stroke-width: 1 }
  .fine { stroke: #eef1f4; stroke-width: 1 } .frame { stroke: #8c959f; stroke-width: 1; fill: none }
  .spread { stroke: #57606a; stroke-width: 1.5 }
  .line { fill: none; stroke-width: 2 }
  .c0 { stroke: #0550ae; fill: #0550ae } .c1 { stroke: #bc4c00; fill: #bc4c00 }
  .c2 { stroke: #1a7f37; fill: #1a7f37 } .c3 { stroke: #8250df; fill: #8250df }
  .c4 { stroke: #9a6700; fill: #9a6700 } .c5 { stroke: #bf3989; fill: #bf3989 }
  .line { fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #0d1117 } .small { fill: #9198a1 }
    .grid { stroke: #30363d } .fine { stroke: #1c2128 } .frame { stroke: #6e7681 }
    .spread { stroke: #9198a1 }
    .c0 { stroke: #58a6ff; fill: #58a6ff } .c1 { stroke: #f0883e; fill: #f0883e }
    .c2 { stroke: #3fb950; fill: #3fb950 } .c3 { stroke: #bc8cff; fill: #bc8cff }
    .c4 { stroke: #d29922; fill: #d29922 } .c5 { stroke: #f778ba; fill: #f778ba }
    .line { fill: none }
  }
"""
_COLOURS = 6


def _text(x: float, y: float, text: str, *, style: str = "", anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def wrapped(text: str, width: float, letter: float = _LETTER) -> list[str]:
    """In lines that fit.

    >>> wrapped("one two three", 60)
    ['one two', 'three']
    """
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if len(longer) * letter > width and found[-1]:
            found.append(word)
        else:
            found[-1] = longer
    return found


def _page(title: Sequence[str], below: Sequence[str], height: float, body: Iterable[str]) -> str:
    head = [_text(20, 28 + 20 * index, line, style="title") for index, line in enumerate(title)]
    start = 28 + 20 * len(title)
    head += [_text(20, start + 16 * index, line, style="small") for index, line in enumerate(below)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(" ".join(title), _QUOTES)}">\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect width="{_WIDTH}" height="{height:.0f}" rx="6" class="page"/>\n'
        + "\n".join([*head, *body])
        + "\n</svg>\n"
    )


_QUOTES = {'"': "&quot;"}


# -- logarithmic axes -----------------------------------------------------------------------------


class Axis(NamedTuple):
    """Values from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        value = min(max(value, self.low), self.high)
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def axis_of(values: Iterable[float], start: float, end: float) -> Axis:
    """With room for all of them, beginning and ending with 1, 2 or 5 times a power of ten.

    >>> axis_of([3.0, 40.0], 0, 100)[:2]
    (2.0, 50.0)
    """
    there = [each for each in values if each > 0] or [1.0]
    low, high = _step(min(there), down=True), _step(max(there), down=False)
    if high / low < 5:  # what is flat shall look flat
        low, high = _step(low / 1.5, down=True), _step(high * 1.5, down=False)
    return Axis(low, high, start, end)


def _step(value: float, *, down: bool) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    steps = [power * each for each in (1, 2, 5, 10)]
    if down:
        return max(each for each in steps if each <= value * 1.0000001)
    return min(each for each in steps if each >= value * 0.9999999)


def _ticks(axis: Axis) -> tuple[list[float], list[float]]:
    """Those that are named, and those between."""
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    every = [10.0**power * step for power in decades for step in (1, 2, 5)]
    every = [each for each in every if axis.low * 0.999 <= each <= axis.high * 1.001]
    if len(every) <= 8:
        return every, []
    named = [each for each in every if math.isclose(math.log10(each) % 1, 0, abs_tol=1e-9)
             or math.isclose(math.log10(each) % 1, 1, abs_tol=1e-9)]  # fmt: skip
    return named, [each for each in every if each not in named]


# -- lines ----------------------------------------------------------------------------------------

_SHAPES = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{c}"/>',
    '<rect x="{l:.1f}" y="{t:.1f}" width="8" height="8" class="{c}"/>',
    '<path d="M{x:.1f} {t:.1f} l5 8 h-10 z" class="{c}"/>',
    '<path d="M{x:.1f} {t:.1f} l5 4 l-5 4 l-5 -4 z" class="{c}"/>',
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="{c}"/>',
    '<rect x="{l:.1f}" y="{y:.1f}" width="8" height="3" class="{c}"/>',
)


def _mark(index: int, x: float, y: float) -> str:
    shape = _SHAPES[index % len(_SHAPES)]
    return shape.format(x=x, y=y, l=x - 4, t=y - 4, c=f"c{index % _COLOURS}")


def lines(
    title: str,
    below: str,
    x_name: str,
    y_name: str,
    series: list[Series],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    """Lines with marks, and each mark's spread. Both axes are logarithmic.

    >>> point = Point(1, 2.0, 1.5, 3.0)
    >>> svg = lines("a", "b", "objects", "µs", [Series("c", [point])], str, str)
    >>> svg.count("<circle")  # the point, and its name
    2
    """
    named_so, said = wrapped(title, _WIDTH - 40, _LARGE_LETTER), wrapped(below, _WIDTH - 40)
    widest = max((len(each.label) for each in series), default=0) * _LETTER
    top = 28.0 + 20 * len(named_so) + 16 * len(said) + 24
    bottom = top + 300
    spreads = [value for each in series for p in each.points for value in (p.low, p.high)]
    places = sorted({p.x for each in series for p in each.points})
    y_axis = axis_of(spreads, bottom, top)
    named, between = _ticks(y_axis)
    left = max(len(y_text(value)) for value in named) * _LETTER + 28
    right = _WIDTH - min(widest, 260) - 60
    x_axis = Axis(min(places, default=1), max(max(places, default=2), min(places, default=1) * 2),
                  left + 16, right - 16)  # fmt: skip
    body = [_text(left - 8, top - 14, y_name, style="small", anchor="end")]
    for value in between:
        body.append(_rule(left, y_axis.at(value), right, y_axis.at(value), "fine"))
    for value in named:
        body.append(_rule(left, y_axis.at(value), right, y_axis.at(value), "grid"))
        body.append(_text(left - 8, y_axis.at(value) + 4, y_text(value), anchor="end"))
    free = -math.inf  # where the last name on the axis ended
    for value in places:
        at, text = x_axis.at(value), x_text(value)
        body.append(_rule(at, top, at, bottom, "fine"))
        if at - len(text) * _LETTER / 2 > free:
            body.append(_text(at, bottom + 18, text, anchor="middle"))
            free = at + len(text) * _LETTER / 2 + 4
    body.append(_text((left + right) / 2, bottom + 38, x_name, style="small", anchor="middle"))
    body.append(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" class="frame"/>'
    )
    for index, each in enumerate(series):
        path = " ".join(f"{x_axis.at(p.x):.1f},{y_axis.at(p.y):.1f}" for p in each.points)
        body.append(f'<polyline points="{path}" class="c{index % _COLOURS} line"/>')
        for p in each.points:
            at = x_axis.at(p.x)
            body.append(_rule(at, y_axis.at(p.low), at, y_axis.at(p.high), f"c{index % _COLOURS}"))
            body.append(_mark(index, at, y_axis.at(p.y)))
        body.append(_mark(index, right + 24, top + 10 + 22 * index))
        body.append(_text(right + 36, top + 14 + 22 * index, each.label))
    return _page(named_so, said, bottom + 54, body)


# -- bars -----------------------------------------------------------------------------------------


def bars(
    title: str,
    below: str,
    name: str,
    found: list[Bar],
    text: Callable[[float], str],
) -> str:
    """Horizontal bars with their spread and value, on a logarithmic axis that begins with 1, 2 or 5
    times a power of ten.

    >>> svg = bars("a", "b", "µs", [Bar("c", 2.0, 1.0, 3.0)], str)
    >>> '>2.0</text>' in svg
    True
    """
    named_so, said = wrapped(title, _WIDTH - 40, _LARGE_LETTER), wrapped(below, _WIDTH - 40)
    widest = max((len(each.label) for each in found), default=0) * _LETTER
    left, right = min(widest, 320) + 36, _WIDTH - 110.0
    top = 28.0 + 20 * len(named_so) + 16 * len(said) + 12
    bottom = top + _ROW * len(found) + 6
    axis = axis_of((value for each in found for value in (each.low / 2, each.high)), left, right)
    body = []
    named, between = _ticks(axis)
    for value in between:
        body.append(_rule(axis.at(value), top, axis.at(value), bottom, "fine"))
    for value in named:
        body.append(_rule(axis.at(value), top, axis.at(value), bottom, "grid"))
        body.append(_text(axis.at(value), bottom + 18, text(value), anchor="middle"))
    for index, each in enumerate(found):
        y = top + 6 + _ROW * index
        colour = "c0" if each.label.startswith("extmem") else "c4"
        body.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(axis.at(each.value) - left, 1):.1f}" '
            f'height="{_ROW - 10}" class="{colour}"/>'
        )
        middle = y + (_ROW - 10) / 2
        body.append(_rule(axis.at(each.low), middle, axis.at(each.high), middle, "spread"))
        body.append(_text(left - 8, middle + 4, each.label, anchor="end"))
        body.append(_text(axis.at(each.high) + 8, middle + 4, text(each.value)))
    body.append(_text((left + right) / 2, bottom + 38, name, style="small", anchor="middle"))
    return _page(named_so, said, bottom + 54, body)
