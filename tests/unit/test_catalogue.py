"""Every rule in scope has its place: checked, derived, or said why not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from extmem.rules import catalogue
from extmem.rules.catalogue import VERDICTS, entries
from extmem.rules.engine import rules

# The list of the specification that everything here is measured by, where it lies beside us.
LISTED = Path(__file__).parents[3] / "shared/spec/rules.json"


@pytest.mark.skipif(
    not LISTED.exists(), reason="hardware: the list of rules lies beside the project"
)
def test_every_rule_of_the_list_has_its_place() -> None:
    listed = {each["vuid"]: each for each in json.loads(LISTED.read_text())}
    ours = {each.vuid: each for each in entries()}
    assert ours.keys() == listed.keys()
    for vuid, each in ours.items():
        assert (each.parent, each.implicit) == (listed[vuid]["parent"], listed[vuid]["implicit"])


def test_each_rule_is_named_once() -> None:
    counted = Counter(each.vuid for each in entries())
    assert [vuid for vuid, times in counted.items() if times > 1] == []
    assert len(counted) == 533


def test_every_explicit_rule_has_a_function_or_a_reason() -> None:
    functions = {each.vuid for each in rules()}
    for each in entries():
        assert each.verdict in VERDICTS
        if each.verdict == "derived":
            assert each.implicit, each.vuid
        elif each.verdict == "undecidable":
            assert each.vuid not in functions
            assert each.reason, each.vuid
        else:
            assert each.vuid in functions
        assert not each.reason or each.reason.endswith("."), each.vuid
        assert each.says.endswith("."), each.vuid
    assert sum(not each.implicit and each.verdict != "undecidable" for each in entries()) >= 250


def test_a_rule_is_found_by_its_tail() -> None:
    whole = "VUID-VkImportMemoryWin32HandleInfoNV-handleType-01327"
    for text in (whole, "01327", "handleType-01327", "-01327"):
        assert catalogue.find(text).vuid == whole
    with pytest.raises(LookupError, match="say more of the name"):
        catalogue.find("sType-sType")
    with pytest.raises(LookupError, match="extmem rules"):
        catalogue.find("")
