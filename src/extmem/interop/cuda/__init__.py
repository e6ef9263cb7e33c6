"""CUDA: memory and semaphores of Vulkan's imported there, by their handles and without a copy.

    from extmem.interop import cuda

    with memory.export() as handle, cuda.import_memory(handle) as there:
        tensor = torch.from_dlpack(there.array((1024, 1024), "float32"))

    with done.export() as handle, cuda.import_semaphore(handle) as there:
        there.wait(1, torch.cuda.current_stream())

Needs the extra "cuda" (cuda-bindings) and NVIDIA's driver. `Memory.array(..., device="cuda")` and
`torch.from_dlpack(memory)` do the first of these by themselves.
"""

from extmem.interop.cuda.devices import Gpu, gpus
from extmem.interop.cuda.images import CudaImage
from extmem.interop.cuda.memory import CudaMemory, import_memory
from extmem.interop.cuda.semaphores import CudaSemaphore, import_semaphore
from extmem.interop.cuda.views import CudaArray

__all__ = [
    "CudaArray",
    "CudaImage",
    "CudaMemory",
    "CudaSemaphore",
    "Gpu",
    "gpus",
    "import_memory",
    "import_semaphore",
]
