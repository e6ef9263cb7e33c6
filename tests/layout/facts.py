"""How every structure lies in memory, as ctypes has it on the system that asks.

`python -m tests.layout.facts FILE` writes it down, to be compared elsewhere.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from extmem.vk import _base, _structures

__all__ = ["facts", "structures", "write"]


def structures() -> dict[str, Any]:
    """Every structure and union of the generated module, each once, under its own name."""
    found = {
        name: cls
        for name, cls in vars(_structures).items()
        if isinstance(cls, type)
        and issubclass(cls, (ctypes.Structure, ctypes.Union))
        and name == cls.__name__
        and cls not in (_base.Structure, _base.Union)
    }
    return found


def facts(cls: Any) -> list[int]:
    """Size, alignment and offsets, as ctypes has them."""
    offsets = []
    for field in cls._fields_:
        descriptor = cls.__dict__[field[0]]
        offsets.append(descriptor.offset)
    return [ctypes.sizeof(cls), ctypes.alignment(cls), *offsets]


def write(path: Path) -> None:
    """Write the facts of all structures, in JSON."""
    path.write_text(json.dumps({name: facts(cls) for name, cls in structures().items()}))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
