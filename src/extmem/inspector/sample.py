"""Something to look at: a stream that moves, until Ctrl-C.

python -m extmem.inspector.sample [NAME] [FRAMES A SECOND]
"""

from __future__ import annotations

import contextlib
import sys
import time

from extmem.cli.picture import HEIGHT, WIDTH, Painter
from extmem.share.stream import publish

__all__ = ["main"]


def main(name: str = "sample", rate: float = 30.0) -> None:
    """Publish the demo's picture under a name, so many times a second."""
    painter, number = Painter(), 0
    following = time.monotonic()
    with publish(name, shape=(HEIGHT, WIDTH, 4), dtype="uint8") as stream:
        print(f"publishing {name!r}; extmem view shows it. Ctrl-C ends it.", flush=True)
        while True:
            with stream.frame() as frame:
                painter.paint(frame.numpy(), number)
                frame.fields["number"] = number
            number += 1
            now = time.monotonic()
            following = max(following + 1 / rate, now)  # what is late is not made up for
            time.sleep(following - now)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        words = dict(enumerate(sys.argv))
        main(words.get(1, "sample"), float(words.get(2, 30)))
