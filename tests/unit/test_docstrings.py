"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import extmem
from tests.support.strict import missing

# Their examples share memory by descriptors.
POSIX = ("extmem.handles.posix", "extmem.handles.handle", "extmem.handles.directory.",
         "extmem.drivers.bridge", "extmem.cli.doctor_", "extmem.cli.listing_directory",
         "extmem.share.sockets", "extmem.handles.words.futex",
         "extmem.bench.directory", "extmem.bench.names", "extmem.bench.places")  # fmt: skip
WINDOWS = ("extmem.share.pipes", "extmem.handles.words.events")  # which has none


def modules() -> list[str]:
    found = [each.name for each in pkgutil.walk_packages(extmem.__path__, "extmem.")]
    return [name for name in found if not name.endswith(("__main__", "receiver"))]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32" and name.startswith(POSIX):
        missing("descriptors, which are POSIX", installable=False)
    if sys.platform != "win32" and name.startswith(WINDOWS):
        return
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")
    module: ModuleType = importlib.import_module(name)
    if ">>>" not in Path(str(module.__file__)).read_text():
        return  # the generated ones are large, and looking for examples takes long
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
