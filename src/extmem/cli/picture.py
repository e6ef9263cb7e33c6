"""The moving picture of the demo, and PNG files."""

from __future__ import annotations

import struct
import zlib
from typing import Any

__all__ = ["HEIGHT", "WIDTH", "Painter", "png", "write_png"]

WIDTH, HEIGHT = 640, 360


class Painter:
    """Paints frame after frame: colours that drift, a disc that circles, the frame's number.

    >>> import numpy
    >>> frame = numpy.zeros((HEIGHT, WIDTH, 4), numpy.uint8)
    >>> Painter().paint(frame, 0)
    >>> int(frame[..., 3].min())
    255
    """

    def __init__(self) -> None:
        import numpy as np

        self._np = np
        self._y, self._x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.int32)
        self._ramp = np.empty((HEIGHT, WIDTH, 4), np.uint8)
        self._ramp[..., 0] = self._x * 255 // WIDTH
        self._ramp[..., 1] = self._y * 255 // HEIGHT
        self._ramp[..., 2] = 96
        self._ramp[..., 3] = 255

    def paint(self, frame: Any, number: int) -> None:
        """Write picture `number` into `frame`, an array of (HEIGHT, WIDTH, 4) bytes."""
        np = self._np
        shift = number * 4 % WIDTH
        frame[:, : WIDTH - shift] = self._ramp[:, shift:]
        frame[:, WIDTH - shift :] = self._ramp[:, :shift]
        angle = number * 0.05
        x = WIDTH / 2 + np.cos(angle) * WIDTH / 3
        y = HEIGHT / 2 + np.sin(angle) * HEIGHT / 3
        left, top = int(x) - 40, int(y) - 40
        box = slice(max(top, 0), top + 80), slice(max(left, 0), left + 80)
        inside = (self._x[box] - x) ** 2 + (self._y[box] - y) ** 2 < 1600
        frame[box][inside] = (255, 255, 255, 255)
        # The number itself in the first pixels, so that no two pictures are equal.
        frame[0, :2].reshape(8)[:8] = np.frombuffer(struct.pack("<Q", number), np.uint8)
        frame[0, :2, 3] = 255


def write_png(path: str, frame: Any) -> None:
    """Write an array of (height, width, 4) bytes as a PNG file."""
    with open(path, "wb") as file:
        file.write(png(frame))


def png(frame: Any) -> bytes:
    """The same as the bytes of that file.

    >>> import numpy
    >>> png(numpy.zeros((2, 2, 4), numpy.uint8))[1:4]
    b'PNG'
    """
    height, width, _ = frame.shape
    rows = b"".join(b"\0" + frame[row].tobytes() for row in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 6)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
