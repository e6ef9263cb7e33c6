"""Each rule's wrong example breaks it, and its right one keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import extmem.rules
from extmem.rules.catalogue import entries, explanation

FILES = sorted(Path(extmem.rules.__file__).with_name("explanations").glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_show_what_they_say(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.examples", str(file)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results, "no example of this file runs on this system"
    said = []
    for vuid, result in results.items():
        wanted = sorted({vuid, *result["also"]})
        if result["wrong"] != wanted:
            said.append(f"{vuid}: the wrong example broke {result['wrong']} and not {wanted}")
        if result["right"] != []:
            said.append(f"{vuid}: the right example broke {result['right']}")
    assert not said, "\n".join(said)


def test_every_explicit_rule_is_explained() -> None:
    without = []
    for entry in entries():
        found = explanation(entry)
        if entry.implicit:
            continue
        if found is None or not found.why or not found.breaks:
            without.append(entry.vuid)
        elif entry.verdict != "undecidable" and not (found.wrong and found.right):
            without.append(f"{entry.vuid} (no examples)")
    assert not without
