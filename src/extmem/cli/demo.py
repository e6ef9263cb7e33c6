"""`extmem demo`: two processes and a moving picture, handed over without a copy.

This process allocates memory, exports it, and paints pictures into it. A second process
(`extmem.cli.receiver`) imports the handle and checks each picture by its checksum. What crosses
between the two beside the handle is one small message per picture and its answer; every byte of
those is counted here, and held against what the kernel counted for both processes.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from typing import Any

from extmem import Device, Unsupported, open_device
from extmem.cli import messages
from extmem.cli.picture import HEIGHT, WIDTH, Painter
from extmem.errors import ExtmemError

__all__ = ["run", "show"]

SLOTS = 3  # one is painted while one is checked; a third so that neither touches the next
FRAME = WIDTH * HEIGHT * 4
PREFERRED = ("opaque_fd", "dma_buf")
PATIENCE = 60.0  # seconds for the other process to answer; software drivers start slowly


def run(driver: str, seconds: float, handle_type: str, picture: str | None) -> dict[str, Any]:
    """Run the demo; the result is what `--json` prints."""
    if picture is not None:
        with open(picture, "wb"):
            pass  # the other process writes it at the end; better to know now that it can
        return _hand_over(driver, seconds, handle_type, picture)
    descriptor, picture = tempfile.mkstemp(prefix="extmem-demo-", suffix=".png")
    os.close(descriptor)
    try:
        return _hand_over(driver, seconds, handle_type, picture)
    except BaseException:
        os.unlink(picture)
        raise


def _hand_over(driver: str, seconds: float, handle_type: str, picture: str) -> dict[str, Any]:
    if sys.platform == "win32":
        raise Unsupported(
            "the demo hands a file descriptor to a second process, and Windows has none: run it on "
            "Linux"
        )
    with open_device(driver=driver) as gpu:
        wanted = _choose_type(gpu, handle_type)
        with gpu.allocate(SLOTS * FRAME, export=wanted) as memory:
            ours, theirs = socket.socketpair()
            arguments = {
                "driver": gpu.driver,
                "uuid": gpu.physical.device_uuid.hex(),
                "handle_type": wanted,
                "size": memory.size,
                "memory_type": memory.memory_type.index,
                "dedicated": memory.dedicated,
                "picture": os.path.abspath(picture),
            }
            with ours:
                with theirs:
                    receiver = _start_receiver(theirs, arguments)
                try:
                    ours.settimeout(PATIENCE)
                    with memory.export(wanted) as handle:
                        socket.send_fds(ours, [b"h"], [handle.fileno()])
                    _expect_ready(ours, receiver)
                    try:
                        outcome = _publish(ours, memory, seconds)
                    except (EOFError, BrokenPipeError, ConnectionResetError, ValueError):
                        raise ExtmemError(
                            "the receiving process ended early "
                            f"(status {receiver.wait(PATIENCE)}); see its message above"
                        ) from None
                    receiver.wait(PATIENCE)
                finally:
                    if receiver.poll() is None:
                        receiver.kill()
                        receiver.wait()
        return {
            "device": gpu.physical.name,
            "driver": gpu.driver,
            "handle_type": wanted,
            **outcome,
            "picture": os.path.abspath(picture),
        }


def _choose_type(gpu: Device, asked: str) -> str:
    offered = [s.handle_type.name for s in gpu.physical.sharing if s.exportable and s.importable]
    if asked != "auto":
        if asked not in offered:
            raise Unsupported(
                f"{gpu.physical.name} cannot export and import {asked}; it can: "
                + (", ".join(offered) or "nothing")
            )
        return asked
    for name in PREFERRED:
        if name in offered:
            return name
    raise Unsupported(
        f"{gpu.physical.name} ({gpu.driver} driver) cannot share memory between processes; "
        "try --driver embedded"
    )


def _start_receiver(theirs: socket.socket, arguments: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "extmem.cli.receiver", str(theirs.fileno())]
    return subprocess.Popen(
        [*command, json.dumps(arguments)], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
    )


def _expect_ready(ours: socket.socket, receiver: subprocess.Popen[bytes]) -> None:
    try:
        ready = ours.recv(1)
    except TimeoutError:
        ready = b""
    if ready != b"r":
        receiver.kill()
        raise ExtmemError("the receiving process did not start; see its message above")


def _publish(ours: socket.socket, memory: Any, seconds: float) -> dict[str, Any]:
    """Paint, tell, wait for the answer; for so many seconds."""
    painter = Painter()
    slots = memory.numpy("uint8", (SLOTS, HEIGHT, WIDTH, 4))
    ours.setblocking(True)
    channel = ours.fileno()
    latencies: list[float] = []
    wrong = number = 0
    painter.paint(slots[0], 0)
    counters = messages.KernelCounters()
    crossed = 0
    started = time.monotonic()
    while True:
        slot = number % SLOTS
        memory.flush()
        checksum = zlib.crc32(slots[slot])
        crossed += messages.send(
            channel, messages.PICTURE, number, slot, checksum, time.monotonic_ns()
        )
        # The next picture is painted while the other process checks this one.
        painter.paint(slots[(number + 1) % SLOTS], number + 1)
        answer, size = messages.receive(channel, messages.ANSWER)
        crossed += size
        _, published, seen, right = answer
        latencies.append((seen - published) / 1000)
        wrong += not right
        number += 1
        if time.monotonic() - started >= seconds:
            break
    elapsed = time.monotonic() - started
    ours_counted = counters.since()
    messages.send(channel, messages.PICTURE, messages.END, slot, 0, 0)
    theirs = json.loads(messages.receive_all(channel))
    del slots
    latencies.sort()
    return {
        "frames": number,
        "seconds": round(elapsed, 3),
        "latency_us": {
            "p50": round(statistics.median(latencies), 1),
            "p99": round(latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)], 1),
        },
        "bytes_shared": number * FRAME,
        **_copied(crossed, ours_counted, theirs["kernel"]),
        "frames_wrong": wrong,
        "pixels_checked": theirs["bytes_checked"] // 4,
    }


def _copied(crossed: int, ours: Any, theirs: Any) -> dict[str, Any]:
    """What was copied between the processes: our count, and the kernel's.

    A byte that crosses is written once and read once, so the kernel sees it in both processes.
    Should the kernel have seen more than we counted, its figure is the truth.
    """
    if ours is None or theirs is None:
        return {"bytes_copied": crossed, "bytes_copied_kernel": None}
    written, read = ours["written"] + theirs["written"], ours["read"] + theirs["read"]
    kernel = max(written, read)
    return {"bytes_copied": max(crossed, kernel), "bytes_copied_kernel": kernel}


def show(result: dict[str, Any]) -> None:
    """The result for people."""
    latency = result["latency_us"]
    kernel = result["bytes_copied_kernel"]
    counted = "the kernel's counters are not readable here"
    if kernel is not None:
        counted = f"the kernel counted {kernel:,}"
    per_frame = result["bytes_copied"] / max(result["frames"], 1)
    print(f"device        {result['device']} ({result['driver']} driver)")
    print(f"handle        {result['handle_type']}, imported by a second process")
    print(
        f"frames        {result['frames']:,} in {result['seconds']:.1f} s, {WIDTH} x {HEIGHT} RGBA"
    )
    print(f"wrong         {result['frames_wrong']:,} (every frame checked by its checksum)")
    print(f"latency       p50 {latency['p50']:,.0f} µs, p99 {latency['p99']:,.0f} µs")
    print(f"pictures      {result['bytes_shared']:,} bytes seen by both, none of them copied")
    print(
        f"copied        {result['bytes_copied']:,} bytes of messages, {per_frame:.0f} per frame "
        f"({counted})"
    )
    print(f"picture       {result['picture']}")
