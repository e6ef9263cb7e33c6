"""Random calls of `extmem.vk`, right ones and wrong ones, in a process of their own.

    python -m tests.fuzz.calls [--driver embedded] [--runs 100000] [--seed N] [--round N]

Ends with 1 if that process died or hung, or met an error that is none of ours. What it was at is
repeated with the same seed and `--only` the round that is named. Under way: nothing runs this by
itself yet, and growth is printed and not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.calls.child import PAGE, PLACES

_SPEED = 50  # calls in a second, at the least: below that it hangs


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--driver", default="embedded")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--round", type=int, default=1500, help="calls on one device")
    parser.add_argument("--only", type=int, help="the number of one round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="calls-") as name:
        folder = Path(name)
        page, report = folder / "page", folder / "report"
        page.write_bytes(bytes(PAGE.size))
        asked = {
            "driver": options.driver,
            "calls": options.runs,
            "seed": options.seed,
            "round": options.round,
            "only": options.only,
            "trace": options.only is not None,
            "page": str(page),
            "report": str(report),
        }
        child = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.calls.child",
             json.dumps(asked)],
            env={
                **os.environ,
                "EXTMEM_RUNTIME_DIR": name,
                "EXTMEM_DIRECTORY_GLOBAL": f"extmem-calls-{os.getpid()}",
                "TMPDIR": name,
            },
        )  # fmt: skip
        try:
            ended = f"ended with {child.wait(60 + options.runs / _SPEED)}"
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            ended = "hung"
        number, round_, place = PAGE.unpack(page.read_bytes())
        print(f"seed {options.seed}; the process {ended}", end="; ")
        if not report.exists():
            print(f"it was at call {number} of round {round_}: {PLACES[place]}")
            return 1
        found = json.loads(report.read_text())
    outcomes = [sum(each[k] for each in found["counts"].values()) for k in range(6)]
    share = (outcomes[0] + outcomes[1]) / max(1, sum(outcomes))
    print(
        f"{found['calls']} calls, {found['calls'] / found['seconds']:.0f} in a second, {share:.0%} "
        f"reached the driver; memory in five steps: {[each['rss'] for each in found['steps']]}; "
        f"held {found['held']}"
    )
    for what, trace in found["finds"].items():
        print(f"FOUND {what}\n{trace}")
    return 1 if found["finds"] else 0


if __name__ == "__main__":
    sys.exit(main())
