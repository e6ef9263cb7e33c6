"""The embedded device and the model of its payloads, side by side.

Here is how both do a step, and what must be so after it; the steps are those of
`tests/conformance/test_stateful_win32.py`.
"""

from __future__ import annotations

import random
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest

import extmem
from extmem import vk, win32
from extmem.drivers.embedded import foreign
from extmem.handles.kernel import ACCESS_READ
from extmem.handles.system import kernel
from extmem.handles.winerror import code_of
from tests.support.payload_model import MarkedStale, Memory, Model, Payload, ReadOnly, Refused
from tests.support.sharing import (
    HEAP12,
    IMAGE11_KMT_NV,
    IMAGE11_NV,
    KMT,
    KMT_NV,
    NT,
    NT_NV,
    TEXTURE11,
    TEXTURE11_KMT,
    Gpu,
    open_sections,
    unique_name,
)

__all__ = ["TYPES", "Machine"]

# On Windows the system lists the handles of all processes for it, which takes a while.
COUNT_EVERY = 10 if sys.platform == "win32" else 1

TYPES = {
    ("vulkan", "nt", "khr"): NT,
    ("vulkan", "kmt", "khr"): KMT,
    ("vulkan", "nt", "nv"): NT_NV,
    ("vulkan", "kmt", "nv"): KMT_NV,
    ("texture", "nt", "khr"): TEXTURE11,
    ("texture", "kmt", "khr"): TEXTURE11_KMT,
    ("texture", "nt", "nv"): IMAGE11_NV,
    ("texture", "kmt", "nv"): IMAGE11_KMT_NV,
    ("heap", "nt", "khr"): HEAP12,
}


class Machine:
    """The device, the model, and the steps that both take."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model = Model()
        first = Gpu("full")
        # Three devices of two instances; one without checks, where the driver itself refuses.
        self.gpus = [first, Gpu("full", beside=first), Gpu("off")]
        self.images = [self._images(gpu) for gpu in self.gpus]
        self.real: dict[Memory, tuple[int, Any]] = {}  # which device, and its VkDeviceMemory
        self.made: dict[Payload, foreign.Foreign] = {}
        self.closed: deque[int] = deque(maxlen=20)
        self.stale: deque[int] = deque(maxlen=20)  # numbers
        self.names = [unique_name() for _ in range(5)]
        self.handles = open_sections()
        self.log: deque[str] = deque(maxlen=30)
        self.kind = ""  # of the step that is taken
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    @staticmethod
    def _images(gpu: Gpu) -> dict[int, Any]:
        """What imports of textures are dedicated to, by handle type; they are never bound."""
        opted_in = vk.VkDedicatedAllocationImageCreateInfoNV
        found = {each: gpu.image(each) for each in (TEXTURE11, TEXTURE11_KMT)}
        for each in (IMAGE11_NV, IMAGE11_KMT_NV):
            external = vk.VkExternalMemoryImageCreateInfoNV(handleTypes=each)
            # NV's numbers are others' in the core: kept apart by their sign.
            found[-each] = gpu.image(0, external, opted_in(dedicatedAllocation=1))
        return found

    # -- together -------------------------------------------------------------------------------

    def both(self, mine: Callable[[], Any], device: Callable[[], Any], result: int) -> Any:
        """Do a step in the model and on the device. What both answered; None if both refused."""
        try:
            expected, refused = mine(), None
        except Refused as why:
            expected, refused = None, why
        if refused is None:
            return expected, device()
        self.refusals[self.kind] += 1
        if isinstance(refused, MarkedStale):
            result = vk.VK_ERROR_VALIDATION_FAILED
        try:
            device()
        except extmem.RuleViolation:
            pass
        except extmem.DriverError as error:
            assert error.result == result, f"{error}, where {refused!r}"  # noqa: PT017
        except TypeError as error:
            assert isinstance(refused, ReadOnly), f"{error}, where {refused!r}"  # noqa: PT017
        except OSError as error:
            assert code_of(error) == result, f"{error}, where {refused!r}"  # noqa: PT017
        else:
            raise AssertionError(f"the device allowed it, where {refused!r}")
        return None

    def say(self, text: str) -> None:
        self.log[-1] += " " + text

    def any_gpu(self) -> int:
        return self.random.randrange(len(self.gpus))

    def any_memory(self) -> Memory | None:
        return self.random.choice(self.model.memories() or [None])

    def any_handle(self) -> int | None:
        return self.random.choice(self.model.handles() or [None])

    def name_or_none(self) -> str | None:
        return self.random.choice([None, *self.names])

    # -- what must be so --------------------------------------------------------------------------

    def same_everywhere(self, payload: Payload) -> None:
        """All memory of a payload, and who made it, see the same bytes."""
        for memory in payload.memories:
            if memory.mappable:
                which, real = self.real[memory]
                assert self.gpus[which].read(real, 8) == payload.content
        if payload in self.made:
            assert bytes(self.made[payload].view[:8]) == payload.content

    def check_name(self, name: str) -> None:
        payload = self.model.named(name)
        known = payload is not None or name in self.model.squatted
        try:
            found = kernel().open_section(name, ACCESS_READ)
        except OSError as error:
            assert code_of(error) == 2, error  # noqa: PT017
            assert not known, f"the name {name} is gone"
            return
        try:
            assert known, f"the name {name} is still there"
            one = next(iter(payload.handles), 0) if payload else self.model.squatted[name]
            assert not one or win32.CompareObjectHandles(found, one)
        finally:
            kernel().close(found)

    def check(self, step: int) -> None:
        if step % COUNT_EVERY == 0:
            expected, found = self.model.open_handles(), open_sections() - self.handles
            assert found == expected, f"{found} handles are open, not {expected}"
        for name in self.names if step % 20 == 0 else [self.random.choice(self.names)]:
            self.check_name(name)
        if step % 20 == 0:
            for payload in self.model.payloads:
                self.same_everywhere(payload)
                for memory in payload.memories if payload.stale else []:
                    which, real = self.real[memory]
                    with pytest.raises(extmem.DriverError):
                        self.gpus[which].read(real, 1)

    def close(self) -> None:
        for gpu in reversed(self.gpus):
            gpu.__exit__(None, None, None)
