"""The survey: a thread that looks a few times a second at all that is shared, for whoever asks."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Self

from extmem.errors import PassportError, Unsupported
from extmem.inspector.devices import Devices
from extmem.inspector.objects import Objects, collect, stated
from extmem.inspector.pixels import Picture
from extmem.inspector.reaching import Threads
from extmem.inspector.streams import Watch
from extmem.share.looking import streams
from extmem.share.passport import any_passport
from extmem.share.slots import check_name

__all__ = ["MOST_OBJECTS", "MOST_STREAMS", "PERIOD", "Survey"]

log = logging.getLogger("extmem")

PERIOD = 0.5  # seconds from look to look
MOST_STREAMS = 32  # that are watched; of more, those that live come first
MOST_OBJECTS = 5000  # that are shown, the newest
_CLOSE = 0.25  # seconds of each period for close looks at when frames come
_REMEMBERED = 60.0  # seconds that a stream is shown after its end, or its publisher's death


class Survey:
    """All that is shared, as it was a moment ago. A context manager.

    names: streams and objects to look for beside those that the system lists
    """

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names = names
        self._devices = Devices()
        self._objects = Objects(self._devices)
        self._threads = Threads(2 * MOST_STREAMS)  # each asks for one stream at a time
        self._watches: dict[str, Watch] = {}
        self._gone: dict[str, float] = {}  # since when nobody publishes a stream any more
        self._unwatched = 0
        self._listed: list[dict[str, Any]] = []
        self._passports: dict[int, bytes] = {}
        self._problem = ""  # why objects cannot be listed
        self._ended = threading.Event()
        self._turn = 0
        self.objects_version = 0  # counts up when the objects change, beside their age
        self.latest: dict[str, Any] = {
            "looks": 0,
            "streams": [],
            "unwatched": 0,
            "problem": "",
        }
        self._thread = threading.Thread(target=self._run, name="extmem inspector", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for each in self._watches.values():
            each.close()
        self._threads.close()
        self._devices.close()

    # -- looking --------------------------------------------------------------------------------

    def _run(self) -> None:
        following = time.monotonic()
        while not self._ended.is_set():
            try:
                self.step()
            except Exception:  # whatever strangers share, the others are still shown
                log.exception("the inspector could not look at something")
            following = max(following + PERIOD, time.monotonic() + PERIOD / 5)
            self._ended.wait(following - time.monotonic())

    def step(self) -> None:
        """One look at everything."""
        if self._turn % 2 == 0:
            self._list()
        self._turn += 1
        self._watch()
        self.latest = {
            "looks": self._turn,
            "streams": [each.plain() for each in self._watches.values()],
            "unwatched": self._unwatched,
            "problem": self._problem,
        }

    def _list(self) -> None:
        before = [_lasting(each) for each in self._listed]
        try:
            self._listed, self._passports = collect()
            self._problem = ""
        except OSError as error:  # the directory ends just now, say
            self._problem = error.strerror or str(error)
            return
        for each in self._listed:
            each["since"] = round(time.time() - each["age"], 1)
        if [_lasting(each) for each in self._listed] != before:
            self.objects_version += 1

    def _watch(self) -> None:
        found = streams()
        now = time.monotonic()
        for name in self._names:  # also where the system has no list
            if name not in found and _may_be_a_stream(name) and name not in self._known():
                found[name] = "there"
        self._mourn(found, now)
        self._choose(found)
        left = _CLOSE
        turn = list(self._watches.values())
        at = self._turn % max(len(turn), 1)
        for watch in turn[at:] + turn[:at]:  # each is the first in its turn
            begun = time.monotonic()
            watch.look(found.get(watch.name), watch.name in found, left)
            left -= time.monotonic() - begun

    def _mourn(self, found: dict[str, object], now: float) -> None:
        """Take out of `found` and of what is watched whom nobody has published for long. A name of
        a publisher that was killed may stay with the system for ever.
        """
        for name in self._gone.keys() - self._watches.keys() - found.keys():
            del self._gone[name]
        for name in self._watches.keys() | found.keys():
            if found.get(name) is not None:
                self._gone.pop(name, None)
            elif now - self._gone.setdefault(name, now) > _REMEMBERED and name not in self._names:
                found.pop(name, None)
                self._forget(name)

    def _choose(self, found: dict[str, object]) -> None:
        """Watch what there is room for: those that live first, of these those that were named."""
        for name in sorted(found, key=lambda n: (found[n] is None, n not in self._names, n)):
            if name in self._watches:
                continue
            if len(self._watches) >= MOST_STREAMS and found[name] is not None:
                over = (each for each in self._watches if found.get(each) is None)
                # Of those that are over, the one that has been for the longest time.
                self._forget(min(over, key=self._gone.__getitem__, default=""))
            if len(self._watches) < MOST_STREAMS:
                self._watches[name] = Watch(name, self._threads)
        self._unwatched = len(found.keys() - self._watches.keys())

    def _forget(self, name: str) -> None:
        """`_gone` keeps the name, so that it does not come again before somebody publishes it."""
        watch = self._watches.pop(name, None)
        if watch is not None:
            watch.close()

    def _known(self) -> set[str | None]:
        return {each["name"] for each in self._listed}

    # -- answers, from any thread -----------------------------------------------------------------

    def objects(self) -> dict[str, Any]:
        """The objects, the newest first, and how many there are."""
        shown = self._listed[-MOST_OBJECTS:][::-1]
        return {"objects": shown, "count": len(self._listed)}

    def history(self) -> dict[str, Any]:
        """The samples of each stream: when, rate, latency in microseconds, missed in a second."""
        return {name: list(each.history) for name, each in list(self._watches.items())}

    def passport(self, kind: str, which: str) -> dict[str, Any]:
        """What a passport says; KeyError if there is no such stream or object."""
        if kind == "stream":
            return self._watches[which].passport
        data = self._passports[int(which)]
        if not data:
            return {}
        try:
            return stated(any_passport(data))
        except PassportError as error:
            return {"unreadable": str(error)}

    def picture(self, kind: str, which: str) -> tuple[Picture, dict[str, Any]]:
        """Of a stream or an object, and what is said of it. KeyError if there is none of these,
        Unsupported, with the reason, where it has no picture.
        """
        if kind == "stream":
            watch = self._watches[which]
            found = watch.picture()
            if found is None:
                raise Unsupported(_no_frame(watch))
            picture, seen, whole = found
            return picture, {"sequence": seen.sequence, "whole": whole}
        listed, identity = self._listed, int(which)
        each = next((each for each in listed if each["identity"] == identity), None)
        if each is None:
            raise KeyError(which)
        return self._objects.picture(each, self._passports.get(identity, b"")), {"whole": True}


def _no_frame(watch: Watch) -> str:
    said = {
        "reaching": "its publisher is being asked",
        "running": "no frame was published yet",
        "died": "its publisher has died",
        "ended": "it has ended",
    }
    return said.get(watch.state, watch.why)


def _lasting(each: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in each.items() if key not in ("age", "since")}


def _may_be_a_stream(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return True
