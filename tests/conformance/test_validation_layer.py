"""Khronos' validation layer has nothing to say of what the rules let through.

The conformance cases run once more, on lavapipe, with the layer between extmem and the driver. All
that a test breaks on purpose is refused before it gets there, so whatever the layer says is either
a rule that we miss, or the layer's own fault.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support import drivers
from tests.support.strict import missing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Wine has no layers")

LAYER = "VK_LAYER_KHRONOS_validation"
MANIFEST = Path("/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json")
ROOT = Path(__file__).parents[2]

# The cases of a normal run, and of the long form: EXTMEM_TEST_LONG=1.
SHORT = ("test_objects.py", "test_semaphores_objects.py", "test_images_fd.py")
LONG = (*SHORT, "test_memory_fd.py", "test_memory_host.py", "test_images_objects.py",
        "test_images_shared.py", "test_fences_objects.py",
        "test_sync_objects_shared.py", "test_memory_win32.py", "test_bridge.py",
        "test_bridge_memory.py", "test_bridge_semaphores.py", "test_ownership.py",
        "test_streams_images.py", "test_two_processes.py", "test_views.py")  # fmt: skip

# What the layer says, and why we do not.
_NV = (
    "NV's extension has no structure that tells a buffer of what it will be bound to, and the "
    "memory that NV's structures make is KHR's below the bridge, where KHR's rule asks for one"
)
KNOWN = {
    "VUID-vkBindBufferMemory-memory-02726": _NV,
    "VUID-vkBindBufferMemory-memory-02727": _NV,
}

_MESSAGE = re.compile(r"\[ (\S+) \]")


def test_the_layer_has_nothing_to_add(tmp_path: Path) -> None:
    if not MANIFEST.exists():
        missing("the validation layers (vulkan-validationlayers)")
    drivers.find("lavapipe")
    said = messages(tmp_path, LONG if os.environ.get("EXTMEM_TEST_LONG") else SHORT)
    left = {name: count for name, count in said.items() if name not in KNOWN}
    assert left == {}
    assert set(said) == set(KNOWN)  # it was there, and was heard


def messages(folder: Path, files: tuple[str, ...]) -> Counter[str]:
    """How often the layer said what, while the cases of these files ran."""
    # A pipe: every instance of every process opens the file anew, and would write over the rest.
    log = folder / "log"
    os.mkfifo(log)
    (folder / "vk_layer_settings.txt").write_text(
        "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n"
        "khronos_validation.report_flags = error\n"
        f"khronos_validation.log_filename = {log}\n"
    )
    said: Counter[str] = Counter()
    with os.fdopen(os.open(log, os.O_RDWR), errors="replace") as lines:
        end = threading.Event()

        def listen() -> None:
            for line in lines:
                if "the end of the run" in line:
                    end.set()
                    return
                said.update(_MESSAGE.findall(line))

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x",
                 "-k", "lavapipe and not lavapipe-25 and not unchecked and not off",
                 *(f"tests/conformance/{each}" for each in files)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "VK_INSTANCE_LAYERS": LAYER,
                    "VK_LAYER_SETTINGS_PATH": str(folder),
                    "EXTMEM_TEST_LAYER": "1",
                },
                capture_output=True,
                text=True,
            )  # fmt: skip
            time.sleep(0.2)
        finally:
            with open(log, "w") as last:
                last.write("the end of the run\n")
            listener.join()
    assert done.returncode == 0, done.stdout[-4000:]
    return said
