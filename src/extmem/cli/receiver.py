"""The second process of `extmem demo`: imports the handle, checks every picture.

Its standard input and output are the pipes that the messages go through.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import zlib
from typing import Any

from extmem import Device, Memory, open_device
from extmem.cli import messages
from extmem.cli.picture import HEIGHT, WIDTH, write_png

__all__ = ["main"]

_FROM = 0  # a descriptor


def main(arguments: str) -> None:
    """Serve until the end message comes, or the other process is gone."""
    # Ctrl-C reaches the whole terminal group; the first process decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(arguments)
    to = os.dup(1)
    with contextlib.suppress(OSError):  # nobody may have given us a stderr
        os.dup2(2, 1)  # what a driver or a layer prints is no message
    with (
        open_device(driver=told["driver"], uuid=told["uuid"]) as gpu,
        _imported(gpu, told) as memory,
    ):
        frames = memory.numpy("uint8", (memory.size // (WIDTH * HEIGHT * 4), HEIGHT, WIDTH, 4))
        os.write(to, messages.READY)
        counters = messages.KernelCounters()
        checked = 0
        while True:
            (number, slot, checksum, published), _ = messages.receive(_FROM, messages.PICTURE)
            seen = time.perf_counter_ns()
            if number == messages.END:
                break
            memory.invalidate()
            right = zlib.crc32(frames[slot]) == checksum
            checked += frames[slot].nbytes
            messages.send(to, messages.ANSWER, number, published, seen, right)
        kernel = counters.since()
        if kernel is not None:
            kernel["read"] -= messages.PICTURE.size  # the end message is no picture's
        write_png(told["picture"], frames[slot])
        os.write(to, json.dumps({"kernel": kernel, "bytes_checked": checked}).encode())
        del frames


def _imported(gpu: Device, told: dict[str, Any]) -> Memory:
    descriptor = told["descriptor"]
    try:
        return gpu.import_memory(
            descriptor,
            name=told["name"],
            handle_type=told["handle_type"],
            size=told["size"],
            memory_type=told["memory_type"],
            dedicated=told["dedicated"],
        )
    finally:
        if descriptor is not None:
            os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1])
