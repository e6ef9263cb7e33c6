"""Steps of a state machine that are not all taken equally often.

Rules of hypothesis' own have no weights, and most of them are left out of most examples: where each
step needs what others made, hardly any gets that far. So one rule draws numbers, the same for every
step, and what they mean is looked up here. That what is possible depends on the moment at which
something was killed makes no difference to what is drawn.

    kind = Kinds()

    class Steps(RuleBasedStateMachine):
        @kind(30, has_room, size=range(1, 9))
        def allocate(self, size): ...

        @rule(number=NUMBER, numbers=st.tuples(NUMBER, NUMBER))
        def step(self, number, numbers):
            chosen, arguments = kind.choose(self, number, numbers)
            chosen.act(self, **arguments)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Kind", "Kinds"]

Act = Callable[..., None]


@dataclass(frozen=True, repr=False)
class Kind:
    """A kind of step."""

    act: Act
    weight: int
    possible: Callable[[Any], bool]  # whether a machine can do it as it is now
    arguments: dict[str, Sequence[Any]]

    def __repr__(self) -> str:
        return self.act.__name__


class Kinds:
    """All that a machine has; the decorator that adds one."""

    def __init__(self) -> None:
        self._kinds: list[Kind] = []

    def __call__(
        self, weight: int, possible: Callable[[Any], bool], **arguments: Sequence[Any]
    ) -> Callable[[Act], Act]:
        """arguments: what there is to choose from, for each"""

        def add(act: Act) -> Act:
            self._kinds.append(Kind(act, weight, possible, arguments))
            return act

        return add

    def choose(
        self, machine: Any, number: int, numbers: Sequence[int]
    ) -> tuple[Kind, dict[str, Any]]:
        """The next step, and what it is given."""
        possible = [each for each in self._kinds if each.possible(machine)]
        chosen = _nth([each for each in possible for _ in range(each.weight)], number)
        given = zip(chosen.arguments.items(), numbers, strict=False)
        return chosen, {name: _nth(choices, each) for (name, choices), each in given}

    def __len__(self) -> int:
        return len(self._kinds)


def _nth(choices: Sequence[Any], number: int) -> Any:
    return choices[number % len(choices)]
