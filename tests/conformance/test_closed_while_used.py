"""What is closed while the device still uses it lives until that has ended.

Each case runs in a process of its own, because drivers die of it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PATIENCE = 60.0  # seconds for what takes a moment

_PROGRAM = """
import sys, threading, time
import numpy as np
import extmem

driver, what = sys.argv[1:]
gpu = extmem.open_device(driver=driver)
gate, done = gpu.semaphore(), gpu.semaphore()
plain = gpu.allocate(4096)
if what == "buffer":
    closed = target = gpu.buffer(plain)
elif what == "memory":
    target = gpu.buffer(plain)
    closed = plain
elif what == "dedicated":
    closed = gpu.allocate(4096, dedicated=True)
    target = gpu.buffer(closed)
else:
    closed = target = gpu.image((8, 8), "rgba8")

def work():
    if what == "image":
        gpu.upload(target, np.ones((8, 8, 4), "uint8"), wait=[(gate, 1)])
    else:
        gpu.fill(target, 1, wait=[(gate, 1)])

alive = gpu.handle.dispatch.world.count
before = alive()
worker = threading.Thread(target=work)
worker.start()
while not gpu._work._pending:
    time.sleep(0.001)
closed.close()
assert closed.closed
kinds = {
    "buffer": ["VkBuffer"],
    "memory": ["VkDeviceMemory"],
    "image": ["VkImage", "VkDeviceMemory"],
    "dedicated": ["VkBuffer", "VkDeviceMemory"],
}[what]
assert all(alive()[kind] >= before[kind] for kind in kinds), (before, alive())
gate.signal(1)
worker.join(60)
assert not worker.is_alive()
gpu.submit(signal=[(done, 1)])
done.wait(1, timeout=60)
gpu._work.collect()
assert all(alive().get(kind, 0) < before[kind] for kind in kinds), (before, alive())
gpu.close()
print("alive")
"""


@pytest.mark.parametrize("what", ["buffer", "memory", "dedicated", "image"])
def test_closed_while_the_device_uses_it(driver: str, what: str) -> None:
    assert _run(_PROGRAM, driver, what).stdout == "alive\n"


_REFUSED = """
import sys
import extmem
from extmem import vk

gpu = extmem.open_device(driver=sys.argv[1])
gate, done = gpu.semaphore(), gpu.semaphore()
memory = gpu.allocate(4096, dedicated=True)
target = gpu.buffer(memory)
pool = vk.vkCreateCommandPool(
    gpu.handle, vk.VkCommandPoolCreateInfo(queueFamilyIndex=gpu.queue_family)
)
(commands,) = vk.vkAllocateCommandBuffers(
    gpu.handle, vk.VkCommandBufferAllocateInfo(commandPool=pool, commandBufferCount=1)
)
vk.vkBeginCommandBuffer(commands, vk.VkCommandBufferBeginInfo())
vk.vkCmdFillBuffer(commands, target.handle, 0, vk.VK_WHOLE_SIZE, 7)
vk.vkEndCommandBuffer(commands)
times = vk.VkTimelineSemaphoreSubmitInfo(pWaitSemaphoreValues=[1], pSignalSemaphoreValues=[1])
info = vk.VkSubmitInfo(
    pNext=times,
    pWaitSemaphores=[gate.handle],
    pWaitDstStageMask=[int(vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT)],
    pCommandBuffers=[commands],
    pSignalSemaphores=[done.handle],
)
vk.vkQueueSubmit(gpu.queue, 1, [info], None)
try:
    memory.close()
except extmem.RuleViolation as error:
    print(sorted(each.vuid for each in error.problems))
assert not memory.closed
gate.signal(1)
done.wait(1, timeout=60)
memory.close()
assert memory.closed
vk.vkDestroyCommandPool(gpu.handle, pool)
gpu.close()
print("alive")
"""


def test_closing_that_a_rule_refuses_may_be_tried_again(driver: str) -> None:
    """Of what was submitted by calls of `extmem.vk`, which the objects do not know of."""
    done = _run(_REFUSED, driver)
    refused, alive = done.stdout.split("\n", 1)
    assert "VUID-" in refused
    assert alive == "alive\n"


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done
