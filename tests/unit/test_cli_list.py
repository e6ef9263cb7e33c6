"""`extmem list`, as a user meets it: in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from extmem.cli import listing
from extmem.share.passport import LARGEST

linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no list")

KEYS = {
    "identity", "kind", "name", "kmt", "size", "age", "owner", "holders", "more_holders", "lender",
    "passport", "handle_type", "allocation_size", "memory_type", "device_name", "device_uuid",
    "exporter",
}  # fmt: skip
PERSON = {"process_id", "user_id", "program", "handles"}

# A second process, which shares memory of the embedded device in three ways, until it is told.
SHARES = """
import extmem
with extmem.open_device(driver="embedded") as gpu:
    with (
        gpu.allocate(65536, export="opaque_win32", name="frame") as named,
        gpu.allocate(8192, export="opaque_win32") as unnamed,
        gpu.allocate(4096, export="opaque_win32_kmt") as numbered,
        named.export() as first,
        unnamed.export() as second,
        numbered.export() as third,
    ):
        uuid = extmem.physical_devices("embedded")[0].device_uuid
        print(third.value, uuid.hex(), flush=True)
        input()
"""


@pytest.fixture
def place() -> Iterator[Any]:
    """A folder, in which a directory starts with the first use."""
    from tests.support.directory import Place, entered

    with entered(Place()) as made:
        yield made


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "extmem", "list", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )


def objects() -> list[dict[str, Any]]:
    done = run("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "win32", reason="hardware: what Windows has no list of")
def test_windows_has_no_list() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == listing.WINDOWS + "\n"
    assert objects() == []


def test_mistakes() -> None:
    assert run("--most", "0").returncode == 2
    assert run("--nonsense").returncode == 2


def test_the_keys_are_documented() -> None:
    described = " ".join(run("--help").stdout.split())
    for key in KEYS:
        assert key in described
        assert f"\n    {key} " in str(listing.collect.__doc__)


@linux
def test_no_directory_runs_and_none_is_started(place: Any) -> None:
    from tests.support.directory import services_of

    assert run().stdout == listing.NOTHING + "\n"
    assert objects() == []
    place.folder.rmdir()
    assert objects() == []
    assert not place.folder.exists()
    assert services_of(place.folder) == []
    place.folder.mkdir(0o700)


@linux
def test_a_directory_that_has_nothing(place: Any) -> None:
    assert place.service
    assert run().stdout == listing.NOTHING + "\n"


@linux
def test_objects_of_a_second_process(place: Any) -> None:
    other = place.other(SHARES)
    number, uuid = other.read().split()
    found = objects()
    assert all(set(each) == KEYS for each in found)
    assert all(set(who) == PERSON for each in found for who in [each["owner"], *each["holders"]])
    named, unnamed, numbered = found
    assert (named["name"], named["kmt"]) == ("Local\\frame", None)
    assert (unnamed["name"], unnamed["kmt"]) == (None, None)
    assert (numbered["name"], numbered["kmt"]) == (f"Local\\extmem-kmt-{number}", int(number))
    assert [each["allocation_size"] for each in found] == [65536, 8192, 4096]
    assert [each["handle_type"] for each in found] == [
        "opaque_win32", "opaque_win32", "opaque_win32_kmt",
    ]  # fmt: skip
    for each in found:
        assert (each["kind"], each["passport"]) == ("Section", "read")
        assert each["size"] >= each["allocation_size"]
        assert each["device_name"] == "extmem embedded 0"
        assert each["device_uuid"] == uuid
        assert isinstance(each["memory_type"], int)
        assert each["owner"]["process_id"] == each["exporter"]["process_id"] == other.pid
        assert each["owner"]["user_id"] == os.geteuid()
        assert [who["process_id"] for who in each["holders"]] == [other.pid]
        assert each["owner"]["handles"] == each["holders"][0]["handles"] >= 1
        assert (each["more_holders"], each["lender"]) == (0, None)
        assert 0 <= each["age"] < 60
    shown = run().stdout
    lines = shown.splitlines()
    assert lines[0].split()[:4] == ["OBJECT", "KIND", "SIZE", "OWNER"]
    assert lines[1].startswith("Local\\frame ")
    assert lines[2].startswith("- ")
    assert lines[3].startswith(f"KMT {number} ")
    assert all(f"{other.pid} (" in each for each in lines[1:4])
    assert all("extmem embedded 0, type" in each for each in lines[1:4])
    assert lines[4].startswith("3 objects, ")
    other.ask()
    other.close()
    assert objects() == []


@linux
def test_holders_and_strange_names(place: Any) -> None:
    kernel = place.kernel()
    kernel.create_section(4096, name="a\x1b[2J\ud800é", passport=b"none of ours")
    fd = os.memfd_create("x")
    kernel.share(fd, "Memory", name="driver", passport=bytes(LARGEST + 1))
    os.close(fd)
    other = place.other('mine = kernel.open_named("driver", "Memory")\nprint(flush=True)\ninput()')
    other.read()
    strange, driver = objects()
    assert strange["name"] == "Local\\a\x1b[2J\ud800é"
    assert (strange["passport"], strange["handle_type"]) == ("unreadable", None)
    assert (driver["kind"], driver["size"], driver["passport"]) == ("Memory", None, "unreadable")
    assert {each["process_id"]: each["handles"] for each in driver["holders"]} == {
        os.getpid(): 1,
        other.pid: 1,
    }
    shown = run().stdout
    assert "\x1b" not in shown
    assert "Local\\a\\x1b[2J\\ud800" in shown
    other.close()


@linux
def test_pages_that_are_no_payload_have_no_passport(place: Any) -> None:
    import ctypes

    from extmem.handles.directory import stamps

    kernel = place.kernel()
    handle = kernel.create_section(4096)
    address = kernel.map_section(handle, 4096)
    ctypes.memset(address, 0xFF, 4096)
    assert objects()[0]["passport"] == "none"
    ctypes.memmove(address, stamps.MAGIC, len(stamps.MAGIC))
    assert objects()[0]["passport"] == "none"  # a length that none has
    ctypes.memmove(address + stamps.OFFSET, b"\x08\0\0\0", 4)
    assert objects()[0]["passport"] == "unreadable"
    kernel.unmap_section(address, 4096)


@linux
def test_where_passports_lie_is_where_the_embedded_device_writes_them() -> None:
    from extmem.drivers.embedded import payload, sections
    from extmem.handles.directory import stamps

    assert stamps.MAGIC == payload._MAGIC
    assert stamps.OFFSET == sections._STAMP_OFFSET


@linux
def test_ten_thousand(place: Any) -> None:
    import time

    kernel = place.kernel()
    for number in range(10_000):
        kernel.create_section(4096, name=f"x{number}")
    start = time.monotonic()
    found = objects()
    assert [each["name"] for each in found] == [f"Local\\x{each}" for each in range(10_000)]
    lines = run().stdout.splitlines()
    assert time.monotonic() - start < 20  # about two, where nothing else runs
    assert len(lines) == 1 + 200 + 2
    assert lines[1].startswith("Local\\x9800 ")
    assert lines[-1].startswith("9,800 older are not shown; `--most 10000` shows all")
    assert len(run("--most", "7").stdout.splitlines()) == 1 + 7 + 2


@linux
def test_a_folder_that_cannot_be_used(place: Any) -> None:
    place.folder.chmod(0o755)
    done = run("--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "chmod 700" in done.stderr
    assert "Traceback" not in done.stderr
    place.folder.chmod(0o700)


@linux
def test_handles_that_are_inherited_stay_for_who_needs_them(place: Any) -> None:
    kernel = place.kernel()
    handle = kernel.create_section(4096)
    kernel.set_flags(handle, 1, 1)
    environment = kernel.child_environment()
    subprocess.run([sys.executable, "-m", "extmem", "list"], env={**os.environ, **environment},
                   check=True, capture_output=True)  # fmt: skip
    other = place.other(f"print(kernel.section_size({handle}), flush=True)", environment)
    assert other.read() == "4096"
