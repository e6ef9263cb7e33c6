"""`extmem bench` as a user meets it: in its own process, with real measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from extmem.bench.report import Report, decode
from extmem.cli import schemas

PARTS = ["handover", "waiting", "streams"]


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "extmem", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A quick run of what is there on both systems, and where it was written."""
    here = tmp_path_factory.mktemp("bench")
    done = bench(*PARTS, "--quick", "--json", "--out", "result", cwd=here)
    assert done.returncode == 0, done.stderr
    report = decode(done.stdout)
    jsonschema.Draft202012Validator(schemas.read("bench")).validate(json.loads(done.stdout))
    assert report == decode((here / "result" / "bench.json").read_bytes())
    assert "extmem: bench: handover: " in done.stderr  # what is running
    assert "\x1b" not in done.stderr  # no terminal, no colours
    return here / "result", report


def test_all_that_was_asked_for_is_measured(quick: tuple[Path, Report]) -> None:
    _, report = quick
    assert report.quick
    assert report.failed == []
    assert {each.part for each in report.measurements} == set(PARTS)
    for measurement in report.measurements:
        for row in measurement.rows:
            assert 0 < row.lowest <= row.p50 <= row.highest, (measurement.name, row)
            assert row.rounds >= 1
            assert row.count >= 1


def test_peers_stand_beside_it_or_are_missing_by_name(quick: tuple[Path, Report]) -> None:
    _, report = quick
    found = {each.name: each for each in report.measurements}
    for name, peers in {
        "handover": ["C", "vulkan"],
        "waiting-awake": ["eventfd", "multiprocessing.Semaphore"],
        "streams-stamped": ["shared_memory, copied", "pickled", "pyzmq", "iceoryx2"],
    }.items():
        measured = [row.label for row in found[name].rows]
        missing = [(each.what, each.why) for each in found[name].missing]
        if name == "handover" and not measured:
            assert missing  # the driver itself
            continue
        for peer in peers:
            assert any(peer in each for each in measured) or any(
                peer == what for what, _ in missing
            ), (peer, measured, missing)
    frames = found["streams-stamped"]
    assert {row.label for row in frames.rows} >= {"extmem", "shared_memory, copied", "pickled"}
    assert all("shared_memory, copied" in row.ratios for row in frames.rows)


def test_every_measurement_is_drawn(quick: tuple[Path, Report]) -> None:
    folder, report = quick
    drawn = {each.stem for each in folder.glob("*.svg")}
    assert drawn == {each.name for each in report.measurements if each.rows}
    for each in folder.glob("*.svg"):
        ElementTree.parse(each)


def test_an_earlier_result_is_shown_and_drawn_again(
    quick: tuple[Path, Report], tmp_path: Path
) -> None:
    folder, report = quick
    done = bench("--from", str(folder / "bench.json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for measurement in report.measurements:
        assert measurement.what in done.stdout
    for each in folder.glob("*.svg"):
        assert (tmp_path / "extmem-bench" / each.name).read_bytes() == each.read_bytes()
    again = bench("--from", str(folder / "bench.json"), "--json", cwd=tmp_path / "extmem-bench")
    assert decode(again.stdout) == report
    assert not (tmp_path / "extmem-bench" / "extmem-bench").exists()  # --json alone writes nothing


def test_exit_codes_say_what_happened(tmp_path: Path) -> None:
    wrong = bench("speed", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "handover" in wrong.stderr
    nowhere = bench("handover", "--quick", "--driver", str(tmp_path / "none.json"), cwd=tmp_path)
    assert nowhere.returncode == 3
    assert bench("--from", "none.json", cwd=tmp_path).returncode == 3
    (tmp_path / "no.json").write_text("{}")
    unreadable = bench("--from", "no.json", cwd=tmp_path)
    assert unreadable.returncode == 1
    assert "it is None" in unreadable.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "no.json"]  # nothing was written
