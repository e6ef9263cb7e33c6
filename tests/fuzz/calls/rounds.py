"""A round: a device, so many calls on it, and nothing left of them."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any, Protocol

from extmem import CommandUnavailable, DriverError, ExtmemError, RuleViolation, vk
from tests.fuzz.calls import books, memory, questions, recording, resources, signals, submits
from tests.fuzz.calls.damage import Damage
from tests.fuzz.calls.dice import Dice
from tests.fuzz.calls.furniture import Furniture
from tests.fuzz.calls.gpu import Abilities, Gpu
from tests.fuzz.calls.hand import Call, Hand
from tests.fuzz.calls.right import RIGHT
from tests.fuzz.calls.tables import COMMANDS
from tests.fuzz.calls.telling import told
from tests.fuzz.calls.wild import Wild

__all__ = ["OUTCOMES", "Announce", "Find", "Rounds"]

_ = memory, questions, recording, resources, submits  # they register what they make

# What became of a call: the driver was reached and did it, or said no; a rule refused it, or the
# types; the command is not there; another error of ours, or the system's.
OUTCOMES = ("done", "driver's no", "rule", "type or value", "unavailable", "other")

_WEIGHTS = {
    "vkAllocateMemory": 10, "vkCreateBuffer": 5, "vkCreateImage": 5, "vkBindBufferMemory": 8,
    "vkBindImageMemory": 8, "vkFreeMemory": 4, "vkMapMemory": 5, "vkUnmapMemory": 5,
    "vkGetMemoryFdKHR": 4, "vkGetMemoryWin32HandleKHR": 4, "vkBeginCommandBuffer": 4,
    "vkEndCommandBuffer": 5, "vkQueueSubmit": 8, "vkQueueSubmit2": 8, "vkWaitForFences": 8,
    "vkResetFences": 5, "vkCreateFence": 3, "vkCreateSemaphore": 4, "vkSignalSemaphore": 4,
    "vkWaitSemaphores": 3, "vkImportSemaphoreFdKHR": 2, "vkCmdCopyBuffer": 2,
}  # fmt: skip
_RARE = {"vkCreateInstance": 0.1, "vkDestroyInstance": 0.1, "vkCreateDevice": 0.1,
         "vkDestroyDevice": 0.1}  # fmt: skip
# As many as there may be; then one is destroyed instead.
_MOST = {
    "VkDeviceMemory": 20, "VkBuffer": 16, "VkImage": 12, "VkBufferView": 6, "VkImageView": 6,
    "VkSemaphore": 10, "VkFence": 8, "VkEvent": 6, "VkCommandPool": 4, "VkCommandBuffer": 10,
}  # fmt: skip
_MAKES = {"vkAllocateMemory": "VkDeviceMemory", "vkAllocateCommandBuffers": "VkCommandBuffer"}
_ENDS = {"VkDeviceMemory": "vkFreeMemory", "VkCommandBuffer": "vkFreeCommandBuffers"}
_LAST = (
    "VkBufferView", "VkImageView", "VkCommandPool", "VkBuffer", "VkImage", "VkDeviceMemory",
    "VkSemaphore", "VkFence", "VkEvent", "VkDevice", "VkInstance",
)  # fmt: skip
_CALLED = {"VkDeviceMemory": "vkFreeMemory"}


class Find(Exception):
    """Something that must not be."""


class Announce(Protocol):
    """Says what comes next: the number of the call in its round, its name, all of it in words."""

    def __call__(self, number: int, name: str, words: str = "") -> None: ...


class Rounds:
    """Makes calls, round after round, and counts what became of them."""

    def __init__(self, driver: str, seed: int, announce: Announce) -> None:
        self.driver = driver
        self.seed = seed
        self.announce = announce  # what is about to be done
        self.trace = False  # whether each call is written out
        self.made = 0  # calls
        self.done = 0  # rounds
        self.counts: dict[str, list[int]] = {name: [0] * len(OUTCOMES) for name in COMMANDS}
        self.finds: dict[str, str] = {}
        self.odd: Counter[str] = Counter()  # rounds that ended before their time, and why
        self.furniture = Furniture()
        self._abilities: dict[int, Abilities] = {}
        announce(0, "opening")
        self.foreign = Gpu(driver, index=1)  # a device whose objects are wrong everywhere else
        self._others = _others(self.foreign)
        self._round = self._before = 0

    def close(self) -> None:
        """Destroy what was kept for all rounds but the furniture."""
        self.foreign.close()

    # -- one round ------------------------------------------------------------------------------

    def round(self, number: int, calls: int) -> None:
        """So many calls on a device of their own, and its end. Find if something is left."""
        self._round, self._before = number, self.made
        dice = Dice(f"{self.seed}:{number}")
        minor = dice.one((3, 3, 3, 3, 3, 3, 3, 1, 2, 0))
        if self.driver != "embedded" and "lavapipe-25" in self.driver:
            minor = 4 if minor == 3 and dice.odds(0.5) else minor
        self.announce(0, "opening a device")
        gpu = Gpu(self.driver, minor=minor, abilities=self._abilities.get(minor))
        self._abilities[minor] = gpu.abilities
        hand = Hand(dice, gpu, self.furniture, self.driver)
        hand.careless = hand.embedded and dice.odds(0.5)
        if self.trace:
            print("careless", hand.careless, flush=True)
        hand.pool.foreign = {kind: list(found) for kind, found in self._others.items()}
        for handle in (*gpu.queues, *gpu.physicals):
            hand.pool.foreign.setdefault(type(handle).__name__, [])
        maker = _Maker(hand)
        for _ in range(calls):
            self.announce(self._number, "choosing the next call")
            self.make(hand, maker.next())
            if hand.lost:
                self.odd["the device was lost"] += 1
                break
        self._end(hand)
        self.done += 1

    @property
    def _number(self) -> int:
        """Of the last call, in its round."""
        return self.made - self._before

    def make(self, hand: Hand, call: Call) -> None:
        """Make one call, and note what became of it."""
        name = call.name
        self.made += 1
        words = told(call)
        self.announce(self._number, name, words)
        if self.trace:
            print(f"{self._round}:{self._number} {words}", flush=True)
        counts = self.counts[name]
        before = tuple(counts)
        try:
            result = COMMANDS[name].function(*call.arguments, **call.keywords)
        except RuleViolation:
            counts[2] += 1
        except DriverError as error:
            counts[1] += 1
            hand.lost |= error.result == vk.VK_ERROR_DEVICE_LOST
        except CommandUnavailable:
            counts[4] += 1
        except (TypeError, ValueError, OverflowError) as error:
            counts[3] += 1
            if not isinstance(error, ExtmemError):
                self._judge(call, error)
        except (ExtmemError, OSError):
            counts[5] += 1
        except Exception as error:
            counts[5] += 1
            self.find(call, error)
        else:
            counts[0] += 1
            if result == vk.VK_TIMEOUT and signals.PATIENCE in call.arguments:
                self.find(call, Find("what ends by itself did not end in ten seconds"))
            books.note(hand, call, result)
        if self.trace:
            print(f"    {_outcome(before, counts)}", flush=True)

    def _judge(self, call: Call, error: Exception) -> None:
        """Errors of Python are for those who pass what is wrong, not for us who trip over it."""
        inside = traceback.extract_tb(error.__traceback__)
        if any("/extmem/rules/" in frame.filename for frame in inside):
            self.find(call, error)

    def find(self, call: Call, error: Exception) -> None:
        """Note what was found, once for each place."""
        inside = traceback.extract_tb(error.__traceback__)
        where = f"{inside[-1].filename}:{inside[-1].lineno}" if inside else ""
        key = f"{type(error).__name__} {where or error}"
        if key not in self.finds and len(self.finds) < 30:
            trace = "".join(traceback.format_exception(error))
            where = f"round {self._round}, call {self._number}: {told(call)}"
            self.finds[key] = f"{where}\n{trace}"

    # -- its end --------------------------------------------------------------------------------

    def _end(self, hand: Hand) -> None:
        gpu, pool = hand.gpu, hand.pool
        for each in pool.all("VkDeviceMemory"):
            each.facts["views"].clear()
        if hand.blocked or hand.lost:
            # What hangs on it goes with the device.
            self.odd["a queue waited for nobody"] += hand.blocked
            for kind in ("VkDevice", "VkInstance"):
                self._destroy_all(hand, kind)
        else:
            while hand.owed and not hand.careless:
                self.make(hand, signals.settle(hand))
            if not hand.careless:
                self.make(hand, signals.settle(hand))
            for kind in _LAST:
                self._destroy_all(hand, kind)
            if not hand.careless:
                self._nothing_left(hand)
        self.announce(self._number, "closing the device")
        gpu.close()
        pool.clear()

    def _destroy_all(self, hand: Hand, kind: str) -> None:
        name = _CALLED.get(kind, f"vkDestroy{kind.removeprefix('Vk')}")
        for thing in hand.pool.all(kind):
            alone = kind in ("VkDevice", "VkInstance")
            arguments = [thing.handle] if alone else [hand.gpu.device, thing.handle]
            call = Call(name, arguments)
            self.make(hand, call)
            if not hand.careless and hand.pool.find(kind, thing.handle) is not None:
                self.find(call, Find(f"{thing.handle!r} cannot be destroyed"))

    def _nothing_left(self, hand: Hand) -> None:
        """The world has forgotten all that was destroyed."""
        left = hand.gpu.dispatch.world.count()
        left.pop("VkQueue", None)
        if left != {"VkDevice": 1}:
            self.find(Call("vkDestroyDevice", []), Find(f"left in the device's world: {left}"))
        left = hand.gpu.dispatch.parent.world.count()
        left.pop("VkPhysicalDevice", None)
        if left != {"VkInstance": 1, "VkDevice": 1}:
            self.find(Call("vkDestroyInstance", []), Find(f"left in the instance's: {left}"))


def _outcome(before: tuple[int, ...], after: list[int]) -> str:
    changed = [name for name, old, new in zip(OUTCOMES, before, after, strict=True) if old != new]
    return ", ".join(changed)


def _others(gpu: Gpu) -> dict[str, list[Any]]:
    """Some objects of another device, as handles that are right there and wrong everywhere else."""
    device = gpu.device
    pool = vk.vkCreateCommandPool(device, vk.VkCommandPoolCreateInfo())
    made = [
        vk.vkAllocateMemory(device, vk.VkMemoryAllocateInfo(allocationSize=1 << 16)),
        vk.vkCreateBuffer(device, vk.VkBufferCreateInfo(size=4096, usage=3)),
        vk.vkCreateSemaphore(device, vk.VkSemaphoreCreateInfo()),
        vk.vkCreateFence(device, vk.VkFenceCreateInfo()),
        vk.vkCreateEvent(device, vk.VkEventCreateInfo()),
        pool,
        *vk.vkAllocateCommandBuffers(
            device, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=2)
        ),
    ]
    found: dict[str, list[Any]] = {}
    for each in made:
        found.setdefault(type(each).__name__, []).append(each)
    return found


class _Maker:
    """Chooses the next call."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.wild = Wild(hand)
        self.damage = Damage(hand, self.wild)
        self.names = tuple(COMMANDS)
        has = hand.gpu.has
        names = [name for name in RIGHT if has(name) or COMMANDS[name].prototype.level == "global"]
        self.right: list[str] = []
        for name in names:
            share = _RARE.get(name) if not hand.embedded else None
            times = 10 * _WEIGHTS.get(name, 1) if share is None else int(10 * share)
            self.right += [name] * times

    def next(self) -> Call:
        """The next call: right, spoilt, or wild."""
        hand, dice = self.hand, self.hand.dice
        roll = dice.random()
        if roll < 0.12:
            call = self.wild.call(dice.one(self.names))
            if hand.careless or self.damage.poison(call):
                return call
        call = self.good()
        if roll > 0.7:
            if "checks" in call.keywords and not hand.embedded:
                call.keywords["checks"] = "full"  # without rules, C gets to see it
            self.damage.spoil(call)
        return call

    def good(self) -> Call:
        """A call that keeps all rules."""
        hand, dice = self.hand, self.hand.dice
        while True:
            name = dice.one(self.right)
            kind = _MAKES.get(name) or ("Vk" + name[8:] if name.startswith("vkCreate") else "")
            if hand.pool.count(kind) >= _MOST.get(kind, 1 << 30):
                name = _ENDS.get(kind, f"vkDestroy{kind[2:]}")
            call = RIGHT[name](hand)
            if call is not None:
                return call
