"""The invariant of the house: a lower room never imports a higher one."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import extmem

SOURCE = Path(extmem.__file__).parent

# From the ground up. A module belongs to the longest name here that it starts with; it may import
# from its own floor and from those below.
FLOORS = (
    ("errors", "handle_types", "vk._base", "vk._prototype", "vk._constants", "vk._structures",
     "vk._prototypes", "vk._validity", "vk._dispatch"),
    ("share.machine", "share.passport"),
    ("handles", "world", "submitted"),
    ("win32",),
    ("drivers",),
    ("vk.chain", "vk.mappings", "vk.queries", "vk.sync_queries", "vk.record", "vk.record_sync",
     "vk.record_submits", "vk.record_commands", "vk.borrowed"),
    ("rules",),
    ("vk.calls",),
    ("vk.commands", "vk.instances", "vk.memories", "vk.submits", "vk.synchronisation"),
    ("vk",),
    ("capabilities", "images.formats", "images.infos", "images.support"),
    ("interop",),  # what Memory makes of itself for others, when it is asked
    ("memory", "resources", "copying", "importing", "exporting", "allocating", "device",
     "images", "ownership",
     "lives", "waiting", "reading", "awaiting", "work", "submitting", "sync", "signalling",
     "receiving", "hosting", "together", "examining",
     "opening"),
    ("share.parcels", "share.sockets", "share.pipes", "share.channel", "share.arrivals",
     "share.trials", "share.helper", "share.quarantine", "share.examiner",
     "share.ring", "share.slots", "share.stream", "share.drafts", "share.joining",
     "share.subscribing", "share.looking", "share.formats", "share.frames", "share.leases",
     "share.promises", "share.pictures", "share.making"),
    ("",),
    ("cli", "bench", "inspector", "__main__"),
)  # fmt: skip


def floor(module: str) -> int:
    best = max(
        (name for names in FLOORS for name in names if module == name or
         module.startswith(name + ".") or name == ""),
        key=len,
    )  # fmt: skip
    return next(index for index, names in enumerate(FLOORS) if best in names)


def imports(path: Path) -> Iterator[str]:
    """What a file imports of ours at run time, as names under `extmem`."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("extmem"):
            base = (node.module or "").removeprefix("extmem").removeprefix(".")
            for alias in node.names:
                inner = SOURCE.joinpath(*base.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{base}.{alias.name}".strip(".") if is_module else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("extmem."):
                    yield alias.name.removeprefix("extmem.")


def modules() -> list[str]:
    found = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py")]
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in found)


@pytest.mark.parametrize("module", modules())
def test_a_lower_room_never_imports_a_higher_one(module: str) -> None:
    path = SOURCE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module == "__init__":
        path, module = SOURCE / "__init__.py", ""
    higher = [name for name in imports(path) if floor(name) > floor(module)]
    assert higher == []


# Those of the other system.
_NOT_HERE = ("handles.words.events", "share.pipes")

_EACH_FIRST = """
import os, sys
import asyncio, ctypes, dataclasses, inspect, logging, msgspec, multiprocessing.connection, numpy
import secrets, socket, subprocess, tempfile, threading, tomllib, typer, typing, uuid

for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except BaseException as error:
            print(f"{name}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


_PARTS = 8  # so that several workers share the modules


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: forks, to be quick")
@pytest.mark.parametrize("part", range(_PARTS))
def test_every_module_can_be_the_first(part: int) -> None:
    names = [
        f"extmem.{each}" for each in modules() if each not in ("", "__main__", *_NOT_HERE)
        if not each.endswith("__main__")
    ][part::_PARTS]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _EACH_FIRST, *names], capture_output=True, text=True, timeout=110
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
