"""What answers Vulkan's commands: the system's driver, or the embedded device."""
