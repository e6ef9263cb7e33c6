"""What the pages say of attributes that have no comment beside them, because their names say it."""

from __future__ import annotations

__all__ = ["INTERNAL", "NOTES"]

# Public by their spelling alone: used between modules of the package.
INTERNAL = {"board", "give_up", "life", "ownership", "reader", "spin"}

_DEVICE = "the `Device` that it is of"
_HANDLE_TYPE = "which type of handle it is"
_PLACE = "the device and machine, which must be the same for an importer"
_GPU = "the GPU that it is on: a `Gpu`"
_EXPORTER = "who shares it, for people"

NOTES: dict[str, dict[str, str]] = {
    "Array": {"memory": "the `Memory` that the elements lie in"},
    "Buffer": {"device": _DEVICE, "memory": "the `Memory` that it is a range of"},
    "Channel": {"peer": "who is at the other end: a `Peer`"},
    "CudaArray": {
        "dtype": "the elements' type: NumPy's name, or \"bfloat16\"",
        "shape": "how many elements along each dimension",
        "offset": "bytes from the memory's beginning",
        "strides": "bytes from one element to the next along each dimension",
        "nbytes": "bytes of all elements",
        "read_only": "what is said to consumers; nothing prevents them from writing",
    },
    "CudaImage": {"gpu": _GPU, "info": "how it was created: an `ImageInfo`"},
    "CudaMemory": {"gpu": _GPU},
    "CudaSemaphore": {"gpu": _GPU, "timeline": "whether it is a timeline, else binary"},
    "Device": {
        "physical": "what it is and can share: a `PhysicalDevice`",
        "instance": "the VkInstance, for calls of `extmem.vk`; still owned by this object",
        "vk_physical": "the VkPhysicalDevice, for calls of `extmem.vk`",
        "queue_family": "the index of the queue family that copies are submitted to",
        "extensions": "the device extensions that are enabled",
        "timelines": "whether it has timeline semaphores",
        "queue": "the VkQueue that copies are submitted to",
    },
    "DriverError": {
        "result": "the VkResult that the driver returned",
        "call": "the command's name",
        "hint": "what to look at, where something is known of it",
    },
    "Exporter": {"process_id": "the number of its process"},
    "Fence": {"device": _DEVICE},
    "Gpu": {
        "name": "what CUDA calls it",
        "uuid": "16 bytes, the same as Vulkan's deviceUUID",
        "luid": "8 bytes on Windows, else None",
    },
    "Handle": {
        "handle_type": _HANDLE_TYPE,
        "size": "bytes that are shared; None for semaphores and fences",
        "memory_type_index": "the memory type of the exporter; None for semaphores and fences",
        "device_uuid": "of the device that it was exported from",
        "dedicated": "whether the exporter's allocation was dedicated to a buffer or image",
        "passport": "what an importer must know and no handle can tell",
    },
    "Image": {"device": _DEVICE, "format": "the pixels' format, by its short name"},
    "ImageInfo": {
        "width": "pixels of a row",
        "height": "rows",
        "depth": "slices of a three-dimensional image, else 1",
        "levels": "mip levels",
        "layers": "array layers",
        "samples": "VkSampleCountFlagBits",
        "tiling": "VkImageTiling",
        "usage": "VkImageUsageFlags",
        "flags": "VkImageCreateFlags",
        "planes": "where the planes lie, with a modifier",
    },
    "Listener": {"name": "what `connect` takes", "users": "who is admitted besides this user"},
    "Memory": {
        "device": _DEVICE,
        "memory_type": "where it was allocated: a `MemoryType`",
        "dedicated": "whether the allocation is dedicated to a buffer or image",
        "image": "the image that it was made for, if any",
        "passport": "what an importer must know; of an import, its exporter's word",
    },
    "MemoryType": {
        "index": "VkMemoryAllocateInfo's memoryTypeIndex",
        "heap": "the index of its heap",
    },
    "Parcel": {"message": "the bytes that were sent", "handles": "the handles: `Handle`"},
    "Passport": {"place": _PLACE, "exporter": _EXPORTER},
    "PhysicalDevice": {
        "index": "its place among its driver's devices",
        "name": "what the driver calls it",
        "device_uuid": "16 bytes, the same in every process and after a restart",
        "driver_uuid": "16 bytes that stand for the build of the driver",
        "node_mask": "which of linked adapters it is: one bit, 1 where there is only one",
        "memory_types": "each as `MemoryType`",
        "extensions": "the device extensions that it has, and those that are carried here",
    },
    "Place": {
        "device_uuid": "of the physical device",
        "driver_uuid": "of the driver's build",
        "luid": "8 bytes where the device has one",
        "node_mask": "which of linked adapters it is",
        "boot": "when the machine was started; zeros are unknown",
    },
    "QuarantineError": {"exit_code": "how the helper process ended, where it ended by itself"},
    "Reader": {"process_id": "the number of its process"},
    "RuleViolation": {
        "call": "the command's name",
        "problems": "every broken rule that was found, each as `Problem`",
    },
    "Semaphore": {"device": _DEVICE, "timeline": "whether it is a timeline, else binary"},
    "Sharing": {
        "handle_type": _HANDLE_TYPE,
        "exportable": "whether memory can be exported as it",
        "importable": "whether memory can be imported from it",
        "dedicated_only": "whether only an allocation for one buffer or image can",
    },
    "Stream": {
        "name": "what subscribers ask for",
        "policy": '"latest" or "all"',
        "shape": "of each frame",
        "dtype": "of each frame, as NumPy has it",
    },
    "Subscription": {
        "name": "of the stream",
        "policy": '"latest" or "all"',
        "shape": "of each frame",
        "dtype": "of each frame, as NumPy has it",
    },
    "SyncPassport": {
        "object": '"semaphore" or "fence"',
        "place": _PLACE,
        "exporter": _EXPORTER,
    },
    "ViewsAlive": {"count": "how many views are alive"},
}
