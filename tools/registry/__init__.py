"""From Khronos' registry to the generated modules of `extmem.vk`."""
