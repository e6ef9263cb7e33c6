r"""A name that only some users may open, and a handle that only reads: python examples/acl.py NAME

It shares three frames, whose names begin with NAME, and starts a second process of the same user,
which tries all of them. Security is told in SDDL, as on Windows; on Linux the directory keeps it.
"""

import subprocess
import sys

import extmem

SIZE = 640 * 480 * 4
TERMS = {
    "-ours": "D:(A;;GA;;;OW)(A;;GR;;;WD)",  # all for the owner, reading for everyone
    "-nobodys": "D:",  # an empty list: nobody opens it by its name
    "-not-ours": "D:(D;;GA;;;WD)(A;;GA;;;BA)",  # everyone is denied before anybody is admitted
}


def attempt(name: str) -> None:
    """The second process: which of the names can it open?"""
    with extmem.open_device() as gpu:
        for end in TERMS:
            try:
                with gpu.import_memory(name=name + end) as memory:
                    print(f"{end[1:]}: opened, {memory.numpy()[0]} is there")
            except extmem.ExtmemError:
                print(f"{end[1:]}: refused")


def main(name: str) -> None:
    with extmem.open_device() as gpu:
        frames = [
            gpu.allocate(SIZE, export="opaque_win32", name=name + end, security=sddl)
            for end, sddl in TERMS.items()
        ]
        for frame in frames:
            frame.numpy()[:] = 7
        subprocess.run([sys.executable, __file__, name, "attempt"], check=True)
        for frame in frames:
            frame.close()


if __name__ == "__main__":
    (attempt if sys.argv[2:] else main)(sys.argv[1])
