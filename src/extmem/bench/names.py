"""What a name costs by how many there are in the directory, up to all that it takes.

The names are held by processes of their own, by a connection each, as programs would. Opening and
closing a name is two requests; so are making one and closing it. The floor is two packets to a
server in plain Python and back.
"""

from __future__ import annotations

import contextlib
import random
import sys

from extmem.bench.directory import echo
from extmem.bench.places import client, holders, name_of, place
from extmem.bench.report import Measurement, Missing
from extmem.bench.rounds import Effort, Round, Tally, take_turns, timed
from extmem.handles.directory.client import DirectoryKernel

if sys.platform == "win32":
    raise ImportError("Windows has handles of its own; the directory is for Linux")

__all__ = ["measure"]

_NUMBERS = (10, 100, 1_000, 10_000, 65_000)
_QUICK = (10, 100)
_EACH = 650  # names of one process, at the most
_ECHO = "two echoes of a server in Python"
_SPARE = 512  # of what the directory takes: connections, and what is made while it is measured


def _opening(kernel: DirectoryKernel, names: list[str]) -> Round:
    """Open a name, one or another, and close it."""
    chance = random.Random(1)
    return timed(lambda: kernel.close(kernel.open_section(chance.choice(names))))


def _making(kernel: DirectoryKernel) -> Round:
    """Make a section with a name that is new, and close it."""
    return timed(lambda: kernel.close(kernel.create_section(4096, name="one more")))


def measure(effort: Effort) -> list[Measurement]:
    """By the number of names."""
    rounds, count = effort.of(5), effort.some(400, 30)
    missing: list[Missing] = []
    facts: dict[str, int] = {}
    tally = Tally()
    numbers = effort.some_of(_NUMBERS, _QUICK)
    effort.watch.steps(len(numbers) * (rounds * 3 + 1))
    with echo() as one_echo:

        def two_echoes(times: int) -> list[float]:
            taken = one_echo(2 * times)
            return [a + b for a, b in zip(taken[::2], taken[1::2], strict=True)]

        for number in numbers:
            with contextlib.ExitStack() as stack:
                stack.enter_context(place())
                kernel = client()
                stack.callback(kernel.disconnect)
                limits = kernel.status().limits
                facts = {
                    f"limit of {each}": int(limits[each]) for each in ("all_names", "descriptors")
                }
                most = int(min(limits["all_names"], limits["descriptors"])) - _SPARE
                if number > most:
                    missing.append(
                        Missing(
                            f"{number:,} names",
                            f"the directory takes {facts['limit of all_names']:,} names and may "
                            f"have {facts['limit of descriptors']:,} descriptors here, one for "
                            f"each object; {most:,} names are measured instead",
                            "raise the hard limit of descriptors (ulimit -Hn)",
                        )
                    )
                    number = most
                effort.watch.step(f"{number:,} names are made")
                processes = max(1, -(-number // _EACH)) if number > 1000 else 10
                each = number // processes
                stack.enter_context(holders(processes, each))
                held = kernel.status().counts["names"]
                names = [name_of(a, b) for a in range(processes) for b in range(each)]
                contestants: dict[str, tuple[int, Round]] = {
                    "extmem, open and close": (count, _opening(kernel, names)),
                    "extmem, make and close": (count, _making(kernel)),
                    _ECHO: (count, two_echoes),
                }
                take_turns(contestants, rounds, effort.watch, float(held), tally)
    return [
        Measurement(
            "names",
            "names",
            "A name, by how many there are in the directory",
            tally.rows([_ECHO]),
            axis="names in the directory",
            facts=dict(facts),
            missing=missing,
        )
    ]
