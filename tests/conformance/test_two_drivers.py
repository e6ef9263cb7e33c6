"""Two drivers in one process, and in two, at once: neither may notice the other."""

from __future__ import annotations

from contextlib import ExitStack

from extmem import vk
from tests.support.offers import require_buffers
from tests.support.peers import far
from tests.support.rig import OPAQUE_FD, Kind, Rig, pattern, prove_same

KIND = Kind(dedicated=False, host_visible=True)


def test_side_by_side(two_drivers: tuple[str, str]) -> None:
    with ExitStack() as stack:
        rigs = [stack.enter_context(Rig(driver)) for driver in two_drivers]
        names = {
            (each.driver, vk.vkGetPhysicalDeviceProperties(each.physical).driverVersion)
            for each in rigs
        }
        assert len(names) == 2
        for rig in rigs:
            require_buffers(rig, OPAQUE_FD, KIND)
        exported = [rig.allocate(KIND) for rig in rigs]
        for number, block in enumerate(exported):
            block.write(pattern(number))
        imported = [
            rig.import_fd(block.export_fd(), block.passport)
            for rig, block in zip(rigs, exported, strict=True)
        ]
        for number, block in enumerate(imported):
            assert block.read() == pattern(number)
            block.write(pattern(number + 10))
        for number, block in enumerate(exported):
            assert block.read() == pattern(number + 10)


def test_one_closes_the_other_stays(two_drivers: tuple[str, str]) -> None:
    for first, second in (two_drivers, two_drivers[::-1]):
        with Rig(first) as staying:
            kept = staying.allocate(KIND)
            with Rig(second) as going:
                prove_same(going.allocate(KIND))
                kept.write(pattern(1))
            assert kept.read() == pattern(1)
            prove_same(kept, staying.import_fd(kept.export_fd(), kept.passport))


def test_each_with_its_own_process(two_drivers: tuple[str, str]) -> None:
    with ExitStack() as stack:
        pairs = []
        for driver in two_drivers:
            here = stack.enter_context(Rig(driver))
            require_buffers(here, OPAQUE_FD, KIND)
            there = stack.enter_context(far.rig(driver))
            block = here.allocate(KIND)
            pairs.append((block, there.import_fd(block.export_fd(), block.passport)))
        for number, (near, distant) in enumerate(pairs):
            near.write(pattern(number))
            distant.write(pattern(number + 10))
        for number, (near, distant) in enumerate(pairs):
            assert near.read() == distant.read() == pattern(number + 10)
