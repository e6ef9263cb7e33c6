"""Random calls of `extmem.vk`, right ones and wrong ones, in a process of their own.

    python -m tests.fuzz.calls                          # a million, on the embedded device
    python -m tests.fuzz.calls --driver swiftshader --runs 150000
    python -m tests.fuzz.calls --seed N --only ROUND    # one round again, each call written out

Ends with 1 if that process died or hung, met an error that is none of ours, or kept something: the
seed and the round are said, and what it was at.
"""

from __future__ import annotations

import argparse
import random
import sys

import pytest

from tests.fuzz.calls import watch
from tests.support import drivers


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = f"{', '.join(drivers.NAMES)}, or the path of a manifest"
    parser.add_argument("--driver", default="embedded", help=names)
    parser.add_argument("--runs", type=int, default=1_000_000, help="calls")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--round", type=int, default=watch.ROUND, help="calls on one device")
    parser.add_argument("--only", type=int, help="the number of one round")
    options = parser.parse_args()
    driver = options.driver
    if driver in drivers.NAMES:
        try:
            driver = drivers.find(driver)
        except pytest.skip.Exception as error:
            sys.exit(str(error))
    seed = options.seed or random.randrange(1, 1 << 32)
    asked = watch.Asked(driver, options.runs, seed, options.round, options.only)
    try:
        report = watch.run(asked)
    except watch.Found as found:
        if asked.only is not None:
            print(found.said)
        print(found)
        return 1
    if asked.only is not None:
        print(report.said)
    print(report, *report.unreached, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
