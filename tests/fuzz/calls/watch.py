"""Calls are made in a process of their own: it is started here, watched, and judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.calls import coverage, page
from tests.support.directory import gone, services_of

__all__ = ["PATIENCE", "ROUND", "Asked", "Found", "Report", "run"]

_ROOT = Path(__file__).resolve().parent.parent.parent.parent
PATIENCE = 60.0  # seconds without a call that are a hang, of a machine that does other things too
ROUND = 1500  # calls on one device
_LOOK = 0.1  # seconds between two looks
_LAST = 6000  # characters of what the process said

MiB = 1 << 20


class Found(AssertionError):
    """The fuzzer found something, or did not end as it should."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said  # what the process wrote


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be run."""

    driver: str  # as `open_device(driver=...)` takes it
    calls: int
    seed: int
    round: int = ROUND
    only: int | None = None  # the number of one round, whose calls are written out
    patience: float = PATIENCE  # seconds
    sabotage: str = ""  # of `sabotage.py`

    def __str__(self) -> str:
        return f"--driver {self.driver} --seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did that found nothing."""

    asked: Asked
    data: dict[str, Any] = field(repr=False)
    said: str = field(repr=False)  # what the process wrote

    @property
    def calls(self) -> int:
        return int(self.data["calls"])

    @property
    def outcomes(self) -> list[int]:
        """How many calls ended in which way: see `rounds.OUTCOMES`."""
        return [sum(each) for each in zip(*self.data["counts"].values(), strict=True)]

    @property
    def reached(self) -> float:
        """The share that the driver got to see."""
        return sum(self.outcomes[:2]) / max(1, self.calls)

    @property
    def unreached(self) -> list[str]:
        """The commands that the driver never got to see, and why."""
        return coverage.told(self.data["counts"], self.data["reasons"])

    def __str__(self) -> str:
        data, growth = self.data, self.data["growth"]
        begin = data["steps"][0][1]["bytes of memory"] / MiB if data["steps"] else 0.0
        return (
            f"seed {self.asked.seed}: {self.calls} calls in {data['rounds']} rounds, "
            f"{data['seconds']:.1f} s ({self.calls / data['seconds']:.0f}/s), "
            f"{self.reached:.0%} reached the driver; "
            f"rss {begin:.1f} MiB {growth.get('bytes of memory', 0) / MiB:+.1f}, "
            f"peak {data['peak'] / MiB:.1f}; "
            f"blocks {growth.get(_BLOCKS, 0):+}, objects {growth.get('objects of Python', 0):+}; "
            f"level: {', '.join(f'{count} {what}' for what, count in data['last'].items())}"
        )


_BLOCKS = "blocks of Python's memory"


def run(asked: Asked) -> Report:
    """Make the calls. Found if there was a signal, a hang, growth, or an error that is none of
    ours; and if commands were left out.
    """
    with _folder() as folder:
        started = time.monotonic()
        paper, report, log = folder / "page", folder / "report", folder / "log"
        paper.write_bytes(b"")
        given = asdict(asked) | {"page": str(paper), "report": str(report)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.calls.child",
                 json.dumps(given)],
                cwd=_ROOT,
                env={
                    **os.environ,
                    "EXTMEM_RUNTIME_DIR": str(folder),
                    "EXTMEM_DIRECTORY_GLOBAL": f"extmem-calls-{os.getpid()}",
                    "TMPDIR": str(folder),
                    # See tests.fuzz.fuzz: large blocks between small ones look like a leak.
                    "MALLOC_MMAP_THRESHOLD_": "32768",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )  # fmt: skip
            try:
                hung = _hung(process, paper, asked.patience)
            finally:
                process.kill()
                process.wait()
        said = log.read_text(errors="replace")
        place = page.read(paper)
        if hung or process.returncode or not report.exists():
            raise Found(
                f"seed {asked.seed}: the process {hung or _end(process.returncode)} "
                f"after {time.monotonic() - started:.0f} s, at {place}\n"
                f"again: python -m tests.fuzz.calls {asked} --only {place.round}\n{said[-_LAST:]}",
                said,
            )
        found = Report(asked, json.loads(report.read_text()), said)
    problems = _problems(found)
    if problems:
        again = f"seed {asked.seed}, python -m tests.fuzz.calls {asked}"
        raise Found(f"{again}:\n{problems}\n{found}", said)
    return found


def _problems(report: Report) -> str:
    lines = [f"grown: {each}" for each in report.data["grown"]]
    lines += [f"{what}\n{trace}" for what, trace in report.data["finds"].items()]
    if report.asked.only is None and not lines:
        lines += coverage.wrong(report.data["counts"], report.data["reasons"])
    return "\n".join(lines)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for a run, and for the directory of Windows handles that is started there."""
    with tempfile.TemporaryDirectory(prefix="xk-") as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            for each in services_of(folder):
                os.kill(each, signal.SIGTERM)
                gone(each)


def _hung(process: subprocess.Popen[bytes], paper: Path, patience: float) -> str:
    """Wait for the end, as long as there are steps; why it hangs if there are none.

    The first one may take its time: until then modules are loaded.
    """
    beat, since = -1, time.monotonic()
    while True:
        try:
            process.wait(_LOOK)
            return ""
        except subprocess.TimeoutExpired:
            now = page.read(paper).beat
        if now != beat:
            beat, since = now, time.monotonic()
        elif time.monotonic() - since > (patience if beat else max(patience, PATIENCE)):
            process.send_signal(signal.SIGUSR1)  # it writes where it is, if it can
            time.sleep(0.5)
            return f"hung for {patience:.0f} s"


def _end(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"
