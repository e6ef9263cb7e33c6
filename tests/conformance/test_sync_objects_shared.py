"""Semaphores and fences in two processes: through channels, by name, and in multiprocessing."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import extmem
from extmem import Device, PassportError, Semaphore, Unsupported
from extmem.handle_types import sync_type
from extmem.handles.handle import Handle
from extmem.share import parcels
from extmem.share.channel import Listener, connect, pair
from extmem.share.passport import SyncPassport
from extmem.signalling import EXPORTABLE, IMPORTABLE, features
from tests.support import second
from tests.support.strict import driver_cannot

PATIENCE = 60.0
ROUNDS = 25
TYPES = ["opaque_fd", "opaque_win32", "opaque_win32_kmt"]
if sys.platform == "win32":
    TYPES.remove("opaque_fd")
TIMELINES = [*TYPES, "d3d12_fence"]


@pytest.fixture
def gpu(driver: str) -> Iterator[Device]:
    with extmem.open_device(driver=driver) as device:
        yield device


@pytest.fixture
def embedded(used_before: None) -> Iterator[Device]:
    with extmem.open_device(driver="embedded") as device:
        yield device


@pytest.fixture
def place() -> str:
    return f"test-{secrets.token_hex(6)}"


def require(gpu: Device, object: str, kind: str, timeline: bool) -> None:
    """Skip unless the device can share this."""
    found = features(gpu, sync_type(object, kind), timeline)
    if found & (EXPORTABLE | IMPORTABLE) != EXPORTABLE | IMPORTABLE:
        what = (
            f"{'timeline' if timeline else 'binary'} semaphores" if object != "fence" else "fences"
        )
        driver_cannot(f"features {found} for {what} as {kind}")


# -- timelines ------------------------------------------------------------------------------------


def player(home: Any, place: str, driver: str, host: bool) -> dict[str, Any]:
    """Answers each number with the same one, by the host or by the device, in turns."""
    with connect(place, timeout=PATIENCE) as other, extmem.open_device(driver=driver) as gpu:
        with other.receive(timeout=PATIENCE) as parcel:
            ping, pong = (gpu.import_semaphore(each) for each in parcel.handles)
        with ping, pong:
            assert ping.host is host
            facts = {"ping": repr(ping), "handle": repr(parcel.handles[0])}
            other.send(b"ready")
            for number in range(1, ROUNDS + 1):
                if number % 5 == 1:
                    gpu.submit(wait=[(ping, number)], signal=[(pong, number)])
                elif number % 5 == 2:
                    ping.wait(number, timeout=PATIENCE)
                    gpu.submit(signal=[(pong, number)])
                elif number % 5 == 3:
                    asyncio.run(asyncio.wait_for(ping.reached(number), PATIENCE))
                    pong.signal(number)
                else:
                    ping.wait(number, timeout=PATIENCE)
                    pong.signal(number)
            ping.wait(ROUNDS + 1, timeout=PATIENCE)
            return facts


def play(gpu: Device, ping: Semaphore, pong: Semaphore) -> None:
    for number in range(1, ROUNDS + 1):
        if number % 2:
            gpu.submit(signal=[(ping, number)])
        else:
            ping.signal(number)
        if number % 3 == 0:
            gpu.submit(wait=[(pong, number)])
        pong.wait(number, timeout=PATIENCE)
        assert pong.value == number
    ping.signal(ROUNDS + 1)


@pytest.mark.parametrize("kind", TIMELINES)
def test_timelines_go_both_ways(driver: str, gpu: Device, kind: str, place: str) -> None:
    require(gpu, "semaphore", kind, True)
    with (
        Listener(place) as door,
        gpu.semaphore(export=kind) as ping,
        gpu.semaphore(export=kind) as pong,
        second.start(player, place=place, driver=driver, host=False) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        other.send(b"play", [ping, pong])
        with other.receive(timeout=PATIENCE) as parcel:
            assert parcel.message == b"ready"
        play(gpu, ping, pong)
        told = process.result()
        assert f"imported from {kind}" in told["ping"]
        assert f"{kind} of a semaphore" in told["handle"]


@pytest.mark.parametrize("kind", TYPES)
def test_semaphores_of_the_host_stand_beside_any_driver(
    driver: str, gpu: Device, kind: str, place: str
) -> None:
    if gpu.driver == "embedded":
        driver_cannot("its own semaphores are the host's")
    with (
        Listener(place) as door,
        gpu.semaphore(export=kind, host=True) as ping,
        gpu.semaphore(export=kind, host=True) as pong,
        second.start(player, place=place, driver=driver, host=True) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        other.send(b"play", [ping, pong])
        with other.receive(timeout=PATIENCE):
            pass
        play(gpu, ping, pong)
        assert "of the host" in process.result()["ping"]


def opener(home: Any, name: str, driver: str, kind: str) -> list[int]:
    """Knows nothing but a name."""
    with (
        extmem.open_device(driver=driver) as gpu,
        gpu.import_semaphore(name=name, handle_type=kind) as there,
    ):
        before = there.value
        there.signal(before + 1)
        there.wait(before + 2, timeout=PATIENCE)
        return [before, there.value]


@pytest.mark.parametrize("kind", ["opaque_win32", "d3d12_fence"])
def test_timelines_by_name(driver: str, gpu: Device, kind: str, name: str) -> None:
    require(gpu, "semaphore", kind, True)
    with (
        gpu.semaphore(value=7, export=kind, name=name) as mine,
        second.start(opener, name=name, driver=driver, kind=kind) as process,
    ):
        mine.wait(8, timeout=PATIENCE)
        mine.signal(9)
        assert process.result() == [7, 9]
        with pytest.raises(extmem.DriverError, match="name"):
            gpu.semaphore(export=kind, name=name)
    with pytest.raises((extmem.RuleViolation, extmem.DriverError)):
        gpu.import_semaphore(name=name, handle_type=kind)


def killed_while_waiting(home: Any, place: str) -> None:
    with (
        connect(place, timeout=PATIENCE) as other,
        extmem.open_device(driver="embedded") as gpu,
        other.receive(timeout=PATIENCE) as parcel,
        gpu.import_semaphore(parcel.handles[0]) as there,
    ):
        there.signal(1)
        there.wait(100)


@pytest.mark.parametrize("kind", TYPES)
def test_a_peer_that_is_killed_costs_nothing(embedded: Device, kind: str, place: str) -> None:
    with (
        Listener(place) as door,
        embedded.semaphore(export=kind) as shared,
        second.start(killed_while_waiting, place=place) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        other.send(b"", [shared])
        shared.wait(1, timeout=PATIENCE)
        time.sleep(0.05)
        process.kill()
        with pytest.raises(TimeoutError):
            shared.wait(2, timeout=0.05)
        shared.signal(2)
        embedded.submit(wait=[(shared, 2)], signal=[(shared, 3)])
        shared.wait(3, timeout=PATIENCE)


_FORKS = """
import os, sys
import extmem

with extmem.open_device(driver=sys.argv[1]) as gpu:
    with gpu.semaphore() as semaphore, gpu.fence() as fence, gpu.semaphore(host=True) as there:
        gpu.submit(wait=[(semaphore, 1)], fence=fence)
        pid = os.fork()
        if not pid:
            for use in (
                lambda: semaphore.wait(1), lambda: semaphore.signal(1), lambda: fence.signaled,
                lambda: semaphore.handle, lambda: there.value,
                lambda: gpu.submit(signal=[(semaphore, 2)]), lambda: gpu.semaphore(),
            ):
                try:
                    use()
                except extmem.Unsupported as error:
                    assert "spawn or forkserver" in str(error), error
                else:
                    sys.exit(3)
            repr(semaphore), repr(fence)
            semaphore.close(), fence.close(), gpu.close()
            # NVIDIA's own exit handler never returns in a forked child.
            os._exit(7) if "nvidia" in sys.argv[1] else sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        semaphore.signal(1)
        fence.wait(20)
"""

# Python 3.12 warns of any fork beside other threads, which NVIDIA's driver has.
_NO_WARNING = ("-W", "ignore:This process:DeprecationWarning")

if sys.platform != "win32":

    def test_a_forked_child_is_told_the_way_out(driver: str) -> None:
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "always", *_NO_WARNING, "-c", _FORKS, driver],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert (done.returncode, done.stderr) == (0, "")


# -- binary semaphores and fences -----------------------------------------------------------------


def signaller(home: Any, place: str, driver: str) -> str:
    """Has its device signal what came."""
    with (
        connect(place, timeout=PATIENCE) as other,
        extmem.open_device(driver=driver) as gpu,
        other.receive(timeout=PATIENCE) as parcel,
        gpu.import_semaphore(parcel.handles[0]) as there,
        gpu.fence() as fence,
    ):
        for _ in range(3):
            gpu.submit(signal=[there], fence=fence)
            fence.wait(PATIENCE)
            fence.reset()
            other.send(b"signalled")
            other.receive(timeout=PATIENCE).close()
        return repr(there)


@pytest.mark.parametrize("kind", TYPES)
def test_binary_semaphores(driver: str, gpu: Device, kind: str, place: str) -> None:
    require(gpu, "semaphore", kind, False)
    with (
        Listener(place) as door,
        gpu.semaphore(timeline=False, export=kind) as shared,
        gpu.fence() as fence,
        second.start(signaller, place=place, driver=driver) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        other.send(b"", [shared])
        for _ in range(3):
            other.receive(timeout=PATIENCE).close()
            gpu.submit(wait=[shared], fence=fence)
            fence.wait(PATIENCE)
            fence.reset()
            other.send(b"seen")
        assert "binary" in process.result()


def fence_signaller(home: Any, place: str, driver: str) -> bool:
    with (
        connect(place, timeout=PATIENCE) as other,
        extmem.open_device(driver=driver) as gpu,
        other.receive(timeout=PATIENCE) as parcel,
        gpu.import_fence(parcel.handles[0]) as there,
    ):
        gpu.submit(fence=there)
        other.receive(timeout=PATIENCE).close()
        return there.signaled


@pytest.mark.parametrize("kind", TYPES)
def test_fences(driver: str, gpu: Device, kind: str, place: str) -> None:
    require(gpu, "fence", kind, False)
    with (
        Listener(place) as door,
        gpu.fence(export=kind) as shared,
        second.start(fence_signaller, place=place, driver=driver) as process,
        door.accept(timeout=PATIENCE) as other,
    ):
        assert not shared.signaled
        other.send(b"", [shared])
        shared.wait(PATIENCE)
        shared.reset()
        other.send(b"reset")
        assert process.result() is False


if sys.platform != "win32":

    def test_a_sync_fd_is_a_copy(gpu: Device) -> None:
        require(gpu, "semaphore", "sync_fd", False)
        with gpu.semaphore(timeline=False, export="sync_fd") as mine, gpu.fence() as fence:
            gpu.submit(signal=[mine])
            with mine.export() as handle:
                there = gpu.import_semaphore(handle)
            assert there.temporary
            gpu.submit(wait=[there], fence=fence)
            fence.wait(PATIENCE)
            with pytest.raises(ValueError, match="nothing to send"):
                parcels.item_of(Handle(-1, sync_type("semaphore", "sync_fd")), None)


# -- what is no such thing ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_things_are_not_mistaken_for_each_other(embedded: Device, kind: str) -> None:
    with (
        embedded.semaphore(export=kind) as semaphore,
        embedded.fence(export=kind) as fence,
        semaphore.export() as one,
        fence.export() as other,
    ):
        with pytest.raises(ValueError, match=r"is no memory; import it with .*import_semaphore"):
            embedded.import_memory(one)
        with pytest.raises(ValueError, match=r"is no semaphore; import it with .*import_fence"):
            embedded.import_semaphore(other)
        with pytest.raises(ValueError, match=r"is no fence; import it with .*import_semaphore"):
            embedded.import_fence(one)
        with pytest.raises(PassportError, match="says True"):
            embedded.import_semaphore(one, timeline=False)
        with pytest.raises(PassportError, match="it is a fence"):
            embedded.import_semaphore(one.value, passport=fence.passport)
        stranger = SyncPassport(kind, "semaphore", timeline=True)
        with embedded.import_semaphore(one.value, passport=stranger.encode()) as again:
            semaphore.signal(4)
            assert again.value == 4


def test_a_binary_semaphore_of_direct3d_12_is_not_submitted(embedded: Device) -> None:
    """Its fences count, and the device waits for values of them that only a timeline has here."""
    with (
        embedded.semaphore(timeline=False, export="d3d12_fence") as binary,
        embedded.semaphore(export="d3d12_fence") as timeline,
        timeline.export() as handle,
        embedded.import_semaphore(
            handle.value, handle_type="d3d12_fence", timeline=False
        ) as imported,
    ):
        for each in (binary, imported):
            with pytest.raises(Unsupported, match="timeline=True"):
                embedded.submit(wait=[each])
            with pytest.raises(Unsupported, match="timeline=True"):
                embedded.submit(signal=[each])
        embedded.submit(signal=[(timeline, 3)])
        timeline.wait(3, timeout=PATIENCE)


def test_another_device_is_refused(embedded: Device) -> None:
    with (
        extmem.open_device(driver="embedded", index=1) as other,
        embedded.semaphore(export=TYPES[0]) as semaphore,
        semaphore.export() as handle,
        pytest.raises(PassportError, match="open that device"),
    ):
        other.import_semaphore(handle)


def test_several_in_one_parcel(embedded: Device) -> None:
    here, there = pair()
    with (
        here,
        there,
        embedded.allocate(64, export=TYPES[0]) as memory,
        embedded.semaphore(export=TYPES[0]) as semaphore,
        embedded.fence(export=TYPES[-1]) as fence,
    ):
        here.send(b"all", [memory, semaphore, fence])
        with there.receive(timeout=PATIENCE) as parcel:
            kinds = [each.handle_type.object for each in parcel.handles]
            assert kinds == ["memory", "semaphore", "fence"]
            with embedded.import_semaphore(parcel.handles[1]) as again:
                again.signal(3)
                semaphore.wait(3, timeout=PATIENCE)
            with embedded.import_fence(parcel.handles[2]) as signalled:
                embedded.submit(fence=fence)
                signalled.wait(PATIENCE)
        with pytest.raises(TypeError, match="a Semaphore, a Fence or a Handle"):
            here.send(b"", [1])  # type: ignore[list-item]
