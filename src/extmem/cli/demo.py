"""`extmem demo`: two processes and a moving picture, handed over without a copy.

This process allocates memory, exports it, and paints pictures into it. A second process
(`extmem.cli.receiver`) imports the handle and checks each picture by its checksum. What crosses
between the two beside the handle is one small message per picture and its answer; every byte of
those is counted here, and held against what the kernel counted for both processes.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from typing import Any

import typer

from extmem import Device, Memory, Unsupported, handle_types, open_device
from extmem.cli import messages
from extmem.cli.picture import HEIGHT, WIDTH, Painter
from extmem.cli.progress import on_terminal, progress
from extmem.cli.schemas import schema_of
from extmem.errors import ExtmemError
from extmem.handle_types import HandleType

__all__ = ["run", "show"]

SLOTS = 3  # one is painted while one is checked; a third so that neither touches the next
FRAME = WIDTH * HEIGHT * 4
PREFERRED = ("opaque_fd", "dma_buf", "opaque_win32")
PATIENCE = 60.0  # seconds for the other process to answer; software drivers start slowly


def run(driver: str, seconds: float, handle_type: str, picture: str | None) -> dict[str, Any]:
    """Run the demo; the result is what `--json` prints."""
    _refuse_unknown(handle_type)
    if picture is not None:
        if os.path.splitext(picture)[1].lower() != ".png":
            raise typer.BadParameter(f"--picture is {picture}; it is a PNG, so end it in .png")
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
    with open_device(driver=driver) as gpu:
        wanted = _choose_type(gpu, handle_type)
        # An NT handle goes by its name, a descriptor is inherited.
        name = rf"Local\extmem-demo-{secrets.token_hex(8)}" if wanted.kind == "nt" else None
        with (
            gpu.allocate(SLOTS * FRAME, export=wanted.name, name=name) as memory,
            memory.export(wanted.name) as handle,
        ):
            arguments = {
                "driver": gpu.driver,
                "uuid": gpu.physical.device_uuid.hex(),
                "handle_type": wanted.name,
                "name": name,
                "descriptor": handle.fileno() if name is None else None,
                "size": memory.size,
                "memory_type": memory.memory_type.index,
                "dedicated": memory.dedicated,
                "picture": os.path.abspath(picture),
            }
            outcome = _with_receiver(memory, seconds, arguments)
        return {
            "schema": schema_of("demo"),
            "device": gpu.physical.name,
            "driver": gpu.driver,
            "handle_type": wanted.name,
            **outcome,
            "picture": os.path.abspath(picture),
        }


def _refuse_unknown(handle_type: str) -> None:
    known = [each.name for each in handle_types.MEMORY]
    if handle_type not in ("auto", *known):
        raise typer.BadParameter(
            f"--handle-type is {handle_type}; expected auto or one of {', '.join(known)}"
        )


def _choose_type(gpu: Device, asked: str) -> HandleType:
    kinds = ("nt",) if sys.platform == "win32" else ("fd", "nt")
    offered = {
        s.handle_type.name: s.handle_type
        for s in gpu.physical.sharing
        if s.exportable and s.importable and s.handle_type.kind in kinds
    }
    if asked != "auto":
        if asked not in offered:
            way = f"it can by {', '.join(offered)}" if offered else "nor by anything else"
            raise Unsupported(
                f"the demo does not share by {asked} on {gpu.physical.name} ({gpu.driver} "
                f"driver); {way}"
            )
        return offered[asked]
    for name in PREFERRED:
        if name in offered:
            return offered[name]
    raise Unsupported(
        f"{gpu.physical.name} ({gpu.driver} driver) cannot share memory between processes; "
        "try --driver embedded"
    )


def _with_receiver(memory: Memory, seconds: float, arguments: dict[str, Any]) -> dict[str, Any]:
    """Start the other process, hand pictures over, and see it end."""
    fd = arguments["descriptor"]
    receiver = subprocess.Popen(
        [sys.executable, "-P", "-m", "extmem.cli.receiver", json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        pass_fds=() if fd is None else (fd,),
    )
    assert receiver.stdin is not None
    assert receiver.stdout is not None
    to, back = receiver.stdin.fileno(), receiver.stdout.fileno()
    try:
        late = threading.Timer(PATIENCE, receiver.kill)
        late.start()
        try:
            ready = os.read(back, 1)
        finally:
            late.cancel()
            late.join()
        if ready != messages.READY:
            raise ExtmemError("the receiving process did not start; see its message above")
        try:
            outcome = _publish(to, back, memory, seconds)
        except (EOFError, OSError, ValueError):
            raise ExtmemError(
                "the receiving process ended early "
                f"(status {receiver.wait(PATIENCE)}); see its message above"
            ) from None
        receiver.wait(PATIENCE)
        return outcome
    finally:
        if receiver.poll() is None:
            receiver.kill()
            receiver.wait()
        receiver.stdin.close()
        receiver.stdout.close()


def _publish(to: int, back: int, memory: Memory, seconds: float) -> dict[str, Any]:
    """Paint, tell, wait for the answer; for so many seconds.

    to, back: pipes to the other process and from it
    """
    painter = Painter()
    slots = memory.numpy("uint8", (SLOTS, HEIGHT, WIDTH, 4))
    latencies: list[float] = []
    wrong = number = 0
    painter.paint(slots[0], 0)
    with progress("handing over", seconds) as done:
        counters = messages.KernelCounters(one_thread=on_terminal())
        crossed = 0
        started = time.monotonic()
        while True:
            slot = number % SLOTS
            memory.flush()
            checksum = zlib.crc32(slots[slot])
            crossed += messages.send(
                to, messages.PICTURE, number, slot, checksum, time.perf_counter_ns()
            )
            # The next picture is painted while the other process checks this one.
            painter.paint(slots[(number + 1) % SLOTS], number + 1)
            answer, size = messages.receive(back, messages.ANSWER)
            crossed += size
            _, published, seen, right = answer
            latencies.append((seen - published) / 1000)
            wrong += not right
            number += 1
            elapsed = time.monotonic() - started
            done(elapsed)
            if elapsed >= seconds:
                break
        ours_counted = counters.since()
    messages.send(to, messages.PICTURE, messages.END, slot, 0, 0)
    theirs = json.loads(messages.receive_all(back))
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
