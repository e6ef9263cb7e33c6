"""Memory, handles, numbers and names of several processes in any order, some of which are killed.

    EXTMEM_TEST_STEPS=100000 ./test tests/conformance/test_stateful_processes.py -s

Each step is done in one of four processes and in `payload_model.Model`. Both must agree on whether
it succeeds, on what every process sees in its memory, and on the handles and names that the
directory has afterwards. Two of the processes check rules, and two leave it to the device.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import StopTest
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from extmem import vk
from tests.support.directory import Place, entered
from tests.support.nursery import Peer
from tests.support.payload_model import Carrier, Memory, Payload, ReadOnly, Refused
from tests.support.process_deaths import NOT_OPEN, calls_of, meets_the_next, wait, was_told
from tests.support.process_machine import Handle, World
from tests.support.process_pool import Pool, open_pool
from tests.support.sharing import UNKNOWN
from tests.support.weighted import Kinds

STEPS = int(os.environ.get("EXTMEM_TEST_STEPS", "500"))
SEED = int(os.environ.get("EXTMEM_TEST_SEED", "0")) or random.randrange(1, 1 << 32)
_STEPS_OF_AN_EXAMPLE = 50
_DENIED, _NO_PROCESS = 5, 87

NUMBER = st.integers(0, (1 << 16) - 1)
ANY = range(1 << 16)  # which of those that there are, and what to write
NAMES = ["Local\\a", "Local\\b", "Local\\c"]
WAYS = ["khr", "nv"]
MAYBE = [False, True]
SELDOM = [False] * 9 + [True]
ACCESS = [None, None, False, True]  # None: as the handle has it
MICROSECONDS = range(1500)

kind = Kinds()
_counts: Counter[str] = Counter()
_refusals: Counter[str] = Counter()


class Steps(RuleBasedStateMachine):
    """What is done."""

    pool: Pool  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.pool)
        self.first_service = self.pool.service
        self.model = self.world.model

    @rule(number=NUMBER, numbers=st.tuples(*[NUMBER] * 5))
    def step(self, number: int, numbers: tuple[int, ...]) -> None:
        chosen, arguments = kind.choose(self, number, numbers)
        self.pool.nursery.log.append(f"step: {chosen}")
        _counts[str(chosen)] += 1
        if _counts.total() % 10_000 == 0:
            print(f"{_counts.total()} steps", flush=True)
        chosen.act(self, **arguments)

    # -- what there is to choose from -------------------------------------------------------------

    def who(self, number: int) -> Peer:
        return self.world.peers[number % len(self.world.peers)]

    def memory(self, number: int) -> Memory:
        found = self.model.memories()
        return found[number % len(found)]

    def handle(self, number: int) -> Handle:
        found = self.world.handles()
        return found[number % len(found)]

    def has_memory(self) -> bool:
        return bool(self.world.real)

    def has_handles(self) -> bool:
        return bool(self.model.handles())

    def has_room(self) -> bool:
        """The world stays small enough that things meet."""
        return len(self.world.real) < 14 and len(self.model.handles()) < 20

    def has_handles_and_room(self) -> bool:
        return self.has_handles() and self.has_room()

    def has_numbers_and_room(self) -> bool:
        return bool(self.world.numbers) and self.has_room()

    def has_used_handles(self) -> bool:
        return bool(self.world.closed) or self.has_handles()

    def has_old_doors(self) -> bool:
        return bool(self.world.old_doors)

    def has_its_first_directory(self) -> bool:
        """Starting one takes longer than a hundred other steps."""
        return self.pool.service == self.first_service

    # -- memory -----------------------------------------------------------------------------------

    @kind(50, has_room, who=ANY, kmt=SELDOM[6:], way=WAYS, write=MAYBE, name=[None, *NAMES])
    def export(self, who: int, kmt: bool, way: Any, write: bool, name: str | None) -> None:
        carrier: Carrier = "kmt" if kmt else "nt"
        if kmt or way == "nv":
            name = None
        # What is read alone under a name is sealed one day: test_directory_processes has that.
        write = write or kmt or name is not None
        self.world.export(
            self.who(who),
            lambda: self.model.export(carrier, way, write, name),
            (carrier, way, write, name),
        )

    @kind(50, has_memory, which=ANY, other_way=SELDOM)
    def fetch(self, which: int, other_way: bool) -> None:
        memory = self.memory(which)
        payload = memory.payload
        peer, number = self.world.real[memory]
        way = memory.export or "khr"
        if other_way:
            way = "nv" if way == "khr" else "khr"
        done = self.world.both(
            "fetch",
            lambda: self.model.fetch(memory, way, peer.checks == "full"),
            peer,
            ("fetch", number, payload.carrier, way),
            UNKNOWN,
        )
        if not done:
            return
        write, value = done
        if write is None:
            assert payload.number in (0, value), "the number is another"
            payload.number = value
            self.world.numbers.append(value)
        else:
            self.model.fetched(memory, (peer.pid, value), write)

    @kind(56, has_memory, which=ANY)
    def free(self, which: int) -> None:
        memory = self.memory(which)
        peer, number = self.world.real.pop(memory)
        self.world.both("free", lambda: self.model.free(memory), peer, ("free", number), 0)

    @kind(60, has_memory, which=ANY, what=ANY)
    def write(self, which: int, what: int) -> None:
        data = random.Random(what).randbytes(8)
        memory = self.memory(which)
        peer, number = self.world.real[memory]

        def mine() -> None:
            if not memory.mappable:
                raise Refused("it is stale")
            if not memory.writable:
                raise ReadOnly("its handle granted reading alone")
            memory.payload.content = data

        result = vk.VK_ERROR_MEMORY_MAP_FAILED
        self.world.both("write", mine, peer, ("write", number, data.hex()), result)
        self.world.same_everywhere([memory.payload])

    # -- imports ----------------------------------------------------------------------------------

    @kind(60, has_handles_and_room, which=ANY, way=WAYS, again=SELDOM)
    def take_handle(self, which: int, way: Any, again: bool) -> None:
        pid, value = key = self.handle(which)
        payload = self.model.behind(key)
        write = payload.handles[key]
        peer = self.world.peer(pid)
        self.world.take(peer, lambda: payload, write, way, again, carrier="nt", handle=value)

    @kind(32, has_room, who=ANY, name=NAMES, again=SELDOM)
    def take_name(self, who: int, name: str, again: bool) -> None:

        def found() -> Payload:
            payload = self.model.named(name)
            if payload is None:
                raise Refused(f"nobody has the name {name}")
            return payload

        self.world.take(self.who(who), found, True, "khr", again, carrier="nt", name=name)

    @kind(36, has_numbers_and_room, who=ANY, which=ANY, way=WAYS, again=SELDOM)
    def take_number(self, who: int, which: int, way: Any, again: bool) -> None:
        """One that was fetched once; its owner may be gone since."""
        number = self.world.numbers[which % len(self.world.numbers)]
        self.world.take(
            self.who(who),
            lambda: self.model.numbered(number),
            True,
            way,
            again,
            carrier="kmt",
            handle=number,
        )

    @kind(20, has_used_handles, who=ANY, which=ANY, way=WAYS, what=["take", "close", "duplicate"])
    def use_what_is_no_handle(self, who: int, which: int, way: Any, what: str) -> None:
        """One of another process, or one that was closed."""
        wrong = [*self.world.closed, *self.world.handles()]
        value, peer = wrong[which % len(wrong)][1], self.who(who)
        if (peer.pid, value) in self.world.handles():
            return  # its own
        if what == "take":

            def nothing() -> Payload:
                raise Refused(f"{peer} has no handle {value:#x}")

            self.world.take(peer, nothing, True, way, False, carrier="nt", handle=value)
            return
        call = (what, None, value, None, None, False) if what == "duplicate" else (what, value)
        answer = peer.ask(*call)
        assert (answer.kind, answer.code) == ("OSError", NOT_OPEN), answer

    # -- handles ----------------------------------------------------------------------------------

    @kind(60, has_handles_and_room, which=ANY, by_whom=ANY, whither=ANY, write=ACCESS, close=MAYBE)
    def duplicate(
        self, which: int, by_whom: int, whither: int, write: bool | None, close: bool
    ) -> None:
        """From any process into any, by any."""
        key = self.handle(which)
        source, receiver, by = self.world.peer(key[0]), self.who(whither), self.who(by_whom)
        payload = self.model.behind(key)
        if payload.name is not None:
            write = None  # see export
        doors = [self.world.door(by, source), self.world.door(by, receiver)]
        done = self.world.both(
            "duplicate",
            lambda: self.model.duplicate(key, write),
            by,
            ("duplicate", doors[0], key[1], doors[1], write, close),
            _DENIED,
        )
        if done:
            granted, value = done
            payload.handles[receiver.pid, value] = granted
        if close:  # whatever came of it, as on Windows
            self.model.close(key)
            self.world.closed.append(key)

    @kind(40, has_handles, which=ANY)
    def close(self, which: int) -> None:
        key = self.handle(which)
        call = ("close", key[1])
        self.world.both("close", lambda: self.model.close(key), self.world.peer(key[0]), call, 0)
        self.world.closed.append(key)

    @kind(30, has_old_doors)
    def reach_a_dead_one(self) -> None:
        """Through the handle of a process that was killed, and by its number."""
        holder, door, pid = self.world.old_doors.pop()
        for key in self.world.handles():
            if key[0] == holder.pid:
                answer = holder.ask("duplicate", None, key[1], door, None, False)
                assert (answer.kind, answer.code) == ("OSError", _DENIED), answer
                assert "has ended" in answer.value
        answer = holder.ask("open_process", pid)
        assert (answer.kind, answer.code) == ("OSError", _NO_PROCESS), answer
        assert holder.ask("close", door).kind == "done"

    # -- deaths -----------------------------------------------------------------------------------

    @kind(6, has_memory, who=ANY)
    def kill(self, who: int) -> None:
        peer = self.who(who)
        os.kill(peer.pid, signal.SIGKILL)
        self.world.killed(peer)

    @kind(10, has_memory, who=ANY, what=ANY, delay=MICROSECONDS)
    def kill_in_the_middle(self, who: int, what: int, delay: int) -> None:
        peer = self.who(who)
        calls = calls_of(self.world, peer, cut_off=False)
        memory, call = calls[what % len(calls)]
        peer.tell(*call)
        wait(delay)
        os.kill(peer.pid, signal.SIGKILL)
        self.world.killed(peer)
        if memory is None or call[0] != "write":
            return
        for survivor in memory.payload.memories:
            if survivor.mappable:  # whether it came to that, nobody knows
                found = self.world.read(survivor)
                assert found in (memory.payload.content, bytes.fromhex(call[2]))
                memory.payload.content = found
                return

    @kind(1, has_its_first_directory, who=ANY, what=ANY, delay=MICROSECONDS, first=ANY)
    def kill_directory(self, who: int, what: int, delay: int, first: int) -> None:
        """In the middle of something, and every process meets the next one in its own way."""
        peer, dead = self.who(who), self.world.handles()
        names = [each.name for each in self.model.payloads if each.name]
        calls = calls_of(self.world, peer, cut_off=True)
        memory, call = calls[what % len(calls)]
        peer.tell(*call)
        wait(delay)
        self.world.pool.kill_directory()
        was_told(self.world, peer, memory, call)
        self.world.directory_ended()
        for turn in range(4):
            each = self.who(first + turn)
            meets_the_next(self.world, each, first >> turn, dead, names)
        self.world.pool.meet_directory()
        self.world.same_everywhere(self.model.payloads)

    # -- always -----------------------------------------------------------------------------------

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        error = sys.exc_info()[1]  # of the step, if it failed
        try:
            if error is None or isinstance(error, StopTest):
                self.world.same_everywhere(self.model.payloads)
                self.world.end()
                _refusals.update(self.world.refusals)
                return
        except Exception as problem:
            error = problem
            raise
        finally:
            if error is not None and not isinstance(error, StopTest):
                self.tell_of(error)
                self.pool.renew()

    def tell_of(self, error: BaseException) -> None:
        """Once: what was killed at which moment is not repeated, and hypothesis may lose it."""
        log = self.pool.nursery.log
        if log.maxlen:
            last = "\n  ".join(log)
            print(f"\n{error!r}\nEXTMEM_TEST_SEED={SEED}, and the last steps were:\n  {last}")
            self.pool.nursery.log = deque(maxlen=0)


@pytest.fixture
def pool(used_before: None) -> Iterator[Pool]:
    with entered(Place()) as place, open_pool(place) as made:
        yield made


# If it fails, hypothesis looks for fewer steps for up to five minutes.
@pytest.mark.timeout(max(600, STEPS // 20))
def test_any_order_of_steps_in_several_processes(pool: Pool) -> None:
    machine: Callable[[], Steps] = seed(SEED)(type("Steps", (Steps,), {"pool": pool}))
    begun = time.monotonic()
    print(f"\nEXTMEM_TEST_SEED={SEED}")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, STEPS // _STEPS_OF_AN_EXAMPLE),
            stateful_step_count=_STEPS_OF_AN_EXAMPLE,
            deadline=None,
            database=None,  # what was killed at which moment is not in it
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    took = time.monotonic() - begun
    print(f"{_counts.total()} steps in {took:.1f} s; killed: {dict(pool.killed)}; by kind:")
    for each, count in _counts.most_common():
        print(f"  {each} {count}")
    print(f"refused by both: {dict(_refusals)}")
    # Where it was long enough, everything has come up.
    assert STEPS < 10000 or len(_counts) == len(kind)
