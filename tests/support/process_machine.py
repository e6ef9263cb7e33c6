"""Processes that share memory, and the model of what they have, side by side.

Here is how a step is done in a process and in the model, and what must be so after each; the steps
are those of `tests/conformance/test_stateful_processes.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from extmem import vk
from extmem.handles.directory.protocol import unpack_text
from tests.support.directory import services_of
from tests.support.nursery import Answer, Peer
from tests.support.payload_model import MarkedStale, Memory, Model, Payload, ReadOnly, Refused
from tests.support.peer_side import totals
from tests.support.process_pool import Pool
from tests.support.sharing import INVALID

__all__ = ["Handle", "World"]

Handle = tuple[int, int]  # whose, by process id, and its number there


class World:
    """What the processes have, and what they should have."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.model = Model()
        self.real: dict[Memory, tuple[Peer, int]] = {}  # whose, and its number there
        self.doors: dict[tuple[Peer, Peer], int] = {}  # handles of processes, by holder and target
        self.old_doors: list[tuple[Peer, int, int]] = []  # of those killed: holder, handle, target
        self.closed: deque[Handle] = deque(maxlen=10)
        self.numbers: deque[int] = deque(maxlen=10)  # that were known once
        self.refusals: Counter[str] = Counter()
        self.before = totals()

    # -- who and what there is --------------------------------------------------------------------

    @property
    def peers(self) -> list[Peer]:
        return self.pool.peers

    def peer(self, pid: int) -> Peer:
        (found,) = (each for each in self.peers if each.pid == pid)
        return found

    def handles(self) -> list[Handle]:
        return [each for each in self.model.handles() if isinstance(each, tuple)]

    def memories_of(self, peer: Peer) -> list[Memory]:
        return [each for each in self.model.memories() if self.real[each][0] is peer]

    def door(self, holder: Peer, target: Peer) -> int | None:
        """A handle of a process, kept for the next time; None for its own."""
        if holder is target:
            return None
        if (holder, target) not in self.doors:
            answer = holder.ask("open_process", target.pid)
            assert answer.kind == "done", answer
            self.doors[holder, target] = answer.value
        return self.doors[holder, target]

    # -- together ---------------------------------------------------------------------------------

    def both(
        self, kind: str, mine: Callable[[], Any], peer: Peer, call: tuple[Any, ...], result: int
    ) -> Any:
        """Do a step in the model and in a process. What both answered; None if both refused."""
        try:
            expected, refused = mine(), None
        except Refused as why:
            expected, refused = None, why
        answer = peer.ask(*call)
        if refused is None:
            assert answer.kind == "done", f"{peer}: {answer}"
            return expected, answer.value
        self.refusals[kind] += 1
        self.is_refusal(peer, answer, refused, result, by_rule=kind == "take")
        return None

    def is_refusal(
        self, peer: Peer, answer: Answer, why: Refused, result: int, *, by_rule: bool = False
    ) -> None:
        """The right error: a broken rule where rules are checked, else this code."""
        said = f"{peer}: {answer}, where {why!r}"
        if isinstance(why, MarkedStale):
            result = vk.VK_ERROR_VALIDATION_FAILED
        match answer.kind:
            case "RuleViolation":
                assert peer.checks == "full", said
            case "TypeError":
                assert isinstance(why, ReadOnly), said
            case "DriverError" | "OSError":
                assert answer.code == int(result), said
                assert answer.kind == "OSError" or peer.checks == "off" or not by_rule, said
            case _:
                raise AssertionError(said)

    def export(self, peer: Peer, memory: Callable[[], Memory], call: tuple[Any, ...]) -> None:
        done = self.both("export", memory, peer, ("export", *call), INVALID)
        if done:
            self.real[done[0]] = (peer, done[1])

    def take(
        self,
        peer: Peer,
        found: Callable[[], Payload],
        write: bool,
        way: Any,
        again: bool,
        *,
        carrier: str,
        handle: int | None = None,
        name: str | None = None,
    ) -> None:
        done = self.both(
            "take",
            lambda: self.model.take(found(), write, way, again),
            peer,
            ("take", carrier, way, again, handle, name),
            INVALID,
        )
        if done:
            memory, number = done
            self.real[memory] = (peer, number)
            assert self.read(memory) == memory.payload.content, "this is other memory"

    def read(self, memory: Memory) -> bytes:
        peer, number = self.real[memory]
        answer = peer.ask("read", [number])
        assert answer.kind == "done", f"{peer}: {answer}"
        return bytes.fromhex(answer.value[0])

    # -- what must be so --------------------------------------------------------------------------

    def same_everywhere(self, payloads: list[Payload]) -> None:
        """All memory of a payload has the same bytes, in whatever process; the stale has none."""
        asked: dict[Peer, list[Memory]] = {}
        for payload in payloads:
            for memory in payload.memories:
                peer, number = self.real[memory]
                if memory.mappable:
                    asked.setdefault(peer, []).append(memory)
                else:
                    answer = peer.ask("read", [number])
                    failed = (answer.kind, answer.code)
                    assert failed == ("DriverError", int(vk.VK_ERROR_MEMORY_MAP_FAILED)), answer
        for peer, memories in asked.items():
            answer = peer.ask("read", [self.real[each][1] for each in memories])
            assert answer.kind == "done", f"{peer}: {answer}"
            assert answer.value == [each.payload.content.hex() for each in memories]

    def check(self) -> None:
        """The directory has the handles and names that it should, of whom it should."""
        expected = []
        for payload in self.model.payloads:
            if not payload.open_handles:
                continue
            holders: Counter[int] = Counter(pid for pid, _ in payload.handles)  # type: ignore[misc]
            for memory in payload.memories:
                owns_number = payload.carrier == "kmt" and memory.owner
                if memory.own is not None or owns_number:
                    holders[self.real[memory][0].pid] += 1
            known = payload.name or (payload.number and f"Local\\extmem-kmt-{payload.number}")
            expected.append((payload.carrier == "kmt", known or None, dict(holders)))
        found: list[Any] = []
        for listed in self.pool.kernel.listing():
            name = None if listed.name is None else unpack_text(listed.name)
            holding = {each.process_id: each.handles for each in listed.holders}
            found.append((listed.kmt, name, holding))
        for index, (kmt, known, _) in enumerate(expected[: len(found)]):
            if kmt and known is None and found[index][1] is not None:  # nobody fetched it yet
                expected[index] = (kmt, found[index][1], expected[index][2])
        assert found == expected, f"there is {found}, and not {expected}"

    # -- deaths -----------------------------------------------------------------------------------

    def killed(self, peer: Peer) -> None:
        """A process is dead: what it had is gone, and nothing else. Another takes its place."""
        orphaned = []
        for memory in self.memories_of(peer):
            del self.real[memory]
            self.model.killed(memory)
            if memory.payload.stale:
                orphaned.append(memory.payload)
        for key in self.handles():
            if key[0] == peer.pid:
                self.model.close(key)
        for (holder, target), door in list(self.doors.items()):
            if peer in (holder, target):
                del self.doors[holder, target]
                if holder is not peer:
                    self.old_doors.append((holder, door, peer.pid))
        self.old_doors = [each for each in self.old_doors if each[0] is not peer]
        self.closed = deque((each for each in self.closed if each[0] != peer.pid), maxlen=10)
        self.pool.replace(peer)
        # Importers by a number are looked at now: who has not noticed that its owner was killed
        # cannot learn it from another directory.
        self.same_everywhere(orphaned)

    def directory_ended(self) -> None:
        """All that is left is memory."""
        self.model.directory_ended()
        self.doors.clear()
        self.old_doors.clear()
        self.closed.clear()

    def end(self) -> None:
        """Let everything go, and look whether that is so."""
        for memory in list(self.real):
            peer, number = self.real.pop(memory)
            self.model.free(memory)
            assert peer.ask("free", number).kind == "done"
        for key in self.handles():
            self.model.close(key)
            assert self.peer(key[0]).ask("close", key[1]).kind == "done"
        for (holder, _), door in self.doors.items():
            assert holder.ask("close", door).kind == "done"
        for holder, door, _ in self.old_doors:
            assert holder.ask("close", door).kind == "done"
        assert self.model.payloads == []
        for peer in self.peers:
            answer = peer.ask("left")
            assert answer.value == {}, f"{peer} has, and had: {answer}"
        kernel = self.pool.kernel
        assert kernel.listing() == []
        counts = kernel.status().counts
        nothing = dict.fromkeys(counts, 0)
        there = {key: counts[key] for key in ("processes", "connections")}
        assert counts == {**nothing, **there}
        assert there["processes"] == len(self.peers) + 1, there
        assert services_of(self.pool.folder) == [self.pool.service]
        assert self.pool.nursery.children() == sorted(each.pid for each in self.peers)
        assert totals() == self.before
