"""When shared memory lives, on one page: payloads, memory objects, NT handles, KMT numbers, names.

This is the specification that the embedded device is compared with, step by step, in
`tests/conformance/test_stateful_win32.py`, and with several processes in
`test_stateful_processes.py` beside it. Its methods change the model as a call changes the world, or
raise `Refused` and change nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Key", "MarkedStale", "Memory", "Model", "Payload", "Refused"]

Carrier = Literal["nt", "kmt"]
Way = Literal["khr", "nv"]
Key = Hashable  # an NT handle: its number or, where there are several processes, whose and which


class Refused(Exception):
    """The call fails, and changes nothing."""


class ReadOnly(Refused):
    """It fails in Python: the view is for reading."""


class MarkedStale(Refused):
    """It fails because the owner of a KMT number is gone, which is not the handle's fault."""


@dataclass(eq=False)
class Payload:
    """The bytes behind memory objects. References keep it, a number or a name does not."""

    carrier: Carrier
    maker: str  # "vulkan", or what another API calls it
    name: str | None = None
    content: bytes = bytes(8)
    number: int = 0  # its KMT number, once it is known
    owner_lives: bool = True
    cut_off: bool = False  # the directory ended that had its handles, its name and its number
    memories: list[Memory] = field(default_factory=list)
    handles: dict[Key, bool] = field(default_factory=dict)  # open NT handles: may they write?
    held: bool | None = None  # the handle that another API's resource has of itself
    # Where the directory stands in for Windows: once the pages were looked at through a handle to
    # read alone, while no handle to write was open, nobody gets one any more.
    readers_only: bool = False  # that may have happened
    sealed: bool = False  # it has

    @property
    def has_writers(self) -> bool:
        """Whether any open handle may write, the application's or the device's."""
        own = any(memory.own for memory in self.memories)
        return any(self.handles.values()) or own or bool(self.held)

    @property
    def stale(self) -> bool:
        """A number dies with its owner, whoever has imported by it."""
        return self.carrier == "kmt" and not self.owner_lives

    @property
    def open_handles(self) -> int:
        """The application's, those that memory has and nobody fetched, and a KMT owner's."""
        own = sum(memory.own is not None for memory in self.memories) + (self.held is not None)
        owners = self.carrier == "kmt" and self.owner_lives and not self.cut_off
        return len(self.handles) + own + owners


@dataclass(eq=False)
class Memory:
    """A VkDeviceMemory."""

    payload: Payload
    owner: bool  # it made the payload
    writable: bool  # what its handle granted; views of pages to read alone are read-only
    export: Way | None = None  # through which extension handles can be fetched
    own: bool | None = None  # its handle, until it is fetched: may it write? NV keeps it for good
    first: Key = 0  # the NT handle that was fetched from it

    @property
    def mappable(self) -> bool:
        return not self.payload.stale


class Model:
    """Everything that there is."""

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self.squatted: dict[str, int] = {}  # names that objects of somebody else have

    # -- what is so

    def memories(self) -> list[Memory]:
        return [memory for payload in self.payloads for memory in payload.memories]

    def handles(self) -> list[Key]:
        return [handle for payload in self.payloads for handle in payload.handles]

    def open_handles(self) -> int:
        return sum(each.open_handles for each in self.payloads) + len(self.squatted)

    def named(self, name: str) -> Payload | None:
        """A name lives as long as an NT handle of its payload, and not as long as the payload."""
        alive = (each for each in self.payloads if each.name == name and each.open_handles)
        return next(alive, None)

    def behind(self, handle: Key) -> Payload:
        for payload in self.payloads:
            if handle in payload.handles:
                return payload
        raise Refused(f"{handle} is not open")

    def numbered(self, number: int) -> Payload:
        for payload in self.payloads:
            owned = payload.carrier == "kmt" and payload.owner_lives and not payload.cut_off
            if payload.number == number and owned:
                return payload
        raise Refused(f"nobody owns the number {number:#x}")

    # -- what is done

    def free_name(self, name: str | None) -> None:
        if name is not None and (self.named(name) is not None or name in self.squatted):
            raise Refused(f"the name {name} is taken")

    def export(self, carrier: Carrier, way: Way, write: bool, name: str | None) -> Memory:
        """Memory that is made to be shared. It has its name, and a handle of it, from now on."""
        self.free_name(name)
        payload = Payload(carrier, "vulkan", name)
        memory = Memory(payload, True, True, way, write if carrier == "nt" else None)
        payload.memories.append(memory)
        self.payloads.append(payload)
        return memory

    def made_elsewhere(self, carrier: Carrier, maker: str, name: str | None) -> Payload:
        self.free_name(name)
        payload = Payload(carrier, maker, name, held=True if carrier == "nt" else None)
        self.payloads.append(payload)
        return payload

    def released(self, payload: Payload) -> None:
        """The API that made it gives it up."""
        payload.held, payload.owner_lives = None, False
        self._forget(payload)

    def fetch(self, memory: Memory, way: Way, checked: bool) -> bool | None:
        """Fetch a handle: whether it may write; None for a number, which is no handle."""
        if memory.export != way:
            raise Refused("it is not exported so")
        if memory.payload.carrier == "kmt":
            if memory.payload.stale:
                raise MarkedStale
            if memory.payload.cut_off:
                raise Refused("nobody would find anything by the number")
            return None
        if memory.own is None:  # KHR's second time
            if checked or memory.first not in memory.payload.handles:
                raise Refused("an NT handle is fetched once")
            return memory.payload.handles[memory.first]  # a duplicate of the first
        write = memory.own
        if way == "khr":
            memory.own = None
        return write

    def fetched(self, memory: Memory, handle: Key, write: bool) -> None:
        memory.first = memory.first or handle
        memory.payload.handles[handle] = write

    def duplicate(self, handle: Key, write: bool | None) -> bool:
        """Whether the duplicate may write. More than the original only of what has a name: whoever
        may open it by that could have opened it with more."""
        payload = self.behind(handle)
        has = payload.handles[handle]
        if write and not has and payload.name is None:
            raise Refused("it cannot be widened")
        return has if write is None else write

    def close(self, handle: Key) -> None:
        payload = self.behind(handle)
        del payload.handles[handle]
        self._forget(payload)

    def take(self, payload: Payload, write: bool, way: Way, again: bool) -> Memory:
        """Import. What comes by an NT handle or a name is a reference, what comes by number not."""
        if again and payload.maker != "vulkan":
            raise Refused("what other APIs made is not exported")
        own = write if again and payload.carrier == "nt" else None
        memory = Memory(payload, False, write, way if again else None, own)
        payload.memories.append(memory)
        return memory

    def free(self, memory: Memory) -> None:
        memory.payload.memories.remove(memory)
        if memory.owner:
            memory.payload.owner_lives = False
        self._forget(memory.payload)

    def killed(self, memory: Memory) -> None:
        """Its process was. Importers by its number notice that as long as the number is kept."""
        if memory.payload.cut_off:
            memory.owner = False
        self.free(memory)

    def directory_ended(self) -> None:
        """Handles, names and numbers are gone, and all memory that was made or imported stays."""
        for payload in list(self.payloads):
            payload.cut_off, payload.name, payload.held = True, None, None
            payload.handles.clear()
            for memory in payload.memories:
                memory.own = None
            self._forget(payload)

    def _forget(self, payload: Payload) -> None:
        if not payload.memories and not payload.open_handles:
            self.payloads.remove(payload)
