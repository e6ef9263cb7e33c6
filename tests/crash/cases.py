"""All bad inputs, one module for each subject."""

from tests.crash import (
    chain_traps,
    command_traps,
    fd_traps,
    host_traps,
    image_traps,
    instance_traps,
    memory_traps,
    object_image_traps,
    object_memory_traps,
    object_sync_traps,
    queue_traps,
    sync_traps,
    windows_traps,
)

__all__ = [
    "chain_traps",
    "command_traps",
    "fd_traps",
    "host_traps",
    "image_traps",
    "instance_traps",
    "memory_traps",
    "object_image_traps",
    "object_memory_traps",
    "object_sync_traps",
    "queue_traps",
    "sync_traps",
    "windows_traps",
]
