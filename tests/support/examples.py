"""Runs the examples of the rules' explanations, in a process of its own: whatever they leave open
goes with that.

    python -m tests.support.examples FILE.toml [VUID...]    one JSON object on stdout
    python -m tests.support.examples derived [VUID...]      the same of implicit rules
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from extmem.errors import RuleViolation
from extmem.rules.catalogue import PRELUDE, Explanation, entries, explanation

__all__ = ["outcome", "run"]


def outcome(example: str, vuid: str) -> list[str] | str:
    """The rules that an example broke; what it raised instead, as text."""
    space: dict[str, Any] = {}
    try:
        # As a program of its own; the name is what a traceback shows.
        exec(compile(f"{PRELUDE}\n{example}", vuid, "exec"), space)
    except RuleViolation as violation:
        return sorted({each.vuid for each in violation.problems})
    except BaseException:
        return traceback.format_exc()
    finally:
        gpu = space.pop("gpu", None)
        space.clear()
        gc.collect()
        with contextlib.suppress(Exception):
            gpu.close()
    return []


def run(found: dict[str, Explanation], only: list[str]) -> dict[str, dict[str, Any]]:
    """What became of each rule's examples: {vuid: {"wrong": ..., "right": ...}}."""
    results: dict[str, dict[str, Any]] = {}
    rights: dict[str, list[str] | str] = {}  # those of implicit rules are shared by several
    for vuid, each in found.items():
        if (only and vuid not in only) or sys.platform not in each.systems or not each.wrong:
            continue
        if each.right not in rights:
            rights[each.right] = outcome(each.right, vuid)
        results[vuid] = {
            "wrong": outcome(each.wrong, vuid),
            "right": rights[each.right],
            "also": [*each.also],
            "refused": each.refused,
        }
    return results


def main() -> None:
    import tomllib

    path, *only = sys.argv[1:]
    found: dict[str, Explanation] = {}
    if path == "derived":
        explained = {each.vuid: explanation(each) for each in entries() if each.implicit}
        found = {vuid: each for vuid, each in explained.items() if each is not None}
    else:
        plain = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        found = {vuid: msgspec.convert(each, Explanation) for vuid, each in plain.items()}
    print(json.dumps(run(found, only)))


if __name__ == "__main__":
    main()
