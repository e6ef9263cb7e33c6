"""Streams between users: who may subscribe, and that nobody else does."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

import extmem
from tests.support.strict import missing

if sys.platform == "win32":

    def test_users_are_of_linux(used_before: None) -> None:
        with pytest.raises(extmem.Unsupported, match="one user alone"):
            extmem.publish("test-users", shape=4, dtype="int64", users=["S-1-1-0"])

else:
    # What it needs is loaded before: the folder of this Python may be closed to others.
    _AS_NOBODY = """
import ctypes, os, sys
import extmem
with extmem.publish(sys.argv[1] + "-own", shape=1, dtype="u1") as own:
    with own.frame() as frame:
        frame.numpy()[:] = 1
    with extmem.subscribe(sys.argv[1] + "-own", timeout=10) as frames:
        next(frames).numpy()
"".encode("utf-16-le")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: it may look into its own /proc again
try:
    with extmem.subscribe(sys.argv[1], user=0, timeout=10, patience=4) as frames:
        frame = next(frames)
        print(frame.numpy().tolist(), frame.fields, frame.ready, frames.publisher == os.getppid())
except Exception as error:
    print(type(error).__name__, str(error).replace("\\n", " "))
"""

    @pytest.mark.parametrize("admitted", [False, True])
    def test_another_user_subscribes_if_it_is_admitted(
        used_before: None, monkeypatch: pytest.MonkeyPatch, admitted: bool
    ) -> None:
        if os.getuid():
            missing("root, to act for another user", installable=False)
        monkeypatch.setenv("EXTMEM_DRIVER", "embedded")
        name = f"test-{secrets.token_hex(6)}"
        users = [65534 if admitted else 1234]
        with extmem.publish(name, shape=4, dtype="int64", users=users) as source:
            with source.frame() as frame:
                frame.numpy()[:] = 7
                frame.fields["for"] = "you"
            done = subprocess.run(
                [sys.executable, "-c", _AS_NOBODY, name],
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert done.stderr == ""
        if admitted:
            assert done.stdout.strip() == "[7, 7, 7, 7] {'for': 'you'} [] True"
        else:
            assert done.stdout.startswith("PermissionError [Errno 13] process")
            assert done.stdout.strip().endswith("publish(..., users=)")
