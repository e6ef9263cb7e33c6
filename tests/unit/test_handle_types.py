"""The table of handle types against the specification's constants and its own promises."""

from __future__ import annotations

import pytest

from extmem import vk
from extmem.handle_types import (
    FENCE,
    MEMORY,
    MEMORY_NV,
    SEMAPHORE,
    HandleType,
    core_of,
    memory_type,
    names_of,
    nv_of,
)

BITS = {
    "memory": "VK_EXTERNAL_MEMORY_HANDLE_TYPE_{}_BIT",
    "semaphore": "VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_{}_BIT",
    "fence": "VK_EXTERNAL_FENCE_HANDLE_TYPE_{}_BIT",
}
EVERY = (*MEMORY, *MEMORY_NV, *SEMAPHORE, *FENCE)


def constant(each: HandleType) -> int:
    name = each.name.upper()
    suffix = "_NV" if name.endswith("_NV") else ""
    spelled = BITS[each.object].format(name.removesuffix("_NV")) + suffix
    for spelling in (spelled, spelled + "_EXT"):
        if hasattr(vk, spelling):
            return int(getattr(vk, spelling))
    raise AssertionError(f"no constant {spelled}")


@pytest.mark.parametrize("each", EVERY, ids=lambda each: f"{each.object}-{each.name}")
def test_each_has_the_specification_s_bit(each: HandleType) -> None:
    assert each.bit == constant(each)


def test_nv_and_core_are_mapped_both_ways_and_never_equal() -> None:
    for nv in MEMORY_NV:
        core = core_of(nv)
        assert core.bit == nv.bit << 1
        assert nv_of(core) is nv
        assert (core.kind, core.opaque) == (nv.kind, nv.opaque)
    for core in MEMORY:
        twin = nv_of(core)
        assert (twin is None) == (core.twin is None)
    with pytest.raises(ValueError, match="no NV memory type"):
        core_of(memory_type("opaque_win32"))


@pytest.mark.parametrize("each", EVERY, ids=lambda each: f"{each.object}-{each.name}")
def test_traits_that_follow_from_the_kind(each: HandleType) -> None:
    # Only descriptors are consumed, only KMT numbers and pointers hold nothing, only NT handles
    # have names, and what Vulkan names it can also open by name.
    assert each.consumed == (each.kind == "fd")
    assert each.holds_reference == (each.kind in ("fd", "nt"))
    assert not each.named_on_import or each.kind == "nt"
    assert not each.named_on_export or each.named_on_import
    assert not each.fetched_once or each.kind == "nt"
    assert each.permanent != each.copy_transference


def test_names_and_bits() -> None:
    assert memory_type("opaque_win32") is memory_type(2)
    assert names_of(0x3) == ["opaque_fd", "opaque_win32"]
    assert names_of(0x80000001) == ["opaque_fd", "0x80000000"]
    with pytest.raises(ValueError, match="expected one of opaque_fd, opaque_win32"):
        memory_type("opaque")
    with pytest.raises(ValueError, match="handle type 3"):
        memory_type(3)
