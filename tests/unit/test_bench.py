"""What all benchmarks have in common: rounds, ratios, and the result that is written."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from extmem.bench import machine, parts
from extmem.bench.report import (
    SCHEMA,
    Failed,
    Measurement,
    Missing,
    Report,
    Row,
    decode,
    encode,
)
from extmem.bench.rounds import Effort, Tally, p95, take_turns, timed
from extmem.bench.running import run
from extmem.cli import schemas
from extmem.errors import DriverNotFound, ExtmemError, Unsupported


class Watch:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.announced = 0

    def begin(self, part: str, what: str) -> None:
        self.heard.append(f"begin {part}")

    def steps(self, number: int) -> None:
        self.announced += number

    def step(self, what: str) -> None:
        self.heard.append(what)

    def end(self) -> None:
        self.heard.append("end")


def report(**changed: Any) -> Report:
    row = Row("extmem", 2.0, 1.0, 3.0, 2.5, 3, 100, 4096.0, {"C": 2.0})
    lacking = Missing("C", "no gcc", "apt")
    found = Measurement(
        "one", "handover", "a thing", [row], "µs", "size", "bytes", {"device": "none"}, [lacking]
    )
    whole = Report(SCHEMA, ["extmem", "bench"], "2026-01-01T00:00:00+00:00", 1.5, False, None,
                   {"cores": 2}, [found], [], [Failed("names", "OSError: no")])  # fmt: skip
    return msgspec.structs.replace(whole, **changed)


# -- rounds and ratios ----------------------------------------------------------------------------


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine became ten times slower after the first round, for both.
    tally = Tally()
    for mine, theirs in (([2.0, 2.0, 9.0], [1.0]), ([20.0], [10.0]), ([30.0], [10.0])):
        tally.add("mine", mine)
        tally.add("theirs", theirs)
    mine, theirs = tally.rows(["theirs"])
    assert (mine.p50, mine.lowest, mine.highest) == (20.0, 2.0, 30.0)
    assert mine.ratios == {"theirs": 2.0}
    assert theirs.ratios == {"theirs": 1.0}


def test_ratios_are_for_the_same_place_on_the_axis() -> None:
    tally = Tally()
    for x, mine, theirs in ((1, 5.0, 1.0), (2, 8.0, 4.0)):
        tally.add("mine", [mine], x)
        tally.add("theirs", [theirs], x)
    found = {(row.label, row.x): row.ratios["theirs"] for row in tally.rows(["theirs"])}
    assert found[("mine", 1)] == 5.0
    assert found[("mine", 2)] == 2.0


def test_who_left_out_a_round_or_is_not_there_has_no_ratio() -> None:
    tally = Tally()
    tally.add("mine", [1.0])
    tally.add("mine", [1.0])
    tally.add("theirs", [1.0])
    assert tally.rows(["theirs", "nobody"])[0].ratios == {}


def test_the_95th_percentile() -> None:
    assert p95([7.0]) == 7.0
    assert p95([1.0] * 99 + [100.0]) == 1.0
    assert p95([1.0] * 90 + [100.0] * 10) == 100.0


def test_everybody_takes_turns() -> None:
    done: list[str] = []

    def contestant(label: str) -> tuple[int, Any]:
        def act(count: int) -> list[float]:
            done.append(f"{label} {count}")
            return [1.0] * count

        return len(label), act

    watch = Watch()
    tally = take_turns({"a": contestant("a"), "bb": contestant("bb")}, 2, watch)
    assert done == ["a 1", "bb 2"] * 3  # once to warm up
    assert [row.rounds for row in tally.rows()] == [2, 2]
    assert [row.count for row in tally.rows()] == [1, 2]
    assert len(watch.heard) == 4


def test_actions_are_really_done_and_timed() -> None:
    done: list[int] = []
    taken = timed(lambda: done.append(1))(5)
    assert len(done) == len(taken) == 5
    assert all(each >= 0 for each in taken)


def test_how_much_is_done() -> None:
    watch = Watch()
    assert Effort(watch).of(7) == 7
    assert Effort(watch, quick=True).of(7) == 1
    assert Effort(watch, rounds=3, quick=True).of(7) == 3
    assert Effort(watch, quick=True).some(100, 5) == 5


# -- the result -----------------------------------------------------------------------------------


def test_a_result_is_read_as_it_was_written() -> None:
    written = encode(report())
    assert decode(written) == report()
    assert json.loads(written)["measurements"][0]["rows"][0]["ratios"] == {"C": 2.0}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("no json", "no result of extmem bench"),
        ("[]", "no result of extmem bench"),
        ("{}", "that it is None"),
        ('{"schema": "urn:other:2"}', "urn:other:2"),
        ('{"schema": "urn:extmem:schema:bench:1", "command": 7}', r"\$.command"),
    ],
)
def test_what_is_no_result_is_refused(data: str, why: str) -> None:
    with pytest.raises(ExtmemError, match=why):
        decode(data)


def test_what_a_later_release_adds_is_passed_over() -> None:
    written = json.loads(encode(report()))
    written["weather"] = "fine"
    assert decode(json.dumps(written)) == report()


def test_every_key_is_in_the_schema() -> None:
    schema = schemas.read("bench")
    assert schema["$id"] == SCHEMA
    measurement = schema["properties"]["measurements"]["items"]
    for kind, described in (
        (Report, schema),
        (Measurement, measurement),
        (Row, measurement["properties"]["rows"]["items"]),
        (Missing, schema["properties"]["missing"]["items"]),
        (Missing, measurement["properties"]["missing"]["items"]),
        (Failed, schema["properties"]["failed"]["items"]),
    ):
        fields = msgspec.structs.fields(kind)
        assert {each.name for each in fields} == set(described["properties"])
    described = schema["properties"]["machine"]["properties"]
    assert {*machine.describe(), "load_before", "load_after"} == set(described)


# -- the machine, and the peers -------------------------------------------------------------------


def test_the_machine_is_described() -> None:
    known = machine.describe()
    assert known["cores"] >= 1
    assert known["last_level_cache_bytes"] > 0
    assert known["python"].count(".") == 2
    assert "numpy" in known["peers"]
    json.dumps(known)


def test_a_peer_that_is_not_installed_is_named_with_a_remedy() -> None:
    lacking = machine.missing("no_such_module_anywhere", "a peer")
    assert lacking is not None
    assert "is not installed" in lacking.why
    assert lacking.remedy.endswith("pip install no_such_module_anywhere")
    assert machine.missing("numpy", "a peer") is None


def test_parts_are_chosen_by_name_in_the_order_of_the_table() -> None:
    here, not_here = parts.chosen([])
    assert [*here, *not_here] == list(parts.PARTS) or not_here
    assert [each.name for each in parts.chosen(["waiting", "handover"])[0]] == [
        "handover",
        "waiting",
    ]
    with pytest.raises(Unsupported, match="called speed; expected handover, "):
        parts.chosen(["speed"])


def test_a_part_that_fails_is_told_of_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(part: parts.Part) -> Any:
        def measure(effort: Effort) -> list[Measurement]:
            if part.name == "handover":
                raise ValueError("nothing goes on here")
            return [Measurement(part.name, part.name, "a thing", [])]

        return measure

    monkeypatch.setattr(parts, "load", load)
    watch = Watch()
    found = run(["handover", "objects"], watch, ["extmem"], quick=True)
    assert found.failed == [Failed("handover", "ValueError: nothing goes on here")]
    assert [each.name for each in found.measurements] == ["objects"]
    assert watch.heard == ["begin handover", "end", "begin objects", "end"]


def test_a_driver_that_is_named_has_to_be_there(tmp_path: Any) -> None:
    with pytest.raises(DriverNotFound, match=r"none\.json|on Windows"):
        run(["objects"], Watch(), ["extmem"], quick=True, driver=str(tmp_path / "none.json"))


def test_objects_are_measured_on_the_embedded_device_alone() -> None:
    watch = Watch()
    found = run(["objects"], watch, ["extmem"], quick=True, driver="embedded")
    assert found.failed == []
    steps, whole = found.measurements
    assert {row.x for row in steps.rows} == {1, 100}
    assert {row.label for row in steps.rows} >= {"allocate", "import", "free"}
    assert all(0 < row.lowest <= row.p50 <= row.highest for row in [*steps.rows, *whole.rows])
