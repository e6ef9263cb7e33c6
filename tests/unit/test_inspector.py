"""The inspector without a browser: who may ask, what is answered, and that nobody is disturbed."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import extmem
from extmem.cli import schemas
from tests.support import second
from tests.support.inspected import (
    COLOURS,
    HEIGHT,
    PATIENCE,
    WIDTH,
    Inspector,
    inspector,
    publisher,
    quarters,
    read_png,
    reader,
    sharer,
    view,
)
from tests.support.sharing import unique_name
from tests.support.strict import driver_cannot, missing

linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows has no list")


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"test-{secrets.token_hex(6)}"
    yield chosen
    if sys.platform != "win32":  # a publisher that was killed leaves its socket's file
        from extmem.handles.directory.folder import where

        (where() / f"channel-stream-{chosen}.sock").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def served() -> Iterator[Inspector]:
    """One for the tests that only ask."""
    _need_extra()
    with inspector() as running:
        yield running


def _need_extra() -> None:
    from importlib.util import find_spec

    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        missing("starlette and uvicorn (pip install 'extmem[view]')")


# -- who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "page.js", "page.css", "live", "survey", "picture", "passport"]
)
def test_nobody_is_answered_without_the_secret(served: Inspector, path: str) -> None:
    wrong = served.token[:-1] + ("A" if served.token[-1] != "A" else "B")
    for before in ("/", f"/{wrong}/", "//", f"/x/{served.token}/"):
        answer = served.ask(before + path)
        assert answer.status == 403, before
        assert served.token.encode() not in answer.body
    assert served.ask(f"/{served.token}").status == 403  # without what follows it


def test_a_page_of_another_name_is_not_answered(served: Inspector) -> None:
    path = f"/{served.token}/survey"
    for host in ("example.org", f"example.org:{served.port}", "127.0.0.1", "", "127.0.0.1:1"):
        assert served.ask(path, Host=host).status == 403, host
    for host in (f"localhost:{served.port}", f"127.0.0.1:{served.port}"):
        assert served.ask(path, Host=host).status == 200, host


def test_nothing_can_be_done_but_reading(served: Inspector) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
        answer = served.ask(f"/{served.token}/survey", method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET"), method


def test_what_is_answered_goes_nowhere_else(served: Inspector) -> None:
    for path in ("", "page.js", "page.css", "plots.js", "icon.svg", "survey", "nonsense"):
        headers = served.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert not any(each.startswith("access-control") for each in headers)
        assert "server" not in headers
    assert served.get("nonsense").status == 404


def test_only_this_machine_reaches_it(served: Inspector) -> None:
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.2", served.port), timeout=5),
    ):
        pass


def test_each_start_has_a_secret_of_its_own(served: Inspector) -> None:
    with inspector("--seconds", "30") as other:
        assert other.token != served.token
        assert len(other.token) * 6 >= 128  # bits


# -- streams --------------------------------------------------------------------------------------


def test_a_running_stream(served: Inspector, name: str) -> None:
    with second.start(publisher, name=name, rate=50) as source:
        source.receive()
        with second.start(reader, name=name) as other:
            other.receive()
            if sys.platform == "win32":
                with inspector(name) as own:
                    _see(own, name, source.pid, other.pid)
            else:
                _see(served, name, source.pid, other.pid)
            other.send("end")
            other.result()
        source.send("end")
        assert source.result() > 10


def _see(served: Inspector, name: str, source: int, other: int) -> None:
    def seen() -> Any:
        found = served.stream(name)
        return found if found.get("readers") and found["samples"] > 3 else None

    found = served.until(seen)
    assert (found["state"], found["publisher"], found["publishers"]) == ("running", source, 1)
    assert (found["shape"], found["dtype"]) == ([HEIGHT, WIDTH, 4], "uint8")
    assert 0 < found["rate"] <= 60
    assert found["sequence"] > 0
    assert found["fields"] == "shift: 0"
    assert [each["process_id"] for each in found["readers"]] == [other]
    served.until(lambda: (served.stream(name).get("latency_us") or 0) > 0)
    answer = served.get(f"picture?stream={name}")
    about = json.loads(answer.headers["x-picture"])
    assert (about["width"], about["height"], about["from"]) == (WIDTH, HEIGHT, [WIDTH, HEIGHT])
    assert about["sequence"] >= found["sequence"]
    pixels = np.frombuffer(answer.body, "uint8").reshape(HEIGHT, WIDTH, 4)
    assert np.array_equal(pixels, quarters())
    passport = served.get(f"passport?stream={name}").json
    assert passport["exporter"]["process_id"] == source
    assert passport["place"]["device_name"].startswith("extmem embedded")


@linux
def test_a_publisher_that_dies_and_another_one(served: Inspector, name: str) -> None:
    with second.start(publisher, name=name) as source:
        source.receive()
        served.until(lambda: served.stream(name).get("state") == "running")
        source.kill()
        found = served.until(lambda: served.stream(name).get("state") == "died" and served.survey())
        assert served.get(f"picture?stream={name}").json == {"why": "its publisher has died"}
        assert found["problem"] == ""
    with second.start(publisher, name=name, shift=1) as source:
        source.receive()

        def back() -> bool:
            found = served.stream(name)
            return (found["state"], found["publisher"]) == ("running", source.pid)

        served.until(back)
        assert served.stream(name)["publishers"] == 2
        served.until(lambda: "x-picture" in served.get(f"picture?stream={name}").headers)
        answer = served.get(f"picture?stream={name}")
        assert tuple(answer.body[:3]) == COLOURS[1]
        source.send("end")
        source.result()
    served.until(lambda: served.stream(name).get("state") == "ended")


@linux
def test_a_page_is_told_what_was_and_what_is(served: Inspector, name: str) -> None:
    with second.start(publisher, name=name) as source:
        source.receive()
        served.until(lambda: served.stream(name).get("samples", 0) > 2)
        with socket.create_connection((served.host, served.port), timeout=PATIENCE) as line:
            host = f"{served.host}:{served.port}"
            line.sendall(f"GET /{served.token}/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            with line.makefile("rb") as lines:
                events: dict[str, Any] = {}
                kind = ""
                while {"history", "objects", "streams"} - events.keys():
                    text = next(lines).decode()
                    if text.startswith("event: "):
                        kind = text.split()[1]
                    elif text.startswith("data: "):
                        events[kind] = json.loads(text[6:])
        assert len(events["history"][name]) > 1
        assert name in [each["name"] for each in events["streams"]["streams"]]
        source.send("end")
        source.result()


# -- objects --------------------------------------------------------------------------------------


@linux
def test_shared_objects(served: Inspector) -> None:
    names = [rf"Local\{secrets.token_hex(6)}" for _ in range(2)]
    with second.start(sharer, names=names, count=3) as other:
        other.receive()

        def listed() -> dict[str, Any]:
            return {each["name"]: each for each in served.survey()["objects"]}

        served.until(lambda: set(names) <= listed().keys())
        for at, name in enumerate(names):
            each = listed()[name]
            answer = served.get(f"picture?object={each['identity']}")
            pixels = np.frombuffer(answer.body, "uint8").reshape(HEIGHT, WIDTH, 4)
            assert np.array_equal(pixels, quarters(at)), name
            image = served.get(f"passport?object={each['identity']}").json["image"]
            assert (image["format"], image["tiling"]) == ("rgba8", ("optimal", "linear")[at])
            assert each["owner"]["process_id"] == other.pid
        plain = listed()[r"Local\part-000"]
        about = served.get(f"picture?object={plain['identity']}").headers["x-picture"]
        assert json.loads(about)["note"] == "the first 4096 bytes, 128 in a row"
        other.send("end")
        other.result()
    # What was looked at lives no longer than its owner wanted.
    served.until(lambda: not set(names) & listed().keys())
    assert served.get(f"picture?object={plain['identity']}").status == 404


@linux
def test_what_has_no_picture_says_why(served: Inspector) -> None:
    with (
        extmem.open_device() as gpu,
        gpu.allocate(64, export="opaque_win32") as nameless,
        nameless.export(),
        gpu.semaphore(export="opaque_win32", name=rf"Local\{secrets.token_hex(6)}") as semaphore,
        semaphore.export(),
    ):
        found = served.until(lambda: len(served.survey()["objects"]) == 2 and served.survey())
        whys = []
        for each in found["objects"]:
            whys.append(served.get(f"picture?object={each['identity']}").json["why"])
    assert sorted(whys)[0].startswith("it has no name: only those who were given a handle")
    assert sorted(whys)[1].startswith("it has no passport")


# -- the command ----------------------------------------------------------------------------------


def test_a_picture_without_a_browser(tmp_path: Path, name: str) -> None:
    path = tmp_path / "frame.png"
    with extmem.publish(name, shape=(HEIGHT, WIDTH, 4), dtype="uint8") as stream:
        with stream.frame() as frame:
            frame.numpy()[...] = quarters(2)
        done = view(name, "--png", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{path}: {name}, {WIDTH}x{HEIGHT}, frame 1\n"
    assert np.array_equal(read_png(path), quarters(2))
    assert view(name, "--png", str(path)).returncode == 3


def test_a_picture_of_an_object(tmp_path: Path) -> None:
    name = secrets.token_hex(6)
    path = tmp_path / "image.png"
    with (
        extmem.open_device() as gpu,
        gpu.image((HEIGHT, WIDTH), "bgra8", export="opaque_win32", name=rf"Local\{name}") as image,
    ):
        gpu.upload(image, quarters()[..., [2, 1, 0, 3]])
        for each in (name, rf"Local\{name}") if sys.platform != "win32" else (rf"Local\{name}",):
            done = view(each, "--png", str(path), "--json")
            assert (done.returncode, done.stderr) == (0, "")
            assert json.loads(done.stdout)["from"] == [WIDTH, HEIGHT]
    assert np.array_equal(read_png(path), quarters())
    done = view(name, "--png", str(path))
    assert done.returncode == 3
    assert name in done.stderr


def test_a_picture_asks_for_no_more_than_an_import(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of drivers are opened to read and write, and the others to read alone."""
    monkeypatch.setenv("EXTMEM_DRIVER", driver)
    path = tmp_path / "memory.png"
    name = unique_name()
    with extmem.open_device(driver=driver) as gpu:
        if not gpu.physical.can_export("opaque_win32"):
            driver_cannot("it exports no opaque_win32")
        grants = "GR" if driver == "embedded" else "GRGW"
        terms = {"export": "opaque_win32", "name": name, "security": f"D:(A;;{grants};;;WD)"}
        with gpu.allocate(4096, **terms) as memory, memory.export():
            memory.numpy()[:] = 200
            done = view(name, "--png", str(path))
    assert done.returncode == 0, done.stderr
    assert 200 in read_png(path)


def test_mistakes(tmp_path: Path) -> None:
    path = str(tmp_path / "x.png")
    assert view("--png", path).returncode == 2
    assert view("one", "two", "--png", path).returncode == 2
    assert view("--port", "70000").returncode == 2
    done = view("there-is-none", "--png", path)
    assert done.returncode == 3
    assert done.stderr.startswith("extmem: there is no stream and no shared object")
    assert not Path(path).exists()


@linux
def test_a_survey_as_json(name: str) -> None:
    with second.start(publisher, name=name) as source:
        source.receive()
        done = view("--json")
        assert (done.returncode, done.stderr) == (0, "")
        found = [each for each in json.loads(done.stdout)["streams"] if each["name"] == name]
        assert found[0]["state"] == "running"
        assert found[0]["rate"] > 0
        source.send("end")
        source.result()


@linux
def test_ctrl_c_ends_it_quietly() -> None:
    with inspector() as running:
        host = f"{running.host}:{running.port}"
        with socket.create_connection((running.host, running.port), timeout=PATIENCE) as line:
            line.sendall(f"GET /{running.token}/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert line.recv(64).startswith(b"HTTP/1.1 200")
            code, said = running.interrupt()
    assert code == 0
    assert said == "The inspector, for whoever has this address on this machine. Ctrl-C ends it.\n"


def test_it_ends_after_so_many_seconds() -> None:
    with inspector("--seconds", "0.5") as running:
        assert running.wait()[0] == 0


_WITHOUT = """
import sys
sys.modules["uvicorn"] = None
sys.argv = ["extmem", "view", *sys.argv[1:]]
from extmem.cli import main
main()
"""


def test_without_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'extmem[view]'" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, "--json"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["count"] >= 0


def test_nothing_of_it_is_loaded_before_it_is_used() -> None:
    asked = "import sys, extmem.cli; print([each for each in sys.modules if 'starlette' in each])"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "[]\n"


@linux
def test_what_is_printed_is_as_its_schema_says(tmp_path: Path, name: str) -> None:
    with (
        extmem.publish(name, shape=(2, 3), dtype="uint8") as stream,
        extmem.subscribe(name),
        extmem.open_device() as gpu,
        gpu.allocate(64, export="opaque_win32") as memory,
        memory.export(),
    ):
        with stream.frame() as frame:
            frame.numpy()[...] = 7
        survey = view("--json")
        picture = view(name, "--png", str(tmp_path / "x.png"), "--json")
        absent = view(f"{name}-absent", "--json")
    checked = jsonschema.Draft202012Validator(schemas.read("view"))
    assert absent.returncode == 3
    assert "nobody publishes" in absent.stderr
    checked.validate(json.loads(absent.stdout))
    for done in (survey, picture):
        assert (done.returncode, done.stderr) == (0, "")
        checked.validate(json.loads(done.stdout))
    (found,) = [each for each in json.loads(survey.stdout)["streams"] if each["name"] == name]
    assert found["readers"]
    assert set(found) == set(
        schemas.read("view")["oneOf"][0]["properties"]["streams"]["items"]["properties"]
    )
