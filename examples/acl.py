r"""Names that only some users may open: python examples/acl.py NAME [UID]

It shares three frames, whose names begin with NAME, and starts a second process of the same user,
which tries all of them. Security is told in SDDL, as on Windows; on Linux the directory keeps it.

With a UID (Linux) there is a fourth frame, which that user may open, too. NAME begins with Global\
then, and that user tries: python examples/acl.py NAME attempt UID
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


def terms(uid: str) -> dict[str, str]:
    """The end of each name, and whom it admits."""
    theirs = {"-theirs": f"D:(A;;GA;;;OW)(A;;GRGW;;;S-1-22-1-{int(uid)})"} if uid else {}
    return TERMS | theirs


def attempt(name: str, uid: str = "") -> None:
    """The second process: which of the names can it open?"""
    with extmem.open_device() as gpu:
        for end in terms(uid):
            try:
                with gpu.import_memory(name=name + end) as memory:
                    print(f"{end[1:]}: opened, {memory.numpy()[0]} is there", flush=True)
            except extmem.ExtmemError:
                print(f"{end[1:]}: refused", flush=True)


def main(name: str, uid: str = "") -> None:
    with extmem.open_device() as gpu:
        frames = [
            gpu.allocate(SIZE, export="opaque_win32", name=name + end, security=sddl)
            for end, sddl in terms(uid).items()
        ]
        for frame in frames:
            frame.numpy()[:] = 7
        subprocess.run([sys.executable, __file__, name, "attempt", uid], check=True)
        if uid:
            input(f"user {uid} may try now; press enter to end\n")
        for frame in frames:
            frame.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/acl.py NAME [UID]")
    if sys.argv[2:3] == ["attempt"]:
        attempt(sys.argv[1], *sys.argv[3:])
    else:
        main(*sys.argv[1:])
