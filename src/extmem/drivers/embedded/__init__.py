"""A Vulkan device made of plain shared memory: no GPU, no driver, any system.

It is what the library falls back to where no driver is found, what its tests measure drivers by,
and what lets a newcomer run the examples on any machine. It is not a renderer: it allocates,
shares, copies and synchronises.
"""

from extmem.drivers.embedded.driver import EmbeddedDriver

__all__ = ["EmbeddedDriver"]
