"""A camera that needs no hardware: python examples/camera.py NAME [FRAMES]

It waits for somebody to watch (viewer.py, camera_to_torch.py or asyncio_stream.py, each with the
same NAME), publishes so many frames of a moving picture (300, if nothing is said), and ends.
"""

import sys
import time

import numpy as np

import extmem

HEIGHT, WIDTH = 120, 160
RATE = 30  # frames per second


def paint(pixels: np.ndarray, number: int) -> None:
    """A gradient that moves, written where the subscribers will read it."""
    pixels[..., 0] = np.arange(WIDTH) + 2 * number
    pixels[..., 1] = np.arange(HEIGHT)[:, None] + number
    pixels[..., 2] = 128
    pixels[..., 3] = 255


def main(name: str, frames: int = 300) -> None:
    with extmem.publish(name, shape=(HEIGHT, WIDTH, 4), dtype="uint8") as camera:
        print(f"waiting for somebody to watch {name}", flush=True)
        camera.wait_for(subscribers=1)
        for number in range(frames):
            with camera.frame() as frame:  # entered, it has a free slot; left, it is published
                paint(frame.numpy(), number)
                frame.fields["exposure"] = 1 / RATE
            time.sleep(1 / RATE)
    print(f"published {frames} frames")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/camera.py NAME [FRAMES]")
    main(sys.argv[1], *map(int, sys.argv[2:]))
