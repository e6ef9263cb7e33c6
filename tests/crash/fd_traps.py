"""Descriptors: of what is no memory, of other memory, closed ones, taken ones."""

from __future__ import annotations

import os
import select
import socket
import tempfile

from extmem import vk
from tests.crash.scene import Scene
from tests.crash.trap import trap
from tests.support.bare import DMA_BUF, HOST, OPAQUE_FD, OPAQUE_WIN32, SIZE, Bare

_IMPORT = "VUID-VkImportMemoryFdInfoKHR"
_INFO = "VUID-VkMemoryAllocateInfo"
_NO_MEMORY = f"{_IMPORT}-handleType-00670"

# Descriptors are Linux' alone.
_FD = "vkGetMemoryFdKHR"


# -- what is no memory ----------------------------------------------------------------------------


@trap(_NO_MEMORY, on="linux", needs=_FD)
def empty_pipe(here: Scene) -> None:
    reading, writing = os.pipe()
    here.fd(writing)
    here.import_fd(here.fd(reading))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def writing_end_of_a_pipe(here: Scene) -> None:
    reading, writing = os.pipe()
    here.fd(reading)
    here.import_fd(here.fd(writing), DMA_BUF)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def pipe_with_bytes_in_it(here: Scene) -> None:
    reading, writing = os.pipe()
    os.write(here.fd(writing), b"bytes")
    here.import_fd(here.fd(reading))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def socket_of_a_peer(here: Scene) -> None:
    one, other = socket.socketpair()
    here.fd(other.detach())
    here.import_fd(here.fd(one.detach()))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def socket_that_listens(here: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("\0extmem-crash-test")
        door.listen()
        here.import_fd(here.fd(os.dup(door.fileno())))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def directory(here: Scene) -> None:
    here.import_fd(here.fd(os.open("/", os.O_RDONLY)))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def path_alone(here: Scene) -> None:
    here.import_fd(here.fd(os.open("/etc", os.O_PATH)))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def event_counter(here: Scene) -> None:
    here.import_fd(here.fd(os.eventfd(0)))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def epoll_set(here: Scene) -> None:
    with select.epoll() as watched:
        here.import_fd(here.fd(os.dup(watched.fileno())))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def process_descriptor(here: Scene) -> None:
    here.import_fd(here.fd(os.pidfd_open(os.getpid())))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def file_on_disk(here: Scene) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * SIZE)
        here.import_fd(here.fd(os.dup(file.fileno())))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def file_of_the_kernel(here: Scene) -> None:
    here.import_fd(here.fd(os.open("/proc/self/maps", os.O_RDONLY)))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def device_of_zeros(here: Scene) -> None:
    here.import_fd(here.fd(os.open("/dev/zero", os.O_RDWR)))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def device_of_nothing(here: Scene) -> None:
    here.import_fd(here.fd(os.open("/dev/null", os.O_RDWR)))


@trap(_NO_MEMORY, on="linux", needs=_FD)
def device_of_chance(here: Scene) -> None:
    here.import_fd(here.fd(os.open("/dev/urandom", os.O_RDONLY)), DMA_BUF)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def number_that_was_never_open(here: Scene) -> None:
    here.import_fd(9999)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def number_that_was_closed(here: Scene) -> None:
    fd = here.fd_of(here.exportable())
    os.close(fd)
    here.import_fd(fd)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def largest_number(here: Scene) -> None:
    here.import_fd(0x7FFFFFFF)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def negative_number(here: Scene) -> None:
    here.import_fd(-1)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def smallest_number(here: Scene) -> None:
    here.import_fd(-0x80000000)


@trap(ValueError, says="does not fit", on="linux", needs=_FD)
def number_of_40_bits(here: Scene) -> None:
    here.import_fd(1 << 40)


@trap(TypeError, says=r"VkImportMemoryFdInfoKHR\.fd was given None", on="linux", needs=_FD)
def no_number(here: Scene) -> None:
    here.import_fd(None)  # type: ignore[arg-type]


@trap(TypeError, says="fd", on="linux", needs=_FD)
def file_object_for_a_number(here: Scene) -> None:
    with tempfile.TemporaryFile() as file:
        here.import_fd(file)  # type: ignore[arg-type]


# -- memory of another kind, size, type or driver -------------------------------------------------


@trap(_NO_MEMORY, on="linux", needs=_FD)
def one_number_imported_twice(here: Scene) -> None:
    fd = here.fd_of(here.exportable())
    here.import_fd(fd)
    here.import_fd(fd)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def opaque_descriptor_as_a_dma_buf(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), DMA_BUF)


@trap(_NO_MEMORY, on="linux", needs=_FD)
def plain_memfd_as_a_dma_buf(here: Scene) -> None:
    fd = here.fd(os.memfd_create("plain"))
    os.truncate(fd, SIZE)
    here.import_fd(fd, DMA_BUF)


@trap(f"{_IMPORT}-handleType-00669", on="linux", needs=_FD)
def windows_type_with_a_descriptor(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), OPAQUE_WIN32)


@trap(f"{_IMPORT}-handleType-00669", on="linux", needs=_FD)
def host_type_with_a_descriptor(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), HOST)


@trap(f"{_IMPORT}-handleType-parameter", on="linux", needs=_FD)
def two_types_with_one_descriptor(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), OPAQUE_FD | DMA_BUF)


@trap(f"{_IMPORT}-handleType-parameter", on="linux", needs=_FD)
def type_that_nobody_knows(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), 1 << 30)


@trap(f"{_INFO}-allocationSize-01742", on="linux", needs=_FD)
def file_shorter_than_it_claims(here: Scene) -> None:
    fd = here.fd(os.memfd_create("short"))
    os.truncate(fd, 100)
    here.import_fd(fd)


@trap(f"{_INFO}-allocationSize-01742", on="linux", needs=_FD)
def empty_file(here: Scene) -> None:
    here.import_fd(here.fd(os.memfd_create("empty")))


@trap(f"{_INFO}-allocationSize-01742", on="linux", needs=_FD)
def import_of_no_bytes(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), size=0)


@trap(f"{_INFO}-allocationSize-01742", on="linux", needs=_FD)
def import_of_fewer_bytes(here: Scene) -> None:
    here.import_fd(here.fd(here.telling(here.fd_of(here.exportable()))), size=SIZE - 4096)


@trap(f"{_INFO}-allocationSize-01742", on="linux", needs=_FD)
def import_of_one_byte_more(here: Scene) -> None:
    here.import_fd(here.fd(here.telling(here.fd_of(here.exportable()))), size=SIZE + 1)


@trap(
    f"{_INFO}-allocationSize-01742",
    "VUID-vkAllocateMemory-pAllocateInfo-01713",
    on="linux",
    needs=_FD,
)
def import_of_all_bytes_there_are(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), size=(1 << 64) - 1)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714", on="linux", needs=_FD)
def import_with_memory_type_31(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), index=31)


@trap("VUID-vkAllocateMemory-pAllocateInfo-01714", on="linux", needs=_FD)
def import_with_memory_type_of_all_ones(here: Scene) -> None:
    here.import_fd(here.fd(here.fd_of(here.exportable())), index=0xFFFFFFFF)


@trap(f"{_IMPORT}-fd-00668", on="linux", needs=_FD)
def payload_of_another_driver(here: Scene) -> None:
    stranger = "embedded" if here.driver != "embedded" else "system"
    with Bare(stranger) as other:
        here.import_fd(here.fd(other.fd_of(other.exportable())))


@trap(f"{_IMPORT}-fd-00668", on="linux", needs=_FD)
def payload_of_another_physical_device(here: Scene) -> None:
    with Bare(here.driver, index=1) as other:
        here.import_fd(here.fd(other.fd_of(other.exportable())))


@trap("VUID-VkMemoryDedicatedAllocateInfo-buffer-01879", on="linux", needs=_FD)
def dedicated_payload_as_an_undedicated_one(here: Scene) -> None:
    buffer = here.buffer(types=OPAQUE_FD)
    needs = vk.vkGetBufferMemoryRequirements(here.device, buffer)
    index = (needs.memoryTypeBits & -needs.memoryTypeBits).bit_length() - 1
    alone = vk.VkMemoryDedicatedAllocateInfo(buffer=buffer)
    export = vk.VkExportMemoryAllocateInfo(handleTypes=OPAQUE_FD)
    memory = here.allocate(export, alone, size=needs.size, index=index)
    here.import_fd(here.fd(here.telling(here.fd_of(memory))), size=needs.size, index=index)
