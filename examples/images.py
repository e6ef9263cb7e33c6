"""Share an image with another process, which paints in it: python examples/images.py"""

import multiprocessing

import numpy as np

import extmem

HEIGHT, WIDTH = 480, 640


def paint(picture: extmem.Image) -> None:
    """The other process. What it gets is the same image, not a copy."""
    picture.acquire()
    pixels = picture.device.readback(picture)  # which does copy
    picture.device.upload(picture, 255 - pixels)
    picture.release()
    picture.close()


def main() -> None:
    gpu = extmem.open_device()
    with gpu, gpu.image((HEIGHT, WIDTH), "rgba8", export="opaque_win32") as picture:
        pixels = np.full((HEIGHT, WIDTH, 4), (10, 20, 30, 255), "uint8")
        gpu.upload(picture, pixels)
        print(f"painted {pixels[0, 0].tolist()}", flush=True)
        picture.release()  # to whoever acquires it next
        painter = multiprocessing.get_context("spawn").Process(target=paint, args=(picture,))
        painter.start()
        painter.join()  # how the other one says that it has finished; a semaphore is another way
        picture.acquire()
        print(f"found {gpu.readback(picture)[0, 0].tolist()}", flush=True)


if __name__ == "__main__":
    main()
