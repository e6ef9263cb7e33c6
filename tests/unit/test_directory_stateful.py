"""Sections, handles and names of the directory in any order, against a small model."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from extmem.handles.kernel import ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, Security
from extmem.handles.system import kernel as the_kernel
from extmem.handles.winerror import code_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hardware: needs Linux")

PAGE = 4096
READ, WRITE = 0x4, 0x2

NAMES = st.sampled_from([None, "a", "A", "Local\\a", "Global\\a", "b", "Local\\b"])
ACCESSES = st.sampled_from(
    [ACCESS_ALL, ACCESS_READ, ACCESS_WRITE, ACCESS_READ | ACCESS_WRITE, READ, 0]
)
BITS = {
    ACCESS_ALL: 0xF0007,
    ACCESS_READ: 0x20005,
    ACCESS_WRITE: 0x20003,
    ACCESS_READ | ACCESS_WRITE: 0x20007,
    READ: READ,
    0: 0,
}
# By descriptor, what this user may have, with a name and without.
RIGHTS = {
    None: (0xF001F, 0x60000),
    "D:": (0x60000, 0x60000),
    "D:(A;;GA;;;WD)": (0xF001F, 0xF001F),
    "D:(A;;GR;;;WD)": (0x60005, 0x60005),
}


def full(name: str) -> str:
    return name if "\\" in name else f"Local\\{name}"


@dataclass(eq=False)
class Model:
    """One section, as it should be."""

    size: int
    name: str | None
    rights: int
    content: bytearray = field(default_factory=lambda: bytearray(1))
    handles: int = 0
    sealed: bool = False  # read when nobody could write any more: so it stays


class Kernels(RuleBasedStateMachine):
    handles = Bundle("handles")  # numbers, open or closed by now
    views = Bundle("views")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = the_kernel()
        self.before = self.kernel.count_handles()
        self.open: dict[int, tuple[Model, int]] = {}
        self.names: dict[str, Model] = {}
        self.mapped: dict[int, tuple[Model, int, bool]] = {}

    def expect(self, code: int, call: object) -> int | None:
        """Call, and get its answer or this error."""
        assert callable(call)
        try:
            result: int = call()
        except OSError as error:
            assert code_of(error) == code, error  # noqa: PT017
            return None
        assert code == 0, f"error {code} was expected"
        return result

    def refused(self, model: Model, bits: int) -> bool:
        return bool(bits & ~model.rights or (model.sealed and bits & WRITE))

    def opened(self, handle: int, model: Model, bits: int) -> int:
        assert handle % 4 == 0
        assert handle not in self.open
        self.open[handle] = (model, bits)
        model.handles += 1
        return handle

    def closed(self, handle: int) -> None:
        model, _ = self.open.pop(handle)
        model.handles -= 1
        if not model.handles and model.name:
            del self.names[model.name]

    @rule(
        target=handles,
        pages=st.integers(1, 3),
        name=NAMES,
        access=ACCESSES,
        descriptor=st.sampled_from(list(RIGHTS)),
    )
    def create(self, pages: int, name: str | None, access: int, descriptor: str | None) -> object:
        rights = RIGHTS[descriptor][name is None]
        other = self.names.get(full(name)) if name else None
        code = 0 if other is None else 5 if 0xF0007 & ~other.rights else 183
        handle = self.expect(
            code,
            lambda: self.kernel.create_section(
                pages * PAGE, name=name, access=access, security=Security(descriptor)
            ),
        )
        if handle is None:
            return multiple()
        model = Model(pages * PAGE, full(name) if name else None, rights)
        if model.name:
            self.names[model.name] = model
        return self.opened(handle, model, BITS[access])

    @rule(target=handles, name=NAMES.filter(bool), access=ACCESSES)
    def open_by_name(self, name: str, access: int) -> object:
        model = self.names.get(full(name))
        code = 2 if model is None else 5 if self.refused(model, BITS[access]) else 0
        handle = self.expect(code, lambda: self.kernel.open_section(name, access))
        if handle is None or model is None:
            return multiple()
        return self.opened(handle, model, BITS[access])

    @rule(
        target=handles,
        handle=handles,
        access=st.none() | ACCESSES,
        close=st.booleans(),
        inherit=st.booleans(),
    )
    def duplicate(self, handle: int, access: int | None, close: bool, inherit: bool) -> object:
        model, bits = self.open.get(handle, (None, 0))
        wanted = bits if access is None else BITS[access]
        code = 6 if model is None else 5 if wanted & ~bits and self.refused(model, wanted) else 0
        new = self.expect(
            code,
            lambda: self.kernel.duplicate(
                handle, access=access, inherit=inherit, close_source=close
            ),
        )
        if new is not None and model is not None:
            self.opened(new, model, wanted)
            assert self.kernel.flags(new) == inherit
        if close and model is not None:
            self.closed(handle)
        return multiple() if new is None else new

    @rule(handle=handles)
    def close(self, handle: int) -> None:
        code = 0 if handle in self.open else 6
        self.expect(code, lambda: self.kernel.close(handle))
        if not code:
            self.closed(handle)

    @rule(target=views, handle=handles, write=st.booleans(), pages=st.integers(1, 3))
    def map(self, handle: int, write: bool, pages: int) -> object:
        model, bits = self.open.get(handle, (None, 0))
        right = WRITE if write else READ
        fits = model is not None and right & bits and pages * PAGE <= model.size
        code = 6 if model is None else 0 if fits else 5
        address = self.expect(
            code, lambda: self.kernel.map_section(handle, pages * PAGE, write=write)
        )
        if address is None or model is None:
            return multiple()
        self.mapped[address] = (model, pages * PAGE, write)
        if not write and not any(each is model and has & WRITE for each, has in self.open.values()):
            model.sealed = True
        return address

    @rule(address=views)
    def unmap(self, address: int) -> None:
        code = 0 if address in self.mapped else 487
        self.expect(code, lambda: self.kernel.unmap_section(address, PAGE))
        self.mapped.pop(address, None)

    @rule(address=views, value=st.integers(0, 255))
    def write(self, address: int, value: int) -> None:
        model, _, writable = self.mapped.get(address, (None, 0, False))
        if model is not None and writable:
            ctypes.memset(address, value, 1)
            model.content[0] = value

    @rule(first=handles, second=handles)
    def compare(self, first: int, second: int) -> None:
        known = first in self.open and second in self.open
        same = self.expect(0 if known else 6, lambda: self.kernel.same_object(first, second))
        if known:
            assert same == (self.open[first][0] is self.open[second][0])

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        assert self.kernel.count_handles() == self.before + len(self.open)
        for handle, (model, bits) in self.open.items():
            info = self.kernel.info(handle)
            assert (info.access, info.name) == (bits, model.name)
            assert info.handle_count == model.handles
        for address, (model, _, _) in self.mapped.items():
            assert ctypes.string_at(address, 1) == bytes(model.content)

    def teardown(self) -> None:
        for address in list(self.mapped):
            self.kernel.unmap_section(address, 0)
        for handle in list(self.open):
            self.kernel.close(handle)
        assert self.kernel.count_handles() == self.before


TestKernels = Kernels.TestCase
TestKernels.settings = settings(
    max_examples=40,  # of 50 steps each: 2,000
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
