"""The inspector's server among strangers: they cannot shut its owner out, nor read the secret."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.inspected import PATIENCE, Inspector, inspector, view
from tests.support.strict import missing

linux = pytest.mark.skipif(sys.platform == "win32", reason="hardware: a system with POSIX modes")
MOST_LIVE = 16  # pages, as the server has it
SILENT = 200


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        missing("starlette and uvicorn (pip install 'extmem[view]')")
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")


@pytest.fixture
def served() -> Iterator[Inspector]:
    with inspector() as running:
        yield running


def line_to(served: Inspector) -> socket.socket:
    return socket.create_connection((served.host, served.port), timeout=PATIENCE)


def live(served: Inspector) -> socket.socket:
    """A connection that has asked to be kept up to date."""
    line = line_to(served)
    host = f"{served.host}:{served.port}"
    line.sendall(f"GET /{served.token}/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return line


def status(line: socket.socket) -> int:
    """What was answered, without reading more of it."""
    data = b""
    while len(data) < len("HTTP/1.1 200"):
        more = line.recv(len("HTTP/1.1 200") - len(data))
        assert more
        data += more
    return int(data.split()[1])


def ended(line: socket.socket) -> bool:
    """Whether the server closed it, which is waited for."""
    try:
        while line.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_who_says_nothing_does_not_shut_the_owner_out(served: Inspector) -> None:
    with contextlib.ExitStack() as open_:
        page = open_.enter_context(live(served))
        assert status(page) == 200
        silent = [open_.enter_context(line_to(served)) for _ in range(SILENT)]
        for each in silent[-20:]:
            with contextlib.suppress(OSError):
                each.sendall(b"GET / HTTP/1.1\r\nHost: ")  # and never more
        assert served.get("survey").status == 200
        assert [each for each in silent if not ended(each)] == []
        assert served.get("survey").status == 200
        # Who has the secret stays: what was sent meanwhile, and more, arrives.
        with page.makefile("rb") as lines:
            looks: set[int] = set()
            while len(looks) < 3:
                text = next(lines)
                if text.startswith(b'data: {"looks"'):
                    looks.add(json.loads(text[6:])["looks"])


def test_who_asks_without_the_secret_is_let_go_of(served: Inspector) -> None:
    with line_to(served) as line:
        line.sendall(f"GET / HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
        assert status(line) == 403
        assert ended(line)


def test_so_many_pages_at_once_and_no_more(served: Inspector) -> None:
    with contextlib.ExitStack() as open_:
        lines = [open_.enter_context(live(served)) for _ in range(40)]
        found = [status(each) for each in lines]
        assert sorted(found) == [200] * MOST_LIVE + [503] * (40 - MOST_LIVE)

    def again() -> bool:
        with live(served) as line:
            return status(line) == 200

    served.until(again)  # the places of those that left are free


def test_who_leaves_before_the_answer_takes_no_place(served: Inspector) -> None:
    for _ in range(3 * MOST_LIVE):
        live(served).close()

    def free() -> bool:
        with contextlib.ExitStack() as open_:
            lines = [open_.enter_context(live(served)) for _ in range(MOST_LIVE)]
            return [status(each) for each in lines] == [200] * MOST_LIVE

    end = time.monotonic() + PATIENCE
    while not free():
        assert time.monotonic() < end
        time.sleep(0.5)


# -- ports ----------------------------------------------------------------------------------------


@linux
def test_a_port_can_be_had_again_at_once() -> None:
    with inspector() as first, live(first) as line:
        assert status(line) == 200
        assert first.interrupt()[0] == 0  # the server hangs up, so the system remembers the port
        with inspector("--port", str(first.port), "--seconds", "0.5") as again:
            assert again.port == first.port
            assert again.wait()[0] == 0


def test_a_port_that_is_taken_is_named_with_the_remedy(served: Inspector) -> None:
    done = view("--port", str(served.port))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {served.port} of 127.0.0.1" in done.stderr
    assert "--port 0" in done.stderr
    assert "Traceback" not in done.stderr


# -- --open ---------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_browser_is_not_told_the_secret_on_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    told, browser = tmp_path / "told", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{told}.new"\nmv "{told}.new" "{told}"\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    with inspector("--open") as running:
        running.until(told.exists)
        said = told.read_text()
        assert running.token not in said
        parts = urlsplit(said.strip())
        file = Path(unquote(parts.path))
        assert parts.scheme == "file"
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
        for folder in (file.parent, file.parent.parent):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert f'content="0;url={running.address}"' in file.read_text()
        running.process.send_signal(how)
        running.wait()
        assert not file.parent.exists()
