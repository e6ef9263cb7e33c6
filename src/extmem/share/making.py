"""The slots of a new stream, on its publisher's device: memory that can be shared, or images."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from extmem.share.formats import Format
from extmem.share.pictures import WrittenPictures
from extmem.share.promises import timeline_of
from extmem.share.slots import Slots

if TYPE_CHECKING:
    from extmem.device import Device

__all__ = ["make_slots"]


def make_slots(
    device: Device, format: Format, memory: str | int | None, count: int, opened: Device | None
) -> Slots:
    """So many slots for frames of a format. Unsupported, with the reason, where a device makes no
    such images.

    memory: of `publish`; opened: the device, if it is to be closed with them
    """
    handle_type = "opaque_win32" if sys.platform == "win32" else "opaque_fd"
    texels = format.texels
    pictures = None
    with contextlib.ExitStack() as made:
        timeline = timeline_of(device, handle_type)
        if timeline is not None:
            made.enter_context(timeline)
        if texels is None:
            where = "host_visible" if memory is None else memory
            memories = [
                made.enter_context(device.allocate(format.size, export=handle_type, memory=where))
                for _ in range(count)
            ]
        else:
            images = [
                made.enter_context(
                    device.image(
                        format.shape,
                        texels.format,
                        tiling=texels.tiling,
                        usage=texels.usage,
                        export=handle_type,
                        memory=memory,
                    )
                )
                for _ in range(count)
            ]
            memories = [each.memory for each in images]
            written = None if timeline is None else timeline_of(device, handle_type)
            if written is not None:
                made.enter_context(written)
            pictures = WrittenPictures(images, written)
        kept = Slots(
            memories, format, writable=True, device=opened, timeline=timeline, pictures=pictures
        )
        made.pop_all()
    return kept
