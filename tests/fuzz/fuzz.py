"""Fuzz a target in a child process, and say what came of it."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Found", "Report", "installable", "missing", "run"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_SECONDS = 10  # that one input may take, of a machine that does other things as well
_LARGEST = 1024  # MiB of memory that the process may have
_MOST_BYTES, _MOST_BLOCKS, _MOST_OBJECTS = 32 << 20, 3_000, 500  # that a run may grow by
_DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/")

MiB = 1 << 20


class Found(AssertionError):
    """The fuzzer found something, or did not end as it should."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run did."""

    target: str
    runs: int
    refused: int  # inputs, of these
    reasons: int  # for which inputs were refused, numbers and quotations aside
    seconds: float
    coverage: int  # edges of our Python code, and reasons
    features: int  # edges and how often each was taken
    corpus: int  # inputs that are worth keeping
    rss: int  # bytes, after the first fifth
    rss_growth: int  # bytes, from there to the end
    peak_rss: int  # bytes
    block_growth: int  # of Python's memory
    object_growth: int  # that the garbage collector knows

    def growth(self) -> list[str]:
        """What grew more than the fuzzer's own corpus and our caches do; nothing if all is well."""
        grown = (
            ("bytes of memory", self.rss_growth, _MOST_BYTES),
            ("blocks of Python's memory", self.block_growth, _MOST_BLOCKS),
            ("objects", self.object_growth, _MOST_OBJECTS),
        )
        return [
            f"{change} {what} more, and {most} are allowed"
            for what, change, most in grown
            if change > most
        ]

    def __str__(self) -> str:
        return (
            f"{self.target:9}{self.runs:9} inputs in {self.seconds:6.1f} s "
            f"({self.runs / self.seconds:6.0f}/s), {self.refused} refused for {self.reasons} "
            f"reasons; cov {self.coverage}, ft {self.features}, corpus {self.corpus}; "
            f"rss {self.rss / MiB:.1f} MiB {self.rss_growth / MiB:+.1f}, "
            f"peak {self.peak_rss / MiB:.1f}; "
            f"blocks {self.block_growth:+}, objects {self.object_growth:+}"
        )


def missing() -> str | None:
    """Why nothing can be fuzzed here; None if it can."""
    if sys.platform != "linux":
        return "the fuzzer (atheris) is for Linux alone"
    if importlib.util.find_spec("atheris") is None:
        return "the fuzzer: pip install atheris (./test does)"
    return None


def installable() -> bool:
    """Whether the fuzzer can be had for this Python: pyproject.toml has the same condition."""
    return (
        sys.platform == "linux"
        and platform.machine() == "x86_64"
        and platform.python_implementation() == "CPython"
        and sys.version_info < (3, 14)
    )


def run(
    target: str,
    runs: int,
    *,
    seed: int = 0,  # 0: another one each time
    corpus: Path | None = None,  # a folder of inputs to begin with, which gets the new ones
) -> Report:
    """Fuzz; `Found` with all that is known if something was."""
    from tests.fuzz.targets import BROKEN, TARGETS

    known = {**TARGETS, **BROKEN}[target]
    with tempfile.TemporaryDirectory(prefix="xf-") as folder:
        kept = corpus or Path(folder, "corpus")
        given = Path(folder, "seeds")
        kept.mkdir(exist_ok=True)
        given.mkdir()
        for number, data in enumerate(known.seeds()):
            (given / str(number)).write_bytes(data)
        report, log = Path(folder, "report"), Path(folder, "log")
        with log.open("wb") as output:
            ended = subprocess.run(
                [
                    sys.executable,
                    *("-m", "tests.fuzz.child", target, str(runs), str(report)),
                    *(str(kept), str(given)),
                    f"-max_len={known.largest}",
                    "-len_control=0",
                    f"-timeout={_SECONDS}",
                    f"-rss_limit_mb={_LARGEST}",
                    f"-artifact_prefix={folder}/",
                    *([f"-seed={seed}"] if seed else []),
                ],
                cwd=_ROOT,
                env={
                    **os.environ,
                    "EXTMEM_RUNTIME_DIR": folder,
                    "TMPDIR": folder,
                    # Large buffers come and go between the small ones that the fuzzer keeps: in one
                    # heap that looks like a leak, because their places are not used again.
                    "MALLOC_MMAP_THRESHOLD_": "32768",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        said = log.read_text(errors="replace")
        inputs = [each for each in Path(folder).glob("*-*") if each.is_file()]
        if ended.returncode or not report.exists() or inputs:
            told = "".join(
                f"\nthe input {name}, in base64: {base64.b64encode(data).decode()}"
                for name, data in ((each.name, each.read_bytes()) for each in inputs)
            )
            raise Found(f"{target} ended with {ended.returncode}:\n{said[-6000:]}{told}")
        result = json.loads(report.read_text())
        done = _DONE.search(said)
        if done is None:
            raise Found(f"{target} did not come to its end:\n{said[-6000:]}")
        warm, end = result["warm"], result["end"]
        return Report(
            target,
            result["runs"],
            result["refused"],
            result["reasons"],
            result["seconds"],
            *(int(done[index]) for index in (2, 3, 4)),
            warm["rss"],
            end["rss"] - warm["rss"],
            result["peak_rss"],
            end["blocks"] - warm["blocks"],
            end["objects"] - warm["objects"],
        )
