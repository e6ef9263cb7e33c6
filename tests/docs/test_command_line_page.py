"""The page of the command line has each command, and nothing that is none."""

from __future__ import annotations

import re

from extmem.cli import app
from tests.support.second import ROOT


def test_each_command_has_a_section() -> None:
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## extmem (\S+)$", text, flags=re.MULTILINE)
    assert sections == [each.name for each in app.registered_commands]
