"""Each rule's wrong example breaks it, and its right one keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import extmem.rules
from extmem.rules.catalogue import entries, explanation

FILES = sorted(Path(extmem.rules.__file__).with_name("explanations").glob("*.toml"))

# Of the implicit rules, so many at a time.
CHUNK = 64
CHUNKS = [
    [each.vuid for each in entries() if each.implicit][start:][:CHUNK]
    for start in range(0, sum(each.implicit for each in entries()), CHUNK)
]


def outcomes(*arguments: str) -> dict[str, dict[str, Any]]:
    """What became of examples, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.examples", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert found, "no example of these runs on this system"
    return found


def complaints(results: dict[str, dict[str, Any]]) -> list[str]:
    """Where examples did something else than they should."""
    said = []
    for vuid, result in results.items():
        wanted, wrong = sorted({vuid, *result["also"]}), result["wrong"]
        if result["refused"]:
            # The last line of a traceback names the exception.
            last = wrong.rstrip().splitlines()[-1] if isinstance(wrong, str) else str(wrong)
            if not last.startswith(f"{result['refused']}: "):
                said.append(f"{vuid}: expected {result['refused']}, and this came: {last}")
        elif wrong != wanted:
            said.append(f"{vuid}: the wrong example broke {wrong} and not {wanted}")
        if result["right"] != []:
            said.append(f"{vuid}: the right example broke {result['right']}")
    return said


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_show_what_they_say(file: Path) -> None:
    said = complaints(outcomes(str(file)))
    assert not said, "\n".join(said)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk[0].removeprefix("VUID-"))
def test_examples_of_implicit_rules_show_what_they_say(chunk: list[str]) -> None:
    said = complaints(outcomes("derived", *chunk))
    assert not said, "\n".join(said)


def test_every_rule_is_explained() -> None:
    without = []
    for entry in entries():
        found = explanation(entry)
        if found is None or not found.why or not found.breaks:
            without.append(entry.vuid)
        elif entry.verdict != "undecidable" and not (found.wrong and found.right):
            without.append(f"{entry.vuid} (no examples)")
    assert not without


def test_what_python_refuses_says_so() -> None:
    refused = [each for each in map(explanation, entries()) if each is not None and each.refused]
    assert all(each.refused in each.breaks for each in refused)
    # A rule that can be broken from Python is better shown so.
    assert len(refused) == 21
