"""The tools that make the documentation lie in tools/, which is no package."""

from __future__ import annotations

import sys

from tests.support.second import ROOT

sys.path.append(str(ROOT / "tools"))
