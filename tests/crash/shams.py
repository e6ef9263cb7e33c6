"""Cases that are wrong themselves, each in another way: for the tests of what tries cases."""

from __future__ import annotations

import ctypes
import os
import time

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap


class Expected(Exception):
    """What each of these ends with, if it comes so far."""


@trap(Expected, says="as it should")
def right(here: Scene) -> None:
    raise Expected("as it should be")


@trap(Expected, says="as it should", on="linux")
def dies(here: Scene) -> None:
    ctypes.string_at(1)


@trap(Expected, says="as it should")
def hangs(here: Scene) -> None:
    time.sleep(60)


@trap(Expected, says="as it should")
def ends(here: Scene) -> None:
    os._exit(3)


@trap(Expected, says="as it should")
def succeeds(here: Scene) -> None:
    pass


@trap(Expected, says="as it should")
def fails_otherwise(here: Scene) -> None:
    raise KeyError("something else")


@trap("VUID-vkAllocateMemory-pAllocateInfo-01713")
def breaks_another_rule(here: Scene) -> None:
    here.allocate(size=0)


@trap(Expected, says="as it should")
def says_something_else(here: Scene) -> None:
    raise Expected("or not")


@trap(Expected, says="as it should", on="linux")
def closes_what_it_was_given(here: Scene) -> None:
    os.close(here.fd(os.memfd_create("given")))
    raise Expected("as it should be")


@trap(Expected, says="as it should", on="linux")
def exchanges_what_it_was_given(here: Scene) -> None:
    given = here.fd(os.memfd_create("given"))
    other = os.memfd_create("other")
    os.dup2(other, given)
    os.close(other)
    raise Expected("as it should be")


@trap(Expected, says="as it should")
def changes_what_it_looked_at(here: Scene) -> None:
    looked_at = [1]
    here.still("the list", lambda: list(looked_at))
    looked_at.append(2)
    raise Expected("as it should be")


@trap(Expected, says="as it should", on="linux")
def leaks(here: Scene) -> None:
    os.memfd_create("leaked")
    raise Expected("as it should be")


@trap(Expected, says="as it should")
def breaks_the_device(here: Scene) -> None:
    here.dispatch.vkAllocateMemory = lambda *given: -1
    raise Expected("as it should be")


@trap(Expected, says="as it should", needs="vkGetBufferDeviceAddress")
def cannot_be_tried(here: Scene) -> None:
    vk.vkGetBufferDeviceAddress(here.device, None)  # type: ignore[arg-type]
