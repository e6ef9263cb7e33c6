"""Fuzz what reads the bytes of other processes, and every call.

    python -m tests.fuzz passport --runs 1000000
    python -m tests.fuzz all --runs 1000000         # one target after the other, then calls
    python -m tests.fuzz calls                      # random calls; see python -m tests.fuzz.calls
    python -m tests.fuzz service --corpus FOLDER    # begins with what an earlier run kept there
    python -m tests.fuzz service --again FILE       # one input, without the fuzzer

The input of a finding is printed in base64, and what was wrong with it above that.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from pathlib import Path

from tests.fuzz import fuzz
from tests.fuzz.calls import watch
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=[*TARGETS, "calls", "all"])
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--corpus", type=Path, help="a folder of inputs, which gets the new ones")
    parser.add_argument("--again", type=Path, help="a file: try this input")
    options = parser.parse_args()
    if options.target == "calls":
        return _calls(options.runs, options.seed)
    if options.again is not None:
        target = TARGETS[options.target]
        with target.open() as function, contextlib.suppress(*target.refusals):
            function(options.again.read_bytes())
        return 0
    why = fuzz.missing()
    if why is not None:
        sys.exit(f"missing: {why}")
    wrong = 0
    for name in TARGETS if options.target == "all" else [options.target]:
        corpus = options.corpus
        if corpus is not None and options.target == "all":
            corpus = corpus / name
        try:
            report = fuzz.run(name, options.runs, seed=options.seed, corpus=corpus)
        except fuzz.Found as found:
            print(found, flush=True)
            wrong = 1
            continue
        print(report, *report.growth(), sep="\n", flush=True)
        wrong |= bool(report.growth())
    return wrong | (_calls(options.runs, options.seed) if options.target == "all" else 0)


def _calls(runs: int, seed: int) -> int:
    """Random calls on the embedded device. 1 if something was found."""
    try:
        report = watch.run(watch.Asked("embedded", runs, seed or random.randrange(1, 1 << 32)))
    except watch.Found as found:
        print(found, flush=True)
        return 1
    print(report, *report.unreached, sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
