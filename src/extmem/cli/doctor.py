"""`extmem doctor`: a table of checks, none of which changes or starts anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

from extmem.cli import doctor_gpu, doctor_leftovers, doctor_python
from extmem.cli.findings import Finding, note, ok, problem
from extmem.cli.words import one_line, say
from extmem.drivers.open import open_driver
from extmem.errors import ExtmemError
from extmem.opening import physical_devices

__all__ = ["CHECKS", "Check", "collect", "show"]

Check = Callable[[], Iterable[Finding]]


def _drivers() -> Iterable[Finding]:
    for name in ("embedded", "system"):
        try:
            origin = open_driver(name).origin
            devices = [each.name for each in physical_devices(name)]
        except ExtmemError as error:
            yield note(
                f"There is no {name} driver: {error}.",
                "Install a Vulkan loader and the driver of the GPU, if this machine has one; "
                "the embedded driver works without.",
                driver=name,
                devices=[],
            )
            continue
        facts = {"driver": name, "origin": origin, "devices": devices}
        listed = ", ".join(devices)
        if devices:
            yield ok(f"The {name} driver ({origin}) has {listed}.", **facts)
        else:
            remedy = "See whether the GPU's driver is installed: `vulkaninfo --summary`."
            yield note(f"The {name} driver ({origin}) has no device.", remedy, **facts)


def _kernel() -> Iterable[Finding]:
    yield ok("Windows' own kernel has the handles here; no directory is needed.")


def _table() -> tuple[tuple[str, Check], ...]:
    """Every check and its name, in the order in which they are told."""
    everywhere: tuple[tuple[str, Check], ...] = (
        ("drivers", _drivers),
        ("manifests", doctor_gpu.manifests),
        ("settings", doctor_python.settings),
        ("packages", doctor_python.packages),
        ("pictures", doctor_leftovers.pictures),
    )
    if sys.platform == "win32":
        return (("kernel", _kernel), *everywhere)
    from extmem.cli import doctor_directory as directory
    from extmem.cli import doctor_system as system

    return (
        ("folder", directory.folder),
        ("files", directory.files),
        ("service", directory.service),
        ("elsewhere", directory.elsewhere),
        ("descriptors", system.descriptors),
        ("proc", system.proc),
        ("memfd", system.memfds),
        ("pidfd", system.pidfds),
        ("memory", system.memory),
        ("cards", doctor_gpu.cards),
        *everywhere,
        ("objects", doctor_leftovers.objects),
        ("processes", doctor_leftovers.processes),
    )


CHECKS = _table()


def collect() -> list[Finding]:
    """What all checks find. A check that fails is a finding itself."""
    found: list[Finding] = []
    for name, check in CHECKS:
        try:
            found += [replace(each, check=name) for each in check()]
        except (OSError, ExtmemError, ValueError) as error:
            failed = problem(
                f"This could not be looked at: {error}.",
                "If the sentence does not tell what to do, report it as a bug of extmem.",
            )
            found.append(replace(failed, check=name))
    return found


def show(found: list[Finding]) -> None:
    """The same for people."""
    width = max(len(each.check) for each in found)
    for each in found:
        say(f"{each.severity:7}  {each.check:{width}}  {one_line(each.sentence)}")
        if each.remedy:
            say(f"{'':7}  {'':{width}}  -> {one_line(each.remedy)}")
    problems = sum(each.severity == "problem" for each in found)
    notes = sum(each.severity == "note" for each in found)
    said = "No problem was found" if not problems else _count(problems, "problem")
    if notes:
        said += f", {_count(notes, 'note')}"
    say(f"{said}.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
