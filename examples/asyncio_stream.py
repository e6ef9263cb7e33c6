"""A stream in asyncio, beside other work: python examples/asyncio_stream.py NAME

Start camera.py with the same NAME before, or within a minute.
"""

import asyncio
import sys

import extmem


async def watch(name: str) -> int:
    seen = 0
    async for frame in extmem.subscribe(name, patience=60):
        seen += 1
        brightness = frame.numpy()[..., :3].mean()
        if seen % 30 == 0:
            print(f"frame {frame.sequence}: {brightness:.0f}", flush=True)
    return seen


async def tick() -> None:
    """What else the program does meanwhile: the stream does not hold it up."""
    while True:
        await asyncio.sleep(1)
        print("tick", flush=True)


async def main(name: str) -> None:
    other = asyncio.create_task(tick())
    seen = await watch(name)
    other.cancel()
    print(f"saw {seen} frames")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/asyncio_stream.py NAME")
    asyncio.run(main(sys.argv[1]))
