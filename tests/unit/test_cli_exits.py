"""How the command line ends: its exit codes, one sentence for an error, and what goes where."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from extmem.cli import exits
from extmem.errors import DriverError, DriverNotFound, Unsupported

ROOT = Path(__file__).resolve().parents[2]
ESCAPE = "\x1b"
linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX pipes and terminals")


def extmem(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "extmem", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("explain", "01714"), 0, ""),
        (("explain", "nonsense"), 3, "no rule is named nonsense"),
        (("rules", "--parent", "VkNonsense"), 3, "--parent is VkNonsense"),
        (("rules", "--verdict", "nonsense"), 2, "--verdict is nonsense; expected one of checked"),
        (("devices", "--driver", "/no/such"), 3, "there is no driver /no/such"),
        (("matrix", "--driver", "/no/such"), 3, "there is no driver /no/such"),
        (("matrix", "--type", "nonsense"), 2, "--type is nonsense; expected some of opaque_fd"),
        (("matrix", "--format", "nonsense"), 2, "format 'nonsense'; expected one of r8"),
        (("matrix", "--tiling", "nonsense"), 2, "tiling"),
        (("matrix", "--usage", "nonsense"), 2, "usage 'nonsense'; expected some of transfer_src"),
        (("schema", "nonsense"), 2, "nonsense has no schema; these have: "),
        (("demo", "--handle-type", "nonsense", "--driver", "embedded"), 2, "one of opaque_fd"),
    ],
)
def test_codes_and_sentences(arguments: tuple[str, ...], status: int, sentence: str) -> None:
    done = extmem(*arguments)
    assert done.returncode == status, done.stderr
    told = " ".join(done.stderr.replace("│", " ").split())
    assert sentence in told
    assert "Traceback" not in done.stderr
    assert (done.stdout == "") == (status != 0)
    if status not in (0, 2):  # of those, typer shows the usage
        assert re.fullmatch(r"extmem: [^\n]+\n", done.stderr)


@pytest.mark.parametrize(("variable", "status"), [("EXTMEM_CHECKS", 2), ("EXTMEM_DRIVER", 3)])
def test_a_variable_that_is_wrong_is_named(variable: str, status: int) -> None:
    done = extmem("demo", **{"EXTMEM_DRIVER": "embedded", variable: "nonsense"})
    assert done.returncode == status
    assert f"extmem: the variable {variable} is 'nonsense'" in done.stderr


def test_the_code_of_an_error() -> None:
    assert exits.code_of(ValueError("wrong")) == 2
    assert exits.code_of(DriverNotFound("none")) == 3
    assert exits.code_of(FileNotFoundError("none")) == 3
    assert exits.code_of(Unsupported("no")) == 4
    assert exits.code_of(DriverError(-4, "vkCreateDevice")) == 1
    assert exits.code_of(PermissionError("no")) == 1


def test_every_code_is_in_the_help_and_in_the_readme() -> None:
    told = " ".join(extmem("--help", COLUMNS="200").stdout.split())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for code, meaning in exits.CODES.items():
        assert f"{code} {meaning}" in told
        assert re.search(rf"^\| {code} \| {re.escape(meaning[:20])}", readme, re.MULTILINE)


def test_where_an_error_came_from_is_shown_to_whoever_asks() -> None:
    done = extmem("explain", "nonsense", EXTMEM_TRACEBACK="1")
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "in explain" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("extmem: no rule is named nonsense")


_BUG = """
import sys
from extmem.cli import main
import extmem.cli.rules
def broken(*arguments):
    raise RuntimeError("what nobody thought of")
extmem.cli.rules.collect = broken
sys.argv = ["extmem", "rules"]
main()
"""


@pytest.mark.parametrize("asked", ["0", "1"])
def test_a_mistake_of_ours_is_a_sentence_too(asked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BUG],
        capture_output=True,
        text=True,
        env={**os.environ, "EXTMEM_TRACEBACK": asked},
    )
    assert done.returncode == 1
    assert "RuntimeError: what nobody thought of" in done.stderr
    assert ("Traceback" in done.stderr) == (asked == "1")
    assert ("This is a bug of extmem" in done.stderr) == (asked == "0")


# -- where output goes ----------------------------------------------------------------------------


@linux
@pytest.mark.parametrize(
    "arguments",
    [("rules",), ("devices", "--json", "--driver", "embedded"), ("--help",),
     ("matrix", "--driver", "embedded"), ("explain", "01714")],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_has_gone_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "extmem", *arguments], stdout=writing, stderr=subprocess.PIPE
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@linux
def test_head_takes_a_line_and_no_more() -> None:
    command = f"{sys.executable} -m extmem rules | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


@linux
@pytest.mark.parametrize("arguments", [("rules",), ("--help",)], ids=" ".join)
def test_a_full_disk_is_an_error(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "extmem", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "extmem: No space left on device\n")


@linux
def test_without_any_output_it_still_works() -> None:
    command = f"{sys.executable} -m extmem explain 01714 >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0


@linux
def test_ctrl_c_is_a_word_and_130() -> None:
    code = "from extmem.cli import main\nimport extmem.cli.rules, os, signal, sys, time\n"
    code += "def slow(*arguments):\n os.kill(os.getpid(), signal.SIGINT)\n time.sleep(60)\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "extmem.cli.rules.collect = slow\nsys.argv = ['extmem', 'rules']\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "extmem: interrupted\n")


# -- terminals ------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a program writes to a terminal that is all of its streams."""
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    here, terminal = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "extmem", *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**plain, "TERM": "xterm-256color", **environment},
        )
    finally:
        os.close(terminal)
    written = b""
    try:
        while more := os.read(here, 65536):
            written += more
    except OSError:  # how a terminal ends
        pass
    finally:
        os.close(here)
        status = process.wait(60)
    assert status == 0, written
    return written.decode()


@linux
def test_colours_are_for_terminals() -> None:
    arguments = ("devices", "--driver", "embedded")
    assert ESCAPE + "[1m" in on_a_terminal(*arguments)
    assert ESCAPE not in extmem(*arguments).stdout
    assert not re.search(ESCAPE + r"\[[0-9;]*3[0-7]", on_a_terminal(*arguments, NO_COLOR="1"))
    assert ESCAPE not in on_a_terminal(*arguments, TERM="dumb")


@linux
def test_a_progress_bar_is_for_terminals(tmp_path: Path) -> None:
    arguments = ("demo", "--driver", "embedded", "--seconds", "0.5", "--picture")
    done = extmem(*arguments, str(tmp_path / "a.png"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "handing over" not in done.stdout
    shown = on_a_terminal(*arguments, str(tmp_path / "b.png"))
    assert "handing over" in shown
    # What the bar writes is no message between the two processes.
    counted = re.search(r"copied +([0-9,]+) bytes of messages.*the kernel counted ([0-9,]+)", shown)
    assert counted
    assert counted[1] == counted[2]


@linux
def test_with_json_nothing_else_is_on_stdout(tmp_path: Path) -> None:
    picture = str(tmp_path / "x.png")
    command = [sys.executable, "-m", "extmem", "demo", "--driver", "embedded", "--seconds", "0.2"]
    done = subprocess.run([*command, "--picture", picture, "--json"], capture_output=True)
    assert done.stdout.startswith(b"{")
    assert done.stderr == b""


@linux
def test_a_demo_that_is_wrong_ends_with_1(tmp_path: Path) -> None:
    code = "from extmem.cli import main\nimport extmem.cli.demo, sys, zlib\n"
    code += "class Wrong:\n crc32 = staticmethod(lambda data: 1)\n"
    code += "extmem.cli.demo.zlib = Wrong\n"
    words = ["demo", "--driver", "embedded", "--seconds", "0.1", "--json", "--picture"]
    code += f"sys.argv = {['extmem', *words, str(tmp_path / 'x.png')]}\n"
    done = subprocess.run([sys.executable, "-c", code + "main()\n"], capture_output=True, text=True)
    assert done.returncode == 1
    assert '"frames_wrong": 0' not in done.stdout
    assert '"frames_wrong"' in done.stdout


def test_signals_are_what_a_shell_calls_them() -> None:
    if sys.platform != "win32":
        assert 128 + signal.SIGINT == exits.INTERRUPTED
        assert 128 + signal.SIGPIPE == exits.UNREAD
