"""Plots are well-formed, whole, and nothing in them lies over anything else."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from extmem.bench.plots import draw, figure, plot, where
from extmem.bench.report import SCHEMA, Measurement, Report, Row
from extmem.bench.svg import axis_of

SVG = "{http://www.w3.org/2000/svg}"
NARROW, HIGH = 5.5, 10  # of a letter of 12 px, as it is mostly


def row(label: str, x: float | None, p50: float) -> Row:
    return Row(label, p50, p50 * 0.8, p50 * 1.3, p50 * 2, 3, 10, x)


def growing(labels: list[str], places: list[float], unit: str = "") -> Measurement:
    rows = [row(each, x, 3 + 10 * n * x) for n, each in enumerate(labels) for x in places]
    return Measurement("growing", "objects", "How <cost> grows & grows", rows, axis="things",
                       axis_unit=unit)  # fmt: skip


def compared(labels: list[str]) -> Measurement:
    rows = [row(each, None, 2.0 * 7**n) for n, each in enumerate(labels)]
    return Measurement("compared", "handover", 'Who is "quick"', rows)


FORMS = {
    "lines": growing(["extmem", "shared_memory, copied", "pickled"], [1, 10, 100, 1000]),
    "bytes": growing(["extmem", "iceoryx2"], [4096.0 * 4**n for n in range(10)], "bytes"),
    "crowded": growing([f"peer {n}" for n in range(9)], [1, 2, 3, 4, 5, 6, 7, 8, 9000]),
    "one point": growing(["extmem"], [5]),
    "bars": compared(["C", "bare ctypes", "extmem, checks off", "PyPI vulkan"]),
    "one bar": compared(["extmem"]),
    "a long title": Measurement("long", "streams", "A frame to another process " * 9,
                                [row("extmem", None, 0.02)]),
}  # fmt: skip


class Text(NamedTuple):
    """Where a text is, about."""

    words: str
    left: float
    right: float
    top: float
    bottom: float


def texts(root: ElementTree.Element) -> list[Text]:
    found = []
    for each in root.iter(f"{SVG}text"):
        words = each.text or ""
        wide = len(words) * NARROW
        x, y = float(each.attrib["x"]), float(each.attrib["y"])
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[each.attrib["text-anchor"]]
        found.append(Text(words, left, left + wide, y - HIGH, y))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_plot_is_xml_with_all_that_it_shows(form: str) -> None:
    measurement = FORMS[form]
    root = ElementTree.fromstring(draw(measurement, "2 cores & more"))
    assert root.tag == f"{SVG}svg"
    assert root.attrib["aria-label"].split() == measurement.what.split()
    said = " ".join(each.words for each in texts(root))
    for each in measurement.rows:
        assert each.label in said
    assert measurement.unit in said
    assert "2 cores & more" in said
    if not measurement.axis:
        assert figure(measurement.rows[0].p50) in said


@pytest.mark.parametrize("form", FORMS)
def test_no_text_lies_over_another_or_beyond_the_edge(form: str) -> None:
    root = ElementTree.fromstring(draw(FORMS[form], "2 cores of a processor, a system, a date"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    found = texts(root)
    for each in found:
        assert each.left >= 0, each
        assert each.right <= width, each
        assert 0 <= each.top < each.bottom <= height, each
    for one, other in combinations(found, 2):
        apart = (
            one.right <= other.left
            or other.right <= one.left
            or one.bottom <= other.top
            or other.bottom <= one.top
        )
        assert apart, (one, other)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_drawn_is_within_the_page(form: str) -> None:
    root = ElementTree.fromstring(draw(FORMS[form], ""))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for each in root.iter():
        for name in ("x1", "x2", "cx"):
            assert 0 <= float(each.attrib.get(name, 0)) <= width
        for name in ("y1", "y2", "cy"):
            assert 0 <= float(each.attrib.get(name, 0)) <= height
        for pair in each.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_every_colour_has_one_for_dark_pages() -> None:
    style = draw(FORMS["lines"], "").partition("<style>")[2].partition("</style>")[0]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name in re.findall(r"(\.\w+|text) \{[^}]*#", light):
        assert f"{name} {{" in dark, name


def test_an_axis_has_room_for_all_and_shows_what_is_flat_as_flat() -> None:
    for values in ([0.03, 7000.0], [5.0], [99.0, 101.0], [1.0, 10.0]):
        axis = axis_of(values, 0, 100)
        assert axis.low <= min(values) <= max(values) <= axis.high
        assert 0 <= axis.at(min(values)) <= axis.at(max(values)) <= 100
    flat = axis_of([99.0, 101.0], 0, 100)
    assert flat.at(101.0) - flat.at(99.0) < 5


def test_places_on_the_axis_are_said_in_its_unit() -> None:
    assert where(FORMS["bytes"], 1 << 20) == "1 MiB"
    assert where(FORMS["lines"], 100_000.0) == "100,000"


def test_a_report_is_drawn_into_a_folder(tmp_path: Path) -> None:
    empty = Measurement("empty", "handover", "nothing", [])
    machine = {"cores": 2, "processor": None, "system": "S", "python": "P"}
    report = Report(SCHEMA, [], "2026-01-01T00:00:00", 1.0, True, 1, machine,
                    [FORMS["lines"], empty, FORMS["bars"]])  # fmt: skip
    made = plot(report, tmp_path / "new" / "folder")
    assert [each.name for each in made] == ["growing.svg", "compared.svg"]
    for each in made:
        assert "a quick run" in each.read_text(encoding="utf-8")
