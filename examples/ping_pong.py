r"""Two processes in turn, by two timeline semaphores that have names.

python examples/ping_pong.py 'Local\game' first      and then, in another terminal,
python examples/ping_pong.py 'Local\game' second
"""

import sys
import time

import extmem

ROUNDS = 1000


def first(gpu: extmem.Device, name: str) -> None:
    # Of the host, because not every driver can share semaphores.
    with (
        gpu.semaphore(export="opaque_win32", name=name + "-ping", host=True) as ping,
        gpu.semaphore(export="opaque_win32", name=name + "-pong", host=True) as pong,
    ):
        print(f"waiting for the second player at {name}", flush=True)
        for number in range(1, ROUNDS + 1):
            ping.wait(number, timeout=60)
            pong.signal(number)
        ping.wait(ROUNDS + 1, timeout=60)  # the names go with us
        print("played", flush=True)


def second(gpu: extmem.Device, name: str) -> None:
    with (
        gpu.import_semaphore(name=name + "-ping", host=True) as ping,
        gpu.import_semaphore(name=name + "-pong", host=True) as pong,
    ):
        began = time.perf_counter()
        for number in range(1, ROUNDS + 1):
            ping.signal(number)
            pong.wait(number, timeout=60)
        seconds = time.perf_counter() - began
        ping.signal(ROUNDS + 1)
        print(f"{ROUNDS} rounds of {seconds / ROUNDS * 1e6:.0f} us", flush=True)


def main(name: str, player: str) -> None:
    with extmem.open_device() as gpu:
        (first if player == "first" else second)(gpu, name)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python examples/ping_pong.py NAME first|second")
    main(*sys.argv[1:])
