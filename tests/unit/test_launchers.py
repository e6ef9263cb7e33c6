"""The two launchers: scripts that a plain shell takes, from any folder, quick the second time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.strict import missing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hardware: POSIX shells")
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    *("extmem", "test", "tools/setup.sh", "tools/test_drivers.sh"),
    *("tools/windows.sh", "tools/windows_python.sh"),
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_posix_shell_takes_it(name: str) -> None:
    shell = shutil.which("dash") or "sh"
    subprocess.run([shell, "-n", str(ROOT / name)], check=True)


def test_it_runs_from_any_folder_and_through_a_link(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "bin" / "python").exists():
        missing(".venv (run ./extmem once)")
    link = tmp_path / "a link"
    link.symlink_to(ROOT / "extmem")
    # A file of this name in the current folder must not be taken for a module of ours.
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(link), "--version"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "extmem 0.1.0\n"
    assert done.stderr == ""
