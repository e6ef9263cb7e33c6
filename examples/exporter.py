r"""Share a frame by its name, and wait for an answer: python examples/exporter.py 'Local\frame'"""

import os
import sys
import threading
import time

import extmem

HEIGHT, WIDTH = 480, 640


def wait_for_end_of_input() -> None:
    while os.read(0, 4096):  # sys.stdin has a lock, which must be free when the program ends
        pass


def main(name: str) -> None:
    size = HEIGHT * WIDTH * 4
    gpu = extmem.open_device()
    with gpu, gpu.allocate(size, export="opaque_win32", name=name) as memory:
        frame = memory.numpy("uint8", (HEIGHT, WIDTH, 4))
        frame[:] = (10, 20, 30, 255)
        print(f"shared {size} bytes as {name}", flush=True)
        # Not earlier: on Windows, loading a library may have to wait until this has its input.
        waiting = threading.Thread(target=wait_for_end_of_input, daemon=True)
        waiting.start()
        # The importer writes the first pixel last.
        while waiting.is_alive() and frame[0, 0, 0] == 10:
            time.sleep(0.01)
        answered = frame[0, 0, 0] != 10
        print(f"answer: {frame[-1, -1].tolist()}" if answered else "no answer", flush=True)
        del frame  # memory that is still looked at cannot be closed


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/exporter.py NAME")
    main(sys.argv[1])
