"""The service as a process: `python -m extmem.handles.directory LISTENER FOLDER`.

The first program that needs it starts it (`starting.py`), and has the socket bound already.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

from extmem.handles.directory.folder import Folder
from extmem.handles.directory.service import Service

IDLE = "EXTMEM_DIRECTORY_IDLE"  # seconds
_LARGEST_LOG = 1 << 20  # bytes

log = logging.getLogger("extmem.directory")


class BoundedHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """What the service says goes to its log, until that is full: peers can make it say a lot."""

    written = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self.written < _LARGEST_LOG:
            self.written += len(record.getMessage()) + 80
            super().emit(record)


def _idle() -> float:
    text = os.environ.get(IDLE, "10")
    try:
        return max(0.0, float(text))
    except ValueError:
        log.error("%s=%r is no number of seconds; it is 10", IDLE, text)
        return 10.0


def main() -> None:
    """Serve until nobody needs it."""
    handler = BoundedHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.set_inheritable(False)
    folder = Folder.open(Path(sys.argv[2]))
    # The default would leave the socket's file behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        Service(folder, listener, _idle()).run()
    except Exception:
        log.exception("the directory ends by a mistake of its own")
        raise


if __name__ == "__main__":
    main()
