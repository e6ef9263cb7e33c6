"""Imports of descriptors in quarantine: what drivers die of, seals, and the process on Linux."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import extmem
from extmem import QuarantineError, RuleViolation
from extmem.handles.system import kernel
from extmem.share import helper, quarantine
from tests.support import drivers, second
from tests.support.quarantined import (
    PATIENCE,
    SIZE,
    descriptors_of,
    gone,
    helper_of,
    kill,
    there,
    works,
)
from tests.support.second import Channel


@pytest.fixture
def gpu(used_before: None) -> Iterator[extmem.Device]:
    with extmem.open_device(driver="embedded") as opened:
        yield opened


def _memfd(size: int, flags: int = 0) -> int:
    fd = os.memfd_create("stranger", os.MFD_CLOEXEC | flags)
    os.ftruncate(fd, size)
    return fd


def _file() -> int:
    fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC)
    os.ftruncate(fd, 10)
    return fd


def _pipe() -> int:
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


def _socket() -> int:
    return socket.socket(socket.AF_UNIX).detach()


STRANGE: dict[str, Callable[[], int]] = {
    "pipe": _pipe,
    "short memfd": lambda: _memfd(4096),
    "short memfd that takes seals": lambda: _memfd(4096, os.MFD_ALLOW_SEALING),
    "file": _file,
    "/dev/zero": lambda: os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC),
    "socket": _socket,
}


@pytest.mark.parametrize("checks", ["full", "off"])
def test_descriptors_that_are_wrong(
    driver: str, checks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if checks == "off":
        monkeypatch.setattr(quarantine, "PATIENCE", 1.0)  # some drivers hang
    with extmem.open_device(driver=driver, checks=checks) as gpu:
        for what, make in STRANGE.items():
            fd = make()
            try:
                before = os.fstat(fd)
                # Mapped as it is, /dev/zero is private memory: no harm is found in it.
                if (what, checks) == ("/dev/zero", "off") and "swiftshader" in driver:
                    gpu.import_memory(
                        fd, handle_type="opaque_fd", size=SIZE, quarantine=True
                    ).close()
                    continue
                with pytest.raises((extmem.ExtmemError, OSError)) as met:
                    gpu.import_memory(fd, handle_type="opaque_fd", size=SIZE, quarantine=True)
                assert (checks == "full") == isinstance(met.value, RuleViolation), what
                assert os.path.samestat(os.fstat(fd), before)
            finally:
                os.close(fd)
        with pytest.raises(OSError, match="is not open"):
            gpu.import_memory(fd, handle_type="opaque_fd", size=SIZE, quarantine=True)
        works(gpu)


def test_mistakes_are_told_as_without_quarantine(gpu: extmem.Device) -> None:
    with gpu.allocate(SIZE, export="opaque_fd") as memory, memory.export() as handle:
        for wrong, told in (({}, "pass size="), ({"size": SIZE, "memory_type": "fast"}, "'fast'")):
            with pytest.raises(ValueError, match=told):
                gpu.import_memory(int(handle), quarantine=True, **wrong)  # type: ignore[arg-type]


def test_a_file_that_is_too_short_kills_the_helper_alone() -> None:
    driver = drivers.find("swiftshader")
    with extmem.open_device(driver=driver, checks="off") as gpu:
        tried_in = works(gpu)
        fd = _memfd(4096)
        try:
            with pytest.raises(QuarantineError, match=r"SIGBUS .*smaller than it claims") as met:
                gpu.import_memory(fd, handle_type="opaque_fd", size=SIZE, quarantine=True)
            assert met.value.exit_code == -signal.SIGBUS
            # At its full size it is memory of this driver, which takes any file.
            os.ftruncate(fd, SIZE)
            with gpu.import_memory(
                fd, handle_type="opaque_fd", size=SIZE, quarantine=True
            ) as memory:
                memory.numpy()[-1] = 5
                assert os.pread(fd, 1, SIZE - 1) == b"\5"
        finally:
            os.close(fd)
        assert gone(tried_in)


@pytest.fixture(scope="session", params=["lavapipe", "lavapipe-25"])
def lavapipe(request: pytest.FixtureRequest) -> str:
    """A driver that waits for ever for what an empty pipe never has."""
    return drivers.find(request.param)


def test_a_driver_that_hangs_is_an_error(lavapipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    try:
        with extmem.open_device(driver=lavapipe, checks="off") as gpu:
            tried_in = works(gpu)
            since = time.monotonic()
            with monkeypatch.context() as patch:
                patch.setattr(quarantine, "PATIENCE", 1.0)
                with pytest.raises(QuarantineError, match=r"within 1 s.* as the driver") as met:
                    gpu.import_memory(ours, handle_type="opaque_fd", size=SIZE, quarantine=True)
            assert time.monotonic() - since < PATIENCE
            assert met.value.exit_code is None
            assert not there(tried_in)
            assert works(gpu) != tried_in
    finally:
        os.close(ours)
        os.close(theirs)


def _give_up(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def test_whoever_waits_for_it_can_be_interrupted(lavapipe: str) -> None:
    ours, theirs = os.pipe()
    before = signal.signal(signal.SIGALRM, _give_up)
    try:
        with extmem.open_device(driver=lavapipe, checks="off") as gpu:
            tried_in = works(gpu)
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                gpu.import_memory(ours, handle_type="opaque_fd", size=SIZE, quarantine=True)
            assert not there(tried_in)
            works(gpu)
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(ours)
        os.close(theirs)


def test_one_that_is_killed_in_a_trial_is_an_error(lavapipe: str) -> None:
    ours, theirs = os.pipe()
    try:
        with extmem.open_device(driver=lavapipe, checks="off") as gpu:
            killer = threading.Timer(1.5, kill, (works(gpu),))
            killer.start()
            with pytest.raises(QuarantineError, match="killed by SIGKILL"):
                gpu.import_memory(ours, handle_type="opaque_fd", size=SIZE, quarantine=True)
            killer.join()
            works(gpu)
    finally:
        os.close(ours)
        os.close(theirs)


def hangs(home: Channel, driver: str) -> None:
    with extmem.open_device(driver=driver, checks="off") as gpu:
        home.send(works(gpu))
        gpu.import_memory(os.pipe()[0], handle_type="opaque_fd", size=SIZE, quarantine=True)


def test_a_helper_that_hangs_ends_with_its_parent(lavapipe: str) -> None:
    with second.start(hangs, driver=lavapipe) as other:
        process, _ = other.receive()
        time.sleep(0.5)  # by now it hangs
        other.kill()
        assert gone(process)


# -- seals ------------------------------------------------------------------------------------


def test_a_file_that_takes_seals_cannot_be_shortened_any_more(driver: str) -> None:
    fd = _memfd(SIZE, os.MFD_ALLOW_SEALING)
    try:
        with extmem.open_device(driver=driver) as gpu:
            if driver == "embedded":  # which does not mind
                with pytest.raises(extmem.ExtmemError):
                    gpu.import_memory(fd, handle_type="opaque_fd", size=SIZE)
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 0
            try:
                gpu.import_memory(fd, handle_type="opaque_fd", size=SIZE, quarantine=True).close()
            except (extmem.ExtmemError, OSError):
                assert "swiftshader" not in driver  # others know that it is not theirs
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        os.ftruncate(fd, 2 * SIZE)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["opaque_win32", "opaque_win32_kmt", "name"])
def test_one_that_is_bridged_neither(kind: str) -> None:
    driver = drivers.find("swiftshader")
    name = "Local\\extmem-kmt-514" if kind.endswith("kmt") else None
    if kind == "name":
        name = f"Local\\extmem-test-{secrets.token_hex(8)}"
    fd = _memfd(SIZE, os.MFD_ALLOW_SEALING)
    try:
        with (
            extmem.open_device(driver=driver) as gpu,
            gpu.allocate(SIZE, export="opaque_win32") as like,
        ):
            os.ftruncate(fd, like.allocation_size)
            as_type = "opaque_win32" if kind == "name" else kind
            passport = msgspec.structs.replace(like.passport, handle_type=as_type)
            handle = kernel().share(fd, "Memory", name=name, passport=passport.encode())
            given: dict[str, Any] = {"handle": handle, "handle_type": kind}
            if kind == "name":
                given = {"name": name}
            elif kind == "opaque_win32_kmt":
                given["handle"] = 514
            try:
                with gpu.import_memory(**given, quarantine=True) as memory:
                    memory.numpy()[0] = 5
                    assert os.pread(fd, 1, 0) == b"\5"
            finally:
                kernel().close(handle)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK
    finally:
        os.close(fd)


# -- the process ------------------------------------------------------------------------------


def test_a_helper_inherits_nothing_and_heeds_no_ctrl_c(gpu: extmem.Device) -> None:
    ours, theirs = os.pipe()
    try:
        os.set_inheritable(ours, True)
        mark = os.readlink(f"/proc/self/fd/{ours}")
        process = works(gpu)
        assert mark not in descriptors_of(process)
        os.kill(process, signal.SIGINT)
        assert works(gpu) == process
    finally:
        os.close(ours)
        os.close(theirs)


_FORKS = """
import os, sys
import extmem
from extmem.examining import examiner_of

with extmem.open_device(driver="embedded") as gpu:
    with gpu.allocate(64, export="opaque_fd") as memory, memory.export() as handle:
        gpu.import_memory(handle, quarantine=True).close()
        helper = examiner_of(gpu).process_id
        held = set(os.listdir("/proc/self/fd"))
        pid = os.fork()
        if not pid:
            try:
                gpu.import_memory(0, handle_type="opaque_fd", quarantine=True)
            except extmem.Unsupported as error:
                assert "spawn or forkserver" in str(error), error
                gpu.close()
                sys.exit(7)
            sys.exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert held == set(os.listdir("/proc/self/fd"))
        gpu.import_memory(handle, quarantine=True).close()
        assert examiner_of(gpu).process_id == helper
"""


def test_a_forked_child_leaves_the_helper_to_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", "-c", _FORKS],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("exit 3", "exit code 3"),
        ("echo gone wrong >&2; exit 4", r"exit code 4, and wrote 'gone wrong'"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("exec sleep 60", "within 1 s"),
    ],
)
def test_a_helper_that_does_not_start_says_why(
    gpu: extmem.Device,
    program: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(helper, "START_PATIENCE", 1.0)
    for executable, words in (
        (str(python), told),
        ("", "no Python"),
        ("/none", "No such file"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", executable)
            with pytest.raises(QuarantineError, match=words):
                works(gpu)
        assert helper_of(gpu) is None
