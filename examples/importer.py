r"""Open a shared frame by its name, and answer in it: python examples/importer.py 'Local\frame'"""

import sys

import extmem

HEIGHT, WIDTH = 480, 640


def main(name: str) -> None:
    with extmem.open_device() as gpu, gpu.import_memory(name=name) as memory:
        frame = memory.numpy("uint8", (HEIGHT, WIDTH, 4))
        print(f"found {memory.size} bytes: {frame[0, 0].tolist()}", flush=True)
        flat = frame.reshape(-1, 4)
        flat[1:] = 255 - flat[1:]
        flat[0] = 255 - flat[0]  # last, because the exporter waits for it
        del frame, flat  # memory that is still looked at cannot be closed


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/importer.py NAME")
    main(sys.argv[1])
