"""What is watched of one stream: its figures over time, and a picture of its newest frame.

A stream is watched by looking at its board (`share.looking`): that takes no slot, and a seat only
to begin with. Its rate comes from the numbers and times that the publisher wrote there. Its latency
is from then until this process saw the frame, looking every tenth of a millisecond around the time
at which one is due; what comes at odd times is often missed, and has no latency then. What
subscribers miss is their publisher's word.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any

from extmem.errors import StreamFull, plain
from extmem.inspector import pixels
from extmem.inspector.objects import stated
from extmem.inspector.pixels import Picture
from extmem.inspector.programs import program_of
from extmem.inspector.reaching import Asks
from extmem.share.looking import Onlooker, Seen
from extmem.share.ring import Tally

__all__ = ["HISTORY", "Watch", "taken"]

HISTORY = 120  # samples that are kept for the plots
_AGAIN = 1.0  # seconds until a publisher that could not be reached is tried again
_QUIET = 2.0  # seconds without a frame after which, where there is no list, one asks again
_EARLY = 1_000_000  # nanoseconds: so long before a frame is due, the close look begins
_LATE = 8_000_000  # and so long after at least, it ends
_CLOSELY = 0.0001  # seconds between two close looks
_UNBELIEVABLE = 10_000_000_000  # nanoseconds of latency, when frames come in less than that
_WINDOW = 6  # samples that what is missed is counted over
_MOST_FIELDS = 2000  # characters of the fields, for people


def taken(onlooker: Onlooker) -> tuple[Picture, Seen, bool] | tuple[None, None, bool]:
    """A picture of the newest frame, which frame that was, and whether it is whole. Unsupported,
    with the reason, if it is an image that cannot be copied.
    """
    texels = onlooker.format.texels
    if texels is not None:
        return onlooker.sample_image(lambda planes: pixels.of_texels(planes, texels.format))
    bits = onlooker.format.bfloat16
    return onlooker.sample(lambda array: pixels.of_array(array, bfloat16=bits))


class Watch:
    """One stream, by its name, whoever publishes it. `look` and `close` are for one thread."""

    def __init__(self, name: str, threads: Asks) -> None:
        self.name = name
        self.state = "reaching"  # "running", "died", "ended", "full", "unreachable"
        self.why = ""  # of the last two, a sentence
        self.history: deque[tuple[float, float, float | None, float]] = deque(maxlen=HISTORY)
        self.samples = 0
        self.publishers = 0  # how many there were, one after the other
        self._threads = threads
        self._guard = threading.Lock()  # of the onlooker, while it is made, used or closed
        self._onlooker: Onlooker | None = None
        self._joining: Future[Onlooker] | None = None
        self._mark: object = None  # of the publisher that is looked at
        self._asked = 0.0  # when it was tried last
        self._publisher: int | None = None
        self._program = ""
        self._before: Seen | None = None
        self._period = 0  # nanoseconds from frame to frame
        self._missed: dict[int, int] = {}  # by each reader, as it was said last
        self._losses: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._figures: dict[str, Any] = {}
        self._about: dict[str, Any] = {}

    # -- a look ---------------------------------------------------------------------------------

    def look(self, mark: object, listed: bool, seconds: float) -> None:
        """Take a sample.

        mark: of the publisher, as `looking.streams` has it; listed: whether it has the name
        seconds: how long a close look at when a frame comes may take
        """
        now = time.monotonic()
        if self._joining is not None and self._joining.done():
            self._joined()
        if not listed or mark is None:
            self._become("died" if listed else "ended")
            self._mark = None
        elif mark != self._mark or self._quiet(mark, now) or self._refused(now):
            self._ask(mark, now)
        if self.state == "running":
            self._take(seconds)

    def _quiet(self, mark: object, now: float) -> bool:
        """Whether somebody else may have the name, where the mark does not tell."""
        if mark != "there" or self.state != "running":
            return False
        newest = self._before
        silent = newest is None or time.monotonic_ns() - newest.time > _QUIET * 1e9
        return silent and now - self._asked > 2 * _QUIET

    def _refused(self, now: float) -> bool:
        return self.state in ("full", "unreachable") and now - self._asked >= _AGAIN

    def _ask(self, mark: object, now: float) -> None:
        """Reach the publisher, in another thread: it may be stopped, and not answer."""
        if self._joining is None:
            self._mark, self._asked = mark, now
            self._joining = self._threads.submit(self._reach)

    def _reach(self) -> Onlooker:
        return Onlooker(self.name)

    def _joined(self) -> None:
        future, self._joining = self._joining, None
        assert future is not None
        error = future.exception()
        if error is not None:
            self._become("full" if isinstance(error, StreamFull) else "unreachable")
            self.why = plain(getattr(error, "strerror", None) or error, 400)
            return
        onlooker = future.result()
        with self._guard:
            old, self._onlooker = self._onlooker, onlooker
            if old is not None:
                old.close()
        if self.state != "running" or self._publisher != onlooker.process_id:
            self.publishers += 1
        self.state, self.why = "running", ""
        self._program = program_of(onlooker.process_id)
        self._publisher, self._before, self._period = onlooker.process_id, None, 0
        self._missed = {}
        self._losses.clear()
        self._about = self._described(onlooker)

    def _described(self, onlooker: Onlooker) -> dict[str, Any]:
        memory = onlooker.memories[0]
        return {
            "shape": list(onlooker.format.shape),
            "dtype": onlooker.format.name,
            "slots": len(onlooker.memories),
            "frame_bytes": memory.size,
            "passport": stated(memory.passport),
        }

    def _become(self, state: str) -> None:
        """Without a publisher to look at."""
        self.state, self._before = state, None
        with self._guard:
            old, self._onlooker = self._onlooker, None
            if old is not None:
                old.close()

    # -- figures --------------------------------------------------------------------------------

    def _take(self, seconds: float) -> None:
        onlooker = self._onlooker
        assert onlooker is not None
        latency = self._latency(onlooker, seconds)
        now, when = onlooker.newest(), time.monotonic()
        rate = self._rate(now)
        readers = onlooker.readers()
        lost = self._lost(when, readers)
        if now is not None:
            self._before = now
        self.history.append((round(when, 3), round(rate, 2), latency, round(lost, 2)))
        self.samples += 1
        self._figures = {
            "when": round(when, 3),
            "sequence": now.sequence if now else 0,
            "age": None if now is None else max(time.monotonic_ns() - now.time, 0) / 1e9,
            "rate": round(rate, 2),
            "latency_us": latency,
            "missed_per_second": round(lost, 2),
            "missed": sum(self._missed.values()),
            "readers": [
                {**each._asdict(), "program": program_of(each.process_id)} for each in readers
            ],
            "fields": self._fields(onlooker, now),
        }

    def _rate(self, now: Seen | None) -> float:
        """Frames in a second, by the publisher's own numbers and times."""
        before = self._before
        if now is None:
            return 0.0
        if before is not None and now.sequence > before.sequence and now.time > before.time:
            self._period = (now.time - before.time) // (now.sequence - before.sequence)
        silent = time.monotonic_ns() - now.time
        if not self._period or silent > max(3 * self._period, 1_000_000_000):
            return 0.0
        return min(1e9 / self._period, 1e9)

    def _lost(self, when: float, readers: list[Tally]) -> float:
        """Frames in a second that readers missed, in the last few samples: what the publisher says
        of them is older than the frames, now more and now less.
        """
        known: dict[int, int] = {}
        for each in readers:
            known[each.process_id] = known.get(each.process_id, 0) + each.missed
        news = sum(max(count - self._missed.get(who, count), 0) for who, count in known.items())
        self._missed = known
        self._losses.append((when, (self._losses[-1][1] if self._losses else 0) + news))
        (first, before), (last, total) = self._losses[0], self._losses[-1]
        return (total - before) / (last - first) if last > first else 0.0

    def _latency(self, onlooker: Onlooker, seconds: float) -> float | None:
        """Microseconds from when a frame was published until it was seen here, if one was."""
        last = onlooker.newest()
        if last is None or not self._period or seconds <= 0:
            return None
        begun = time.monotonic_ns()
        behind = (begun - last.time) // self._period + 1
        due = last.time + behind * self._period
        end = min(begun + int(seconds * 1e9), due + max(_LATE, self._period))
        if due - begun > seconds * 1e9 or behind > 4:
            return None
        time.sleep(max(due - _EARLY - begun, 0) / 1e9)
        first = onlooker.newest()
        while first is not None and time.monotonic_ns() < end:
            found = onlooker.newest()
            if found is not None and found.sequence > first.sequence:
                passed = time.monotonic_ns() - found.time
                return round(passed / 1000, 1) if 0 <= passed < _UNBELIEVABLE else None
            time.sleep(_CLOSELY)
        return None

    @staticmethod
    def _fields(onlooker: Onlooker, now: Seen | None) -> str:
        if now is None:
            return ""
        try:
            fields = onlooker.fields(now)
        except ValueError as error:
            return plain(error, 200)
        if not fields:
            return ""
        said = ", ".join(f"{key}: {value!r}" for key, value in fields.items())
        return said if len(said) <= _MOST_FIELDS else said[:_MOST_FIELDS] + "…"

    # -- for others ------------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """All that is known, as plain data."""
        about = {key: value for key, value in self._about.items() if key != "passport"}
        return {
            "name": self.name,
            "state": self.state,
            "why": self.why,
            "publisher": self._publisher,
            "program": self._program,
            "publishers": self.publishers,
            "samples": self.samples,
            **about,
            **self._figures,
        }

    @property
    def passport(self) -> dict[str, Any]:
        """Of the first slot, as the publisher's word."""
        return dict(self._about.get("passport", {}))

    def picture(self) -> tuple[Picture, Seen, bool] | None:
        """Of the newest frame; None if there is none, or nobody who publishes. From any thread."""
        with self._guard:
            if self._onlooker is None:
                return None
            picture, seen, whole = taken(self._onlooker)
        if picture is None or seen is None:
            return None
        return picture, seen, whole

    def close(self) -> None:
        """Let go of the publisher, and of one that is still being reached as soon as it is."""
        if self._joining is not None:
            self._joining.add_done_callback(_let_go)
            self._joining = None
        self._become("ended")


def _let_go(joining: Future[Onlooker]) -> None:
    if joining.exception() is None:
        joining.result().close()
