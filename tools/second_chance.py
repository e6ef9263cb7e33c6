"""Says which tests that failed may be tried once more, alone: `second_chance.py CACHE`.

Two workers share two cores, and a test may fail because the other one had them. A few such tests
are tried again with nothing beside them: what fails again has failed. What passes the second time
is named on the terminal, for somebody to look into. No second chance for a crash of the process,
for the bad inputs (a driver that crashes once in a hundred times crashes), or for many failures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MANY = 6
NEVER = ("tests/crash/", "tests/fuzz/")


def main(cache: str) -> str | None:
    """The error, or None where the tests that are printed may be tried again."""
    record = Path(cache, "v", "cache", "lastfailed")
    failed = sorted(json.loads(record.read_text())) if record.exists() else []
    if not failed:
        return "nothing says which tests failed"
    if len(failed) > MANY:
        return f"{len(failed)} tests failed: too many to be chance"
    if never := [each for each in failed if each.startswith(NEVER)]:
        return f"{never[0]} has failed, which is never chance"
    print("\n=== once more, alone:", *failed, sep="\n  ", flush=True)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
