"""`extmem doctor`, as a user meets it: in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no directory")

KEYS = {"check", "severity", "sentence", "remedy", "facts"}


@pytest.fixture
def place() -> Iterator[Any]:
    """A folder, in which a directory starts with the first use."""
    from tests.support.directory import Place, entered

    with entered(Place()) as made:
        yield made


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it. Whatever it finds, it has run."""
    done = subprocess.run(
        [sys.executable, "-m", "extmem", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


def findings(check: str = "", **environment: str) -> list[dict[str, Any]]:
    """Those of a check, or all."""
    found: list[dict[str, Any]] = json.loads(run("--json", **environment).stdout)
    for each in found:
        assert set(each) == KEYS
        assert each["severity"] in ("ok", "note", "problem")
        assert each["sentence"].endswith(".")
        assert each["severity"] != "problem" or each["remedy"]
        assert each["severity"] != "ok" or each["remedy"] is None
    return [each for each in found if check in ("", each["check"])]


def severities(found: list[dict[str, Any]]) -> list[str]:
    return [each["severity"] for each in found]


def test_drivers() -> None:
    embedded, system = findings("drivers")
    assert embedded["severity"] == "ok"
    assert embedded["facts"]["devices"] == ["extmem embedded 0", "extmem embedded 1"]
    assert system["facts"]["driver"] == "system"


def test_why_there_is_no_driver(tmp_path: Path) -> None:
    none = str(tmp_path / "none.json")
    system = findings("drivers", VK_DRIVER_FILES=none, VK_ICD_FILENAMES=none)[1]
    assert system["severity"] == "note"
    assert system["remedy"]
    assert system["facts"]["devices"] == []


def test_a_wrong_command() -> None:
    done = subprocess.run([sys.executable, "-m", "extmem", "doctor", "--nonsense"],
                          capture_output=True, timeout=100)  # fmt: skip
    assert done.returncode == 2


def test_for_people() -> None:
    lines = run().stdout.splitlines()
    assert all(each.startswith(("ok ", "note ", "problem ", " ")) for each in lines[:-1])
    assert "problem" in lines[-1]


@linux
def test_nothing_is_made_or_started(place: Any) -> None:
    from tests.support.directory import services_of

    assert severities(findings("folder")) == ["ok", "ok"]
    assert list(place.folder.iterdir()) == []
    place.folder.rmdir()
    choice, folder = findings("folder")
    assert "EXTMEM_RUNTIME_DIR" in choice["sentence"]
    assert "is made with the first use" in folder["sentence"]
    (service,) = findings("service")
    assert (service["severity"], service["facts"]) == ("ok", {"running": False})
    assert not place.folder.exists()
    assert services_of(place.folder) == []
    place.folder.mkdir(0o700)


@linux
def test_a_directory_that_runs(place: Any) -> None:
    kernel = place.kernel()
    kernel.create_section(4096, name="x")
    before = sorted(os.listdir(place.folder))
    state, limits = findings("service")
    assert severities([state, limits]) == ["ok", "ok"]
    facts = state["facts"]
    assert facts["running"] is True
    assert facts["process_id"] == place.service
    assert facts["epoch"] == kernel.epoch.hex()
    assert 0 <= facts["uptime"] < 60
    assert facts["counts"]["objects"] == 1
    assert "1 of 65,536 objects" in limits["sentence"]
    assert severities(findings("files")) == ["ok"]
    assert sorted(os.listdir(place.folder)) == before
    assert kernel.status().counts["objects"] == 1


@linux
def test_a_wrong_mode(place: Any) -> None:
    place.folder.chmod(0o755)
    wrong = findings("folder")[-1]
    assert (wrong["severity"], wrong["facts"]["mode"]) == ("problem", "755")
    assert wrong["remedy"].startswith(f"chmod 700 {place.folder}, or set EXTMEM_RUNTIME_DIR")
    assert severities(findings("service")) == ["note"]
    assert place.folder.stat().st_mode & 0o777 == 0o755
    subprocess.run(["chmod", "700", str(place.folder)], check=True)
    assert findings("folder")[-1]["severity"] == "ok"


def _link(path: Path) -> None:
    path.symlink_to("/tmp")


def _file(path: Path) -> None:
    path.write_text("")


@linux
@pytest.mark.parametrize(("make", "says"), [(_link, "is a symbolic link"), (_file, "is no folder")])
def test_no_folder(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "extmem"
    make(path)
    wrong = findings("folder", EXTMEM_RUNTIME_DIR=str(path))[-1]
    assert wrong["severity"] == "problem"
    assert says in wrong["sentence"]
    assert f"rm {path}" in wrong["remedy"]
    path.unlink()
    assert findings("folder", EXTMEM_RUNTIME_DIR=str(path))[-1]["severity"] == "ok"


@linux
def test_folders_that_cannot_be_had(tmp_path: Path) -> None:
    wrong = findings("folder", EXTMEM_RUNTIME_DIR=str(tmp_path / "no" / "such"))[-1]
    assert wrong["severity"] == "problem"
    assert f"mkdir -p {tmp_path / 'no'}" in wrong["remedy"]
    relative = findings("folder", EXTMEM_RUNTIME_DIR="here")[0]
    assert relative["severity"] == "note"
    assert "begins with a slash" in relative["remedy"]
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir(0o700)
        os.chown(theirs, 12345, 12345)
        wrong = findings("folder", EXTMEM_RUNTIME_DIR=str(theirs))[-1]
        assert wrong["severity"] == "problem"
        assert "belongs to user 12345" in wrong["sentence"]


@linux
def test_a_stale_socket(place: Any) -> None:
    place.kill()
    socket = place.folder / "directory.sock"
    service, stale = findings("service")
    assert severities([service, stale]) == ["ok", "note"]
    assert str(socket) in stale["sentence"]
    assert f"rm {socket}" in stale["remedy"]
    assert socket.is_socket()
    socket.unlink()
    assert severities(findings("service")) == ["ok"]


@linux
def test_files_that_are_something_else(place: Any) -> None:
    (place.folder / "directory.sock").mkdir()
    (place.folder / "directory.lock").symlink_to("/tmp/elsewhere")
    os.mkfifo(place.folder / "directory.log")
    found = findings("files")
    assert severities(found) == ["problem"] * 3
    for each, name in zip(found, ("sock", "lock", "log"), strict=True):
        assert f"directory.{name}" in each["remedy"]
    (place.folder / "directory.sock").rmdir()
    (place.folder / "directory.lock").unlink()
    (place.folder / "directory.log").unlink()


@linux
def test_the_log_and_the_lock(place: Any) -> None:
    import fcntl

    log, lock = place.folder / "directory.log", place.folder / "directory.lock"
    log.write_text("2026-01-01 WARNING once\n2026-01-01 WARNING twice\n")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held, warned = findings("files")
    assert held["facts"]["process_id"] == os.getpid()
    assert warned["severity"] == "note"
    assert (warned["facts"]["warnings"], warned["facts"]["errors"]) == (2, 0)
    log.write_text("x\n" * 100_000 + "2026-01-01 ERROR it broke\n")
    (broke,) = findings("files")
    assert broke["severity"] == "problem"
    assert "it broke" in broke["sentence"]
    log.unlink()


@linux
def test_a_service_that_is_stopped(place: Any) -> None:
    service = place.service
    os.kill(service, signal.SIGSTOP)
    try:
        (silent,) = findings("service")
    finally:
        os.kill(service, signal.SIGCONT)
    assert silent["severity"] == "problem"
    assert silent["remedy"] == f"It is stopped; let it go on: kill -CONT {service}."
    assert severities(findings("service")) == ["ok", "ok"]


@linux
def test_limits_that_are_nearly_reached(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from extmem.cli import doctor_directory
    from extmem.handles.directory.client import DirectoryKernel

    assert place.service
    real = DirectoryKernel.status

    def status(self: DirectoryKernel) -> Any:
        state = real(self)
        state.counts |= {"names": 60_000, "descriptors": int(state.limits["descriptors"])}
        return state

    monkeypatch.setattr(DirectoryKernel, "status", status)
    state, names, descriptors = doctor_directory.service()
    assert (state.severity, names.severity, descriptors.severity) == ("ok", "note", "problem")
    assert "60,000 names, and its limit is 65,536" in names.sentence
    assert "ulimit -Hn" in str(descriptors.remedy)


@linux
@pytest.mark.parametrize(
    ("hard", "severity"), [(64, "problem"), (1024, "note"), (-1, "ok"), (1 << 20, "ok")]
)
def test_descriptors(hard: int, severity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from extmem.cli import doctor_system

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    room, client = doctor_system.descriptors()
    assert (room.severity, client.severity) == (severity, "note")
    assert "ulimit -n" in str(client.remedy)


@linux
def test_what_the_system_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from extmem.cli import doctor_system
    from extmem.handles import memfd

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(22, "Invalid argument")

    assert [each.severity for each in doctor_system.memfds()] == ["ok", "ok"]
    monkeypatch.setattr(memfd, "seal_writing", refused)
    assert [each.severity for each in doctor_system.memfds()] == ["ok", "note"]
    monkeypatch.setattr(memfd, "make", refused)
    (none,) = doctor_system.memfds()
    assert none.severity == "problem"
    monkeypatch.setattr(os, "pidfd_open", refused)
    (polled,) = doctor_system.pidfds()
    assert polled.severity == "note"
    monkeypatch.setattr(os, "access", lambda *_: False)
    (unreadable,) = doctor_system.proc()
    assert unreadable.severity == "problem"
    monkeypatch.setattr(doctor_system, "_available", lambda: 1 << 20)
    (little,) = doctor_system.memory()
    assert (little.severity, little.facts) == ("note", {"free": 1 << 20})


@linux
def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    from extmem.cli import doctor

    def fails() -> Any:
        raise OSError("no such luck")

    monkeypatch.setattr(doctor, "CHECKS", (("luck", fails),))
    (found,) = doctor.collect()
    assert (found.check, found.severity) == ("luck", "problem")
    assert "no such luck" in found.sentence


# -- Vulkan's files -------------------------------------------------------------------------------


def manifest(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_variable_that_names_no_driver(tmp_path: Path) -> None:
    none = str(tmp_path / "none.json")
    missing, *_ = findings("manifests", VK_DRIVER_FILES=none, VK_ICD_FILENAMES="")
    assert missing["severity"] == "problem"
    assert missing["facts"] == {"variable": "VK_DRIVER_FILES", "path": none}
    assert "unset VK_DRIVER_FILES" in missing["remedy"]


def test_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extmem.cli import doctor_gpu

    library = tmp_path / "libdriver.so"
    written = {
        "a.json": '{"ICD": {"library_path": "libanywhere.so"}}',  # the dynamic linker's to find
        "b.json": json.dumps({"ICD": {"library_path": str(library)}}),
        "c.json": '{"ICD": {}}',
        "d.json": "{",
        "e.json": '{"ICD": {"library_path": 7}}',
    }
    for name, text in written.items():
        manifest(tmp_path / name, text)
    monkeypatch.delenv("VK_ADD_DRIVER_FILES", raising=False)
    for variable in doctor_gpu.CHOSEN:
        monkeypatch.setenv(variable, str(tmp_path))
    found = [each for each in doctor_gpu.manifests() if each.severity == "note"]
    assert {Path(each.facts["path"]).name for each in found} == {"b.json", "c.json", "d.json",
                                                                 "e.json"}  # fmt: skip
    assert all(each.remedy for each in found)
    library.touch()
    for name in ("c.json", "d.json", "e.json"):
        (tmp_path / name).unlink()
    assert not [each for each in doctor_gpu.manifests() if each.severity != "ok"]


@linux
def test_cards_that_this_user_may_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from extmem.cli import doctor_gpu

    monkeypatch.setattr(doctor_gpu, "_CARDS", ("null",))  # a device that everybody may use
    (may,) = doctor_gpu.cards()
    assert (may.severity, may.facts) == ("ok", {"files": ["/dev/null"]})
    monkeypatch.setattr(os, "access", lambda *_: False)
    (denied,) = doctor_gpu.cards()
    assert (denied.severity, denied.facts) == ("problem", {"path": "/dev/null"})
    assert denied.remedy
    monkeypatch.setattr(doctor_gpu, "_CARDS", ("no such card",))
    (none,) = doctor_gpu.cards()
    assert none.severity == "ok"


# -- Python ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["ok"]),
        ({"EXTMEM_DRIVER": "embedded", "EXTMEM_CHECKS": "cheap"}, ["ok"]),
        ({"EXTMEM_DRIVER": "/no/such"}, ["problem"]),
        ({"EXTMEM_CHECKS": "nonsense"}, ["problem"]),
        ({"EXTMEM_CHECKS": "off"}, ["note"]),
        ({"EXTMEM_DRIVER": "/no/such", "EXTMEM_CHECKS": "nonsense"}, ["problem", "problem"]),
    ],
    ids=str,
)
def test_settings(
    variables: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from extmem.cli import doctor_python

    for name in ("EXTMEM_DRIVER", "EXTMEM_CHECKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [*doctor_python.settings()]
    assert [each.severity for each in found] == expected
    for each in found:
        assert each.severity == "ok" or each.facts["variable"] in variables


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from extmem.cli import doctor_python

    real = metadata.version

    def version(name: str) -> str:
        if name == "torch":
            return "2.13.0"
        if name in ("cuda-bindings", "starlette", "uvicorn"):
            raise metadata.PackageNotFoundError(name)
        return "2.0.2" if name == "numpy" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    optional, numpy = doctor_python.packages()
    assert (optional.severity, optional.facts) == ("ok", {"installed": {"torch": "2.13.0"}})
    assert "pip install 'extmem[cuda]'" in optional.sentence
    assert numpy.severity == "note"
    assert "numpy>=2.1" in str(numpy.remedy)


# -- what was left behind -------------------------------------------------------------------------


def test_pictures(tmp_path: Path) -> None:
    folder = {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "TMP": str(tmp_path)}
    if sys.platform != "win32":  # where Wine has a folder of its own
        assert findings("pictures", **folder) == []
    from extmem.cli import doctor_leftovers

    for number in range(6):
        (tmp_path / f"extmem-demo-{number}.png").write_bytes(bytes(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor_leftovers.tempfile, "gettempdir", lambda: str(tmp_path))
        (found,) = doctor_leftovers.pictures()
    assert found.facts == {"pictures": 6, "size": 600}
    assert str(found.remedy).endswith("extmem-demo-*.png")


_KEEPS = """
import sys
from extmem.handles.system import kernel
kept = kernel().open_section(sys.argv[1])
print("kept", flush=True)
sys.stdin.read()
kernel().close(kept)
"""
_MAKES = """
import os, subprocess, sys
import extmem
gpu = extmem.open_device(driver="embedded")
memory = gpu.allocate(4096, export="opaque_win32", name=sys.argv[1])
print("made", flush=True)
sys.stdin.read()
os._exit(1)  # as if it were killed
"""


@linux
def test_an_object_that_outlives_its_maker(place: Any) -> None:
    assert place.service

    def started(program: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program, r"Local\left"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    with started(_MAKES) as maker:
        assert maker.stdout
        assert maker.stdout.readline() == b"made\n"
        with started(_KEEPS) as keeper:
            assert keeper.stdout
            assert keeper.stdout.readline() == b"kept\n"
            assert severities(findings("objects")) == ["ok"]
            maker.communicate()
            for _ in range(100):  # the directory is told of its end by the kernel, a little later
                (left,) = findings("objects")
                if left["severity"] == "note":
                    break
            assert left["severity"] == "note"
            assert left["sentence"].startswith("Local\\left of ")
            assert f"outlives process {maker.pid}, which made it" in left["sentence"]
            assert f"{keeper.pid} has handles of it" in left["sentence"]
            keeper.communicate()
    assert severities(findings("objects")) == ["ok"]


@linux
def test_a_helper_that_lost_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from extmem.cli import doctor_leftovers

    # Its name is what is looked at; it waits for nobody, so that the test can look as well.
    (tmp_path / "lonely.py").write_text(
        "import sys\nprint(__import__('os').getpid(), flush=True)\nsys.stdin.read()\n"
    )
    monkeypatch.setattr(doctor_leftovers, "_HELPERS", (b"lonely",))
    reading, writing = os.pipe()
    try:
        shell = f"'{sys.executable}' -m lonely <&{reading} & :"
        done = subprocess.run(
            ["sh", "-c", shell], cwd=tmp_path, pass_fds=[reading], capture_output=False,
            stdout=(out := os.open(tmp_path / "pid", os.O_CREAT | os.O_RDWR)),
        )  # fmt: skip
        os.close(out)
        assert done.returncode == 0
        for _ in range(2000):
            if text := (tmp_path / "pid").read_text().strip():
                break
            time.sleep(0.01)
        (found,) = doctor_leftovers.processes()
        if Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[1] == "1":
            assert (found.severity, found.facts) == ("note", {"process_id": int(text)})
            assert f"kill -KILL {text}" in str(found.remedy)
        else:  # some other process takes in those without a parent (a container's, systemd's)
            assert found.severity == "ok"
    finally:
        os.close(reading)
        os.close(writing)
    for _ in range(2000):
        if not Path(f"/proc/{text}").exists():
            break
        time.sleep(0.01)
    assert severities(findings("processes")) == ["ok"]
