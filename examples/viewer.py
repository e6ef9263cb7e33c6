"""Watch a stream in the terminal, or keep its last frame: python examples/viewer.py NAME [FILE.png]

Start camera.py with the same NAME before, or within a minute. Any stream of (height, width, 4)
bytes will do. Each character shows two pixels, one above the other; the terminal needs colours.
"""

import struct
import sys
import zlib
from shutil import get_terminal_size

import numpy as np

import extmem


def show(pixels: np.ndarray) -> None:
    """In half blocks, as large as the terminal has room for."""
    columns, lines = get_terminal_size()
    step = max(1, -(-pixels.shape[1] // columns), -(-pixels.shape[0] // (2 * lines - 4)))
    small = pixels[::step, ::step, :3]
    upper, lower = small[: len(small) // 2 * 2 : 2], small[1::2]
    rows = (
        "".join(
            "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*a, *b)
            for a, b in zip(above, below, strict=True)
        )
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True)
    )
    print("\x1b[H" + "\x1b[0m\n".join(rows) + "\x1b[0m", flush=True)


def write_png(path: str, pixels: np.ndarray) -> None:
    def part(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: no filter
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    parts = (part(b"IHDR", head), part(b"IDAT", zlib.compress(rows)), part(b"IEND", b""))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def main(name: str, path: str = "") -> None:
    seen, last = 0, None
    for frame in extmem.subscribe(name, patience=60):
        seen += 1
        if path:
            last = frame.numpy().copy()  # the stream ends, and its memory with it
        else:
            show(frame.numpy())
    if last is not None:
        write_png(path, last)
    print(f"saw {seen} frames")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/viewer.py NAME [FILE.png]")
    main(*sys.argv[1:])
