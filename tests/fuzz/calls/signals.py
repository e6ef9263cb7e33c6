"""Right calls for fences, semaphores and events: made, shared, waited for."""

from __future__ import annotations

from typing import Any

from extmem import vk
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.pool import Export, Thing
from tests.fuzz.calls.right import right
from tests.fuzz.calls.wild import TIMEOUTS

__all__ = ["ENOUGH", "PATIENCE", "settle"]

PATIENCE = 10_000_000_000  # nanoseconds: what ends by itself ends within
ENOUGH = 1 << 40  # a timeline that has come so far is left alone

_FENCE, _SEMAPHORE = "VkFence", "VkSemaphore"
_D3D12 = 0x8
_COPIES = {_SEMAPHORE: 0x10, _FENCE: 0x8}  # SYNC_FD
_FDS = {_SEMAPHORE: 0x1 | 0x10, _FENCE: 0x1 | 0x8}
_WIN32 = {_SEMAPHORE: 0x2 | 0x4 | 0x8, _FENCE: 0x2 | 0x4}
_TEMPORARY = 1


# -- made ------------------------------------------------------------------------------------------


def _types(hand: Hand, known: dict[int, int], kind: str) -> int:
    """A handle type to share it by; mostly none."""
    short = kind.removeprefix("Vk").lower()
    has = {
        extension
        for extension in ("fd", "win32")
        if f"VK_KHR_external_{short}_{extension}" in hand.gpu.extensions
    }
    offered = [
        each
        for each, features in known.items()
        if features & 1 and ("fd" if each & _FDS[kind] else "win32") in has
    ]
    return hand.dice.any(offered) or 0 if hand.dice.odds(0.6) else 0


@right("vkCreateFence")
def create_fence(hand: Hand) -> Call:
    types = _types(hand, hand.gpu.abilities.fences, _FENCE)
    chain = vk.VkExportFenceCreateInfo(handleTypes=types) if types else None
    info = vk.VkFenceCreateInfo(flags=int(hand.dice.odds(0.2)), pNext=chain)
    return Call("vkCreateFence", [hand.gpu.device, info])


@right("vkCreateSemaphore")
def create_semaphore(hand: Hand) -> Call:
    timeline = "timelineSemaphore" in hand.gpu.features and hand.dice.odds(0.5)
    known = hand.gpu.abilities.semaphores
    features = {each: have for (each, kind), have in known.items() if kind == timeline}
    types = _types(hand, features, _SEMAPHORE)
    chain: list[Any] = []
    if types:
        chain.append(vk.VkExportSemaphoreCreateInfo(handleTypes=types))
    if timeline:
        value = hand.dice.below(5)
        chain.append(vk.VkSemaphoreTypeCreateInfo(semaphoreType=1, initialValue=value))
    info = vk.VkSemaphoreCreateInfo(pNext=vk.link(*chain) if chain else None)
    return Call("vkCreateSemaphore", [hand.gpu.device, info])


@right("vkCreateEvent")
def create_event(hand: Hand) -> Call:
    return Call("vkCreateEvent", [hand.gpu.device, vk.VkEventCreateInfo()])


@right("vkSetEvent", "vkResetEvent", "vkGetEventStatus")
def event(hand: Hand) -> Call | None:
    # One that commands wait for is set once, and never reset.
    thing = hand.dice.any(hand.pool.those("VkEvent", hand.free))
    if thing is None:
        return create_event(hand)
    choices = ("vkSetEvent", "vkGetEventStatus")
    name = hand.dice.one(choices if thing.facts["set"] else (*choices, "vkResetEvent"))
    return Call(name, [hand.gpu.device, thing.handle])


# -- waited for ------------------------------------------------------------------------------------


def _timeout(hand: Hand, ends: bool) -> int:
    return PATIENCE if ends and hand.idle and not hand.careless else hand.dice.one(TIMEOUTS)


@right("vkWaitForFences")
def wait_for_fences(hand: Hand) -> Call | None:
    dice = hand.dice
    fences = hand.pool.those(
        _FENCE, lambda x: x.facts["state"] != "reset" and not x.facts["shared"]
    )
    ends = bool(fences)
    fences = fences or hand.pool.all(_FENCE)
    if not fences:
        return None
    chosen = [dice.one(fences).handle for _ in range(dice.one((1, 1, 2, 3)))]
    timeout = _timeout(hand, ends)
    return Call("vkWaitForFences", [hand.gpu.device, len(chosen), chosen, dice.below(2), timeout])


@right("vkGetFenceStatus")
def fence_status(hand: Hand) -> Call | None:
    fence = hand.pool.any(hand.dice, _FENCE)
    return Call("vkGetFenceStatus", [hand.gpu.device, fence]) if fence else None


@right("vkResetFences")
def reset_fences(hand: Hand) -> Call | None:
    found = hand.pool.those(_FENCE, lambda x: x.facts["state"] != "pending" and hand.free(x))
    fence = hand.dice.any(found)
    if fence is None:
        return wait_for_fences(hand)
    return Call("vkResetFences", [hand.gpu.device, 1, [fence.handle]])


def _timelines(hand: Hand, free: bool = False) -> list[Thing]:
    return hand.pool.those(
        _SEMAPHORE,
        lambda x: (
            x.facts["timeline"] and (not free or not x.pins) and (x.facts["value"] or 0) < ENOUGH
        ),
    )


@right("vkGetSemaphoreCounterValue")
def counter(hand: Hand) -> Call | None:
    semaphore = hand.dice.any(_timelines(hand))
    if semaphore is None:
        return None
    return Call("vkGetSemaphoreCounterValue", [hand.gpu.device, semaphore.handle])


@right("vkSignalSemaphore")
def signal(hand: Hand) -> Call | None:
    """From the host; first what a queue waits for."""
    if hand.owed:
        semaphore, value = next(iter(hand.owed.items()))
    else:
        found = hand.dice.any(_timelines(hand, free=True))
        if found is None:
            return None
        semaphore = found
        if semaphore.facts["value"] is None:
            return Call("vkGetSemaphoreCounterValue", [hand.gpu.device, semaphore.handle])
        value = semaphore.facts["value"] + hand.dice.one((1, 1, 2, 1000))
    info = vk.VkSemaphoreSignalInfo(semaphore=semaphore.handle, value=value)
    return Call("vkSignalSemaphore", [hand.gpu.device, info])


@right("vkWaitSemaphores")
def wait_semaphores(hand: Hand) -> Call | None:
    dice = hand.dice
    found = [each for each in _timelines(hand) if each.facts["value"] is not None]
    if not found:
        return None
    chosen = [dice.one(found) for _ in range(dice.one((1, 1, 2)))]
    ends = dice.odds(0.8) and not any(each.facts["shared"] for each in chosen)
    values = [each.facts["value"] + (not ends) for each in chosen]
    info = vk.VkSemaphoreWaitInfo(
        flags=int(dice.odds(0.2)),
        pSemaphores=[each.handle for each in chosen],
        pValues=values,
    )
    return Call("vkWaitSemaphores", [hand.gpu.device, info, _timeout(hand, ends)])


def settle(hand: Hand) -> Call:
    """Have all that is submitted come to its end: signal what is waited for, then wait."""
    if hand.owed:
        found = signal(hand)
        assert found is not None
        return found
    return Call("vkDeviceWaitIdle", [hand.gpu.device])


@right("vkDeviceWaitIdle", "vkQueueWaitIdle")
def wait_idle(hand: Hand) -> Call | None:
    if hand.blocked or hand.careless:
        return None
    if hand.owed or hand.dice.odds(0.5):
        return settle(hand)
    return Call("vkQueueWaitIdle", [hand.dice.one(hand.gpu.queues)])


# -- shared ----------------------------------------------------------------------------------------


def _member(kind: str) -> str:
    return kind.removeprefix("Vk").lower()


def _getters(kind: str) -> None:
    short = kind.removeprefix("Vk")

    def one_of(hand: Hand, types: int) -> Thing | None:
        copies = _COPIES[kind]
        found = hand.pool.those(
            kind,
            lambda x: (
                bool(x.facts["types"] & types)
                and (not x.facts["types"] & copies or x.facts["state"] != "reset")
            ),
        )
        return hand.dice.any(found)

    @right(f"vkGet{short}FdKHR")
    def get_fd(hand: Hand) -> Call | None:
        thing = one_of(hand, _FDS[kind])
        if thing is None:
            return create_fence(hand) if kind == _FENCE else create_semaphore(hand)
        cls = getattr(vk, f"Vk{short}GetFdInfoKHR")
        info = cls(**{_member(kind): thing.handle}, handleType=thing.facts["types"] & _FDS[kind])
        return Call(f"vkGet{short}FdKHR", [hand.gpu.device, info])

    @right(f"vkGet{short}Win32HandleKHR")
    def get_win32(hand: Hand) -> Call | None:
        thing = one_of(hand, _WIN32[kind])
        if thing is None:
            return create_fence(hand) if kind == _FENCE else create_semaphore(hand)
        cls = getattr(vk, f"Vk{short}GetWin32HandleInfoKHR")
        types = thing.facts["types"] & _WIN32[kind]
        info = cls(**{_member(kind): thing.handle}, handleType=types)
        return Call(f"vkGet{short}Win32HandleKHR", [hand.gpu.device, info])

    @right(f"vkImport{short}FdKHR")
    def import_fd(hand: Hand) -> Call | None:
        export = hand.dice.any(hand.pool.fitting("fd", kind))
        if export is None:
            return get_fd(hand)
        target = _target(hand, kind, export)
        if target is None:
            return create_fence(hand) if kind == _FENCE else create_semaphore(hand)
        copies = export.handle_type & _COPIES[kind]
        temporary = copies or (not target.facts["timeline"] and hand.dice.odds(0.4))
        cls = getattr(vk, f"VkImport{short}FdInfoKHR")
        info = cls(
            **{_member(kind): target.handle},
            flags=_TEMPORARY if temporary else 0,
            handleType=export.handle_type,
            fd=-1 if copies and hand.dice.odds(0.3) else export.value,
        )
        return Call(f"vkImport{short}FdKHR", [hand.gpu.device, info])

    @right(f"vkImport{short}Win32HandleKHR")
    def import_win32(hand: Hand) -> Call | None:
        fitting = hand.pool.fitting("nt", kind) + hand.pool.fitting("kmt", kind)
        export = hand.dice.any(fitting)
        if hand.embedded and kind == _SEMAPHORE and hand.dice.odds(0.1):
            facts = {"timeline": True}
            export = Export("nt", kind, hand.furniture.fence12, _D3D12, facts)
        if export is None:
            return get_win32(hand)
        target = _target(hand, kind, export)
        if target is None:
            return create_fence(hand) if kind == _FENCE else create_semaphore(hand)
        cls = getattr(vk, f"VkImport{short}Win32HandleInfoKHR")
        info = cls(
            **{_member(kind): target.handle},
            flags=_TEMPORARY if not target.facts["timeline"] and hand.dice.odds(0.3) else 0,
            handleType=export.handle_type,
            handle=export.value,
        )
        return Call(f"vkImport{short}Win32HandleKHR", [hand.gpu.device, info])


def _target(hand: Hand, kind: str, export: Export) -> Thing | None:
    """What can take a payload in: of the same kind, and nobody waits for it."""
    timeline = export.facts["timeline"]
    return hand.dice.any(
        hand.pool.those(
            kind,
            lambda x: hand.free(x) and x.facts["timeline"] == timeline and x not in hand.owed,
        )
    )


_getters(_FENCE)
_getters(_SEMAPHORE)
