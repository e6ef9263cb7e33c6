"""Checks of what Vulkan needs: manifests of drivers, and files of graphics cards."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from extmem.cli.findings import Finding, note, ok, problem

__all__ = ["CHOSEN", "cards", "manifests"]

# By which the loader is told of drivers; the first that is set hides all others.
CHOSEN = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
_ADDED = "VK_ADD_DRIVER_FILES"
_CARDS = ("dri/renderD*", "nvidiactl", "nvidia[0-9]*", "kfd")


def manifests() -> Iterator[Finding]:
    """Whether the manifests of Vulkan drivers can be read, and name libraries that are there."""
    found, wrong = 0, False
    for variable in (*CHOSEN, _ADDED):
        for each in filter(None, os.environ.get(variable, "").split(os.pathsep)):
            if not Path(each).exists():
                wrong = True
                yield problem(
                    f"{variable} names {each}, which is not there, so the Vulkan loader finds no "
                    "driver by it.",
                    f"Correct it, or unset {variable}.",
                    variable=variable,
                    path=each,
                )
    for path in _listed():
        found += 1
        why = _amiss(path)
        if why is not None:
            wrong = True
            yield note(
                f"The manifest {path} of a Vulkan driver {why}.",
                "Install that driver again, or remove the manifest.",
                path=str(path),
            )
    if not wrong and sys.platform != "win32":  # whose drivers are in the registry
        yield ok(f"{found} manifest{'' if found == 1 else 's'} of Vulkan drivers, all in order.",
                 manifests=found)  # fmt: skip


def _listed() -> list[Path]:
    """The manifests that the loader looks at."""
    chosen = next((os.environ[each] for each in CHOSEN if os.environ.get(each)), None)
    if chosen is not None:
        paths = [Path(each) for each in chosen.split(os.pathsep) if each]
        files = [x for each in paths for x in (_in(each) if each.is_dir() else [each])]
        return [each for each in files if each.exists()]
    if sys.platform == "win32":
        return []
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    folders = [Path("/etc"), home, *map(Path, shared.split(":"))]
    return [x for each in folders for x in _in(each / "vulkan" / "icd.d")]


def _in(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError:
        return []


def _amiss(path: Path) -> str | None:
    """What is wrong with a manifest. A library without a folder is the dynamic linker's to find."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        library = json.loads(text)["ICD"]["library_path"]
        if not isinstance(library, str):
            raise TypeError
    except (ValueError, LookupError, TypeError):
        return "names no library"
    if os.sep in library and not (path.parent / library).exists():
        return f"names the library {library}, which is not there"
    return None


def cards() -> Iterator[Finding]:
    """Whether this user may use the graphics cards that the kernel shows."""
    if sys.platform == "win32":
        return
    files = [each for pattern in _CARDS for each in sorted(Path("/dev").glob(pattern))]
    for each in files:
        if not os.access(each, os.R_OK | os.W_OK):
            yield problem(
                f"This user may not use {each}, so no driver of that graphics card shows it.",
                _let_in(each),
                path=str(each),
            )
    allowed = [str(each) for each in files if os.access(each, os.R_OK | os.W_OK)]
    if not files:
        yield ok("The kernel shows no graphics card here; software drivers need none.", files=[])
    elif len(allowed) == len(files):
        yield ok(f"This user may use {', '.join(allowed)}.", files=allowed)


def _let_in(file: Path) -> str:
    """How a user comes to have a device's file."""
    if sys.platform != "win32":
        import grp

        try:
            group = grp.getgrgid(file.stat().st_gid).gr_name
        except (OSError, KeyError):
            group = ""
        if group and group != "root":
            return f'Join its group, and log in again: sudo usermod -aG {group} "$USER".'
    return (
        f"Have root allow it (a rule of udev), or give the container the device: --device {file}."
    )
