"""The second process of `extmem demo`: imports the handle, checks every picture."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import zlib

from extmem import Unsupported, open_device
from extmem.cli import messages
from extmem.cli.picture import HEIGHT, WIDTH, write_png

__all__ = ["main"]


def main(channel: int, arguments: str) -> None:
    """Serve until the end message comes, or the other process is gone."""
    if sys.platform == "win32":
        raise Unsupported("the demo needs file descriptors, and Windows has none")
    # Ctrl-C reaches the whole terminal group; the first process decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(arguments)
    with socket.socket(fileno=channel) as theirs:
        _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
        with (
            open_device(driver=told["driver"], uuid=told["uuid"]) as gpu,
            gpu.import_memory(
                descriptors[0],
                handle_type=told["handle_type"],
                size=told["size"],
                memory_type=told["memory_type"],
                dedicated=told["dedicated"],
            ) as memory,
        ):
            os.close(descriptors[0])
            frames = memory.numpy("uint8", (memory.size // (WIDTH * HEIGHT * 4), HEIGHT, WIDTH, 4))
            theirs.sendall(b"r")
            counters = messages.KernelCounters()
            checked = 0
            while True:
                (number, slot, checksum, published), _ = messages.receive(channel, messages.PICTURE)
                seen = time.monotonic_ns()
                if number == messages.END:
                    break
                memory.invalidate()
                right = zlib.crc32(frames[slot]) == checksum
                checked += frames[slot].nbytes
                messages.send(channel, messages.ANSWER, number, published, seen, right)
            kernel = counters.since()
            if kernel is not None:
                kernel["read"] -= messages.PICTURE.size  # the end message is no picture's
            write_png(told["picture"], frames[slot])
            theirs.sendall(json.dumps({"kernel": kernel, "bytes_checked": checked}).encode())
            del frames


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
