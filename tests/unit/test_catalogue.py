"""Every rule in scope has its place: checked, derived, or said why not."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from typing import Any

from extmem.rules.engine import rules

# "in part": there is a function, and it says nothing where nobody can know.
# "void": nothing in scope can break it. "undecidable": nobody can find out.
VERDICTS = {"in part", "void", "undecidable"}


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        files("extmem.rules").joinpath("catalogue.json").read_text()
    )
    return found


def test_every_explicit_rule_has_a_function_or_a_reason() -> None:
    functions = {each.vuid for each in rules()}
    without = {each["vuid"] for each in listed() if not each["implicit"]} - functions
    excused = {each["vuid"] for each in listed() if each.get("verdict") in ("void", "undecidable")}
    assert without == excused


def test_verdicts_have_reasons() -> None:
    functions = {each.vuid for each in rules()}
    for each in listed():
        assert ("verdict" in each) == ("why" in each), each["vuid"]
        if "verdict" in each:
            assert each["verdict"] in VERDICTS, each["vuid"]
            assert each["why"].endswith("."), each["vuid"]
            assert (each["verdict"] == "in part") == (each["vuid"] in functions), each["vuid"]


def test_the_catalogue_names_each_rule_once() -> None:
    counted = Counter(each["vuid"] for each in listed())
    assert [vuid for vuid, times in counted.items() if times > 1] == []
    assert len(counted) == 533
