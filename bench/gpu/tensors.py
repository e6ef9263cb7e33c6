#!/usr/bin/env python3
"""Tensors on a GPU: what is shared with CUDA is right, and what it costs beside the bare calls.

    python bench/gpu/tensors.py [--driver PATH] [--only SECTION,...] [--seconds 240] [--json FILE]

Needs an NVIDIA GPU with its Vulkan driver, cuda-bindings and PyTorch with CUDA; a second GPU for
one part of `devices`. Each section runs in a process of its own with a time limit, so that one that
fails or hangs does not end the others. What it finds is printed at once, and at the end all of it
as JSON. The exit code is 0 if all that was run is right, 1 if something is wrong, and 2 if there is
no GPU that Vulkan, CUDA and PyTorch all see.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import common
import tensors_peers
import tensors_right
import tensors_times
import tensors_users

# Each section: what it runs, and seconds that it may take.
SECTIONS = {
    "devices": (tensors_right.devices, 40),
    "import": (tensors_times.importing, 45),
    "memory": (tensors_right.memory, 60),
    "images": (tensors_right.images, 40),
    "pictures": (tensors_users.pictures, 50),
    "libraries": (tensors_users.libraries, 50),
    "writers": (tensors_users.writers, 30),
    "streams": (tensors_times.streams, 50),
    "peers": (tensors_peers.peers, 50),
    "queues": (tensors_times.queues, 60),
    "frames": (tensors_right.frames, 100),
}
RIGHT, WRONG, NO_GPU = 0, 1, 2


def run_one(name: str, driver: str, seconds: float, out: str) -> int:
    """A section, in this process."""
    result: dict[str, Any] = {}
    try:
        result = SECTIONS[name][0](driver, seconds)
        result["status"] = "right" if not common.wrongs else "wrong"
    except common.NoGpu as error:
        result["status"] = "no GPU"
        print(f"{name}: no CUDA device: {error}", flush=True)
    except BaseException as error:
        result["status"] = "failed"
        result["error"] = repr(error)
        traceback.print_exc()
    result["wrong"] = common.wrongs
    result["rows"] = common.rows
    Path(out).write_text(json.dumps(result))
    return 0


def run_apart(name: str, driver: str, seconds: float) -> dict[str, Any]:
    """A section in a process of its own, which is killed with its children if it takes too long."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "result.json")
        command = [sys.executable, "-u", __file__, "--section", name, "--out", out]
        command += ["--driver", driver, "--seconds", str(seconds)]
        began = time.monotonic()
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(timeout=seconds)
            ended = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"was killed after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has left, too
            process.wait()
        found: dict[str, Any] = {"status": "failed", "error": f"the section {ended}"}
        if os.path.exists(out):
            found = json.loads(Path(out).read_text())
        found["seconds"] = round(time.monotonic() - began, 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--driver", default="system")
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=240.0, help="for everything")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        return run_one(options.section, options.driver, options.seconds, options.out)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    until = time.monotonic() + options.seconds
    results: dict[str, Any] = {}
    for name in names:
        left = until - time.monotonic()
        if left < 10:
            results[name] = {"status": "not run", "error": "no time was left"}
        else:
            print(f"\n== {name}", flush=True)
            results[name] = run_apart(name, options.driver, min(SECTIONS[name][1], left))
        status = results[name]["status"]
        print(f"== {name}: {status} {results[name].get('error', '')}".rstrip(), flush=True)
        if status == "no GPU":
            break  # nor will the others find one
    text = json.dumps(results, indent=2)
    if options.json:
        Path(options.json).write_text(text)
    print(text)
    found = {each["status"] for each in results.values()}
    return NO_GPU if "no GPU" in found else RIGHT if found == {"right"} else WRONG


if __name__ == "__main__":
    sys.exit(main())
