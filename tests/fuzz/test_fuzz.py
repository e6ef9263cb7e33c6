"""What reads the bytes of other processes, fuzzed a little in each run.

EXTMEM_TEST_LONG=1: a million inputs for each target. See `python -m tests.fuzz --help`.
"""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("hardware: the fuzzer (atheris) is for Linux alone", allow_module_level=True)

from tests.fuzz import frames, fuzz, mutation
from tests.fuzz.targets import TARGETS
from tests.support.directory import LONG
from tests.support.strict import missing


@pytest.fixture(autouse=True)
def fuzzer() -> None:
    """There is one, or this is skipped."""
    why = fuzz.missing()
    if why is not None:
        missing(why, installable=fuzz.installable())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.timeout(7200 if LONG else 300)
def test_bytes_of_others_do_no_more_than_be_refused(target: str) -> None:
    runs = 1_000_000 if LONG else TARGETS[target].short
    # The same inputs in each short run: a commit fails by what it does, and not by chance.
    report = fuzz.run(target, runs, seed=0 if LONG else 1)
    print(report)
    assert report.runs == runs
    assert report.growth() == []
    assert report.coverage > 20, "the fuzzer sees nothing of what it does"


def test_what_fails_is_found_with_its_input() -> None:
    with pytest.raises(
        fuzz.Found, match=r"(?s)the third memory type.*in base64: [A-Za-z0-9+/]{20,}"
    ) as found:
        fuzz.run("fails", 100_000, seed=1)
    assert "ended with" in str(found.value)


def test_what_leaks_is_seen() -> None:
    report = fuzz.run("leaks", 10_000, seed=1)
    assert report.block_growth > 10_000
    assert any("blocks" in each for each in report.growth())


def test_seeds_are_taken_and_cut_as_they_were_joined() -> None:
    for name, target in TARGETS.items():
        for data in target.seeds():
            assert len(data) <= target.largest
            if target.change is mutation.of_frames:
                assert frames.joined(frames.split(data)) == data, name
