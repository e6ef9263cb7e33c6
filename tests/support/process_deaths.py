"""What processes are doing when something is killed, and what they are told of it afterwards."""

from __future__ import annotations

import os
import time
from typing import Any

from tests.support.nursery import Peer
from tests.support.payload_model import Memory, Refused
from tests.support.process_machine import Handle, World
from tests.support.process_pool import LOST
from tests.support.sharing import INVALID, UNKNOWN

__all__ = ["NOT_OPEN", "calls_of", "meets_the_next", "wait", "was_told"]

NOT_OPEN = 6  # ERROR_INVALID_HANDLE


def calls_of(
    world: World, peer: Peer, *, cut_off: bool
) -> list[tuple[Memory | None, tuple[Any, ...]]]:
    """What a process could be doing when it is killed, or the directory: nothing wrong.

    cut_off: with memory too whose directory ended
    """
    free = [each for each in ("Local\\a", "Local\\b") if world.model.named(each) is None]
    found: list[tuple[Memory | None, tuple[Any, ...]]] = [
        (None, ("export", "nt", "khr", True, each)) for each in (None, *free)
    ]
    found += [(None, ("export", "kmt", way, True, None)) for way in ("khr", "nv")]
    for memory in world.memories_of(peer):
        number, carrier = world.real[memory][1], memory.payload.carrier
        if cut_off or not memory.payload.cut_off:
            found.append((memory, ("free", number)))
        if memory.own is not None:
            found.append((memory, ("fetch", number, carrier, memory.export)))
        others = [x for x in memory.payload.memories if world.real[x][0] is not peer]
        if memory.mappable and memory.writable and others:
            found.append((memory, ("write", number, os.urandom(8).hex())))
    for pid, value in world.handles():
        if pid == peer.pid:
            found.append((None, ("close", value)))
            found.append((None, ("take", "nt", "nv", True, value, None)))
    for payload in world.model.payloads:
        if payload.name is not None and payload.open_handles:
            found.append((None, ("take", "nt", "khr", False, None, payload.name)))
        if payload.number and not payload.stale and not payload.cut_off:
            found.append((None, ("take", "kmt", "khr", False, payload.number, None)))
    return found


def was_told(world: World, peer: Peer, memory: Memory | None, call: tuple[Any, ...]) -> None:
    """It was done, or it was not, and there is an error that says so."""
    answer = peer.hear()
    if answer.kind != "done":
        assert call[0] not in ("free", "write"), answer
        if answer.kind == "OSError":
            assert answer.code in (LOST, NOT_OPEN), answer
        assert answer.kind in ("OSError", "DriverError", "RuleViolation"), answer
        return
    match call:
        case ("free", _):
            assert memory is not None
            del world.real[memory]
            world.model.free(memory)
        case ("write", _, data):
            assert memory is not None
            memory.payload.content = bytes.fromhex(data)
        case ("export", carrier, way, _, name):
            world.real[world.model.export(carrier, way, True, name)] = (peer, answer.value)
        case ("take", carrier, way, again, value, name):
            if name is not None:
                payload, write = world.model.named(name), True
            elif carrier == "kmt":
                payload, write = world.model.numbered(value), True
            else:
                payload = world.model.behind((peer.pid, value))
                write = payload.handles[peer.pid, value]
            assert payload is not None
            taken = world.model.take(payload, write, way, again)
            world.real[taken] = (peer, answer.value)


def meets_the_next(
    world: World, peer: Peer, how: int, dead: list[Handle], names: list[str]
) -> None:
    """What was open, named or numbered is refused, also with the call that finds that out."""
    values = [value for pid, value in dead if pid == peer.pid]
    refused: list[tuple[str, Any, int]] = [("take", ("nt", "khr", False, 1 << 28, None), 0)]
    refused += [("take", ("nt", "nv", True, each, None), 0) for each in values]
    refused += [("take", ("nt", "khr", False, None, each), 0) for each in names]
    refused += [("take", ("kmt", "nv", False, each, None), 0) for each in world.numbers]
    for memory in world.memories_of(peer):
        if memory.export and memory.payload.carrier == "nt":
            number = world.real[memory][1]
            refused.append(("fetch", (number, "nt", memory.export), 1))
    start = how % (len(refused) + 1)
    for at in (start, *range(len(refused) + 1)):
        if at == len(refused):
            answer = peer.ask("close", values[0] if values else 1 << 28)
            assert (answer.kind, answer.code) in (("OSError", LOST), ("OSError", NOT_OPEN))
            ended = "it ended while" if answer.code == LOST else "the directory ended once"
            assert ended in answer.value
            continue
        command, arguments, fetched = refused[at]
        why = Refused("the directory ended")
        result = UNKNOWN if fetched else INVALID
        answer = peer.ask(command, *arguments)
        world.is_refusal(peer, answer, why, int(result), by_rule=not fetched)


def wait(microseconds: int) -> None:
    """Without giving up the processor, which would be longer."""
    until = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < until:
        pass
