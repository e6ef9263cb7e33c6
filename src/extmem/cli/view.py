"""`extmem view`: the inspector, a page in a browser; or one picture, or one survey, without it."""

from __future__ import annotations

import contextlib
import html
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extmem.cli.exits import NotThere
from extmem.cli.picture import write_png
from extmem.cli.schemas import schema_of
from extmem.cli.words import one_line, say
from extmem.errors import Unsupported, plain

__all__ = ["picture", "serve", "survey"]

_FIRST_FRAME = 2.0  # seconds that a stream without a frame gets to publish one
_SURVEY = 8.0  # seconds for a survey, if a publisher does not answer
_SAMPLES = 3  # of each stream, so that there are rates
_LEADS = """<!DOCTYPE html><meta charset="utf-8"><title>extmem</title>
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={0}"><a href="{0}">extmem view</a>
"""
_KMT = "KMT "  # and a number, as `extmem list` shows it


def serve(names: tuple[str, ...], port: int, seconds: float | None, browser: bool) -> None:
    """Serve the page until Ctrl-C, or for so many seconds. The address goes to stdout."""
    from extmem.inspector.server import Server
    from extmem.inspector.survey import Survey

    with Survey(names) as looked:
        server = Server(looked, port)
        say(server.address)
        print(
            "The inspector, for whoever has this address on this machine. Ctrl-C ends it.",
            file=sys.stderr,
        )
        sys.stdout.flush()
        with _opened(server.address) if browser else contextlib.nullcontext():
            server.run(seconds)


@contextlib.contextmanager
def _opened(address: str) -> Iterator[None]:
    """Have a browser go there. Its command line can be read by every user of the machine, and the
    address has a secret: so it is given a file of this user's own, which leads there.
    """
    import webbrowser

    before = signal.signal(signal.SIGTERM, _end)  # which would end us, and leave the file
    folder = Path(tempfile.mkdtemp(prefix="view-", dir=_private()))  # of mode 700
    try:
        file = folder / "open.html"
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as page:
            page.write(_LEADS.format(html.escape(address)))
        webbrowser.open(file.as_uri())
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)  # what a shell says of a program that a signal ended


def _private() -> Path | None:
    """A folder of this user's own; None for the one for temporary files."""
    if sys.platform == "win32":  # whose users have one each
        return None
    from extmem.handles.directory.folder import Folder, where

    with Folder.open(where()) as folder:
        return folder.path


def survey(names: tuple[str, ...]) -> dict[str, Any]:
    """What the page would show now, as plain data: streams, with their figures, and objects."""
    from extmem.inspector.survey import Survey

    with Survey(names) as looked:
        until = time.monotonic() + _SURVEY
        while not _settled(looked.latest) and time.monotonic() < until:
            time.sleep(0.05)
        found = looked.objects()
        return {"schema": schema_of("view"), **looked.latest, **found}


def require(found: dict[str, Any], names: tuple[str, ...]) -> None:
    """NotThere, for the streams that were asked for and that nobody publishes."""
    for each in found["streams"]:
        if each["name"] in names and each["state"] == "unreachable":
            raise NotThere(f"the stream {plain(each['name'])!r} is not there: {each['why']}")


def picture(name: str, path: str) -> dict[str, Any]:
    """Write the picture of a stream's newest frame, or of a shared object, as a PNG file."""
    from extmem.inspector.devices import Devices

    found = _of_stream(name)
    if found is None:
        with Devices() as devices:
            found = _of_object(name, devices)
    shown, said = found
    write_png(path, shown.pixels)
    height, width, _ = shown.pixels.shape
    return {
        "schema": schema_of("view"),
        "name": name,
        "path": path,
        "width": width,
        "height": height,
        "from": [shown.width, shown.height],
        "note": shown.note,
        **said,
    }


def show(found: dict[str, Any]) -> None:
    """What `picture` did, for people."""
    whole = "x".join(map(str, found["from"]))
    small = "" if found["from"] == [found["width"], found["height"]] else f" of {whole}"
    parts = [f"{found['width']}x{found['height']}{small}"]
    if "sequence" in found:
        parts.append(f"frame {found['sequence']}")
    if not found["whole"]:
        parts.append("overwritten while it was copied")
    if found["note"]:
        parts.append(found["note"])
    say(f"{one_line(found['path'])}: {one_line(found['name'])}, {', '.join(parts)}")


def _settled(latest: dict[str, Any]) -> bool:
    """Whether there was a look, and all running streams have their figures."""
    return latest["looks"] > 0 and not any(
        each["state"] == "reaching" or (each["state"] == "running" and each["samples"] < _SAMPLES)
        for each in latest["streams"]
    )


def _of_stream(name: str) -> tuple[Any, dict[str, Any]] | None:
    """None if there is no such stream."""
    from extmem.inspector.streams import taken
    from extmem.share.looking import Onlooker, streams
    from extmem.share.slots import check_name

    try:
        check_name(name)
    except ValueError:
        return None
    listed = streams()
    if name in listed and listed[name] is None:
        raise NotThere(f"the publisher of {name!r} has died, and nobody publishes it now")
    try:
        onlooker = Onlooker(name)
    except ConnectionRefusedError:
        return None
    with onlooker:
        until = time.monotonic() + _FIRST_FRAME
        while onlooker.newest() is None and time.monotonic() < until:
            time.sleep(0.02)
        found, seen, whole = taken(onlooker)
    if found is None or seen is None:
        raise NotThere(f"the stream {name!r} has no frame yet; start it, and try again")
    return found, {"sequence": seen.sequence, "whole": whole}


def _of_object(name: str, devices: Any) -> tuple[Any, dict[str, Any]]:
    from extmem.inspector.objects import Objects, collect

    objects = Objects(devices)
    if sys.platform == "win32":  # nobody lists what there is: it is asked for by its name
        try:
            return objects.taken(_number(name), None), {"whole": True}
        except FileNotFoundError:
            raise _nothing(name) from None
    found, passports = collect()
    wanted = (name, f"Local\\{name}")
    for each in reversed(found):  # of two of the same name, another user's say, the newest
        kmt = each["kmt"] is not None and _number(name) == each["kmt"]
        if kmt or (each["kmt"] is None and each["name"] in wanted):
            data = passports.get(each["identity"], b"")
            try:
                return objects.picture(each, data), {"whole": True}
            except Unsupported as error:
                raise Unsupported(f"{plain(name)} cannot be shown: {error}") from None
    raise _nothing(name)


def _number(name: str) -> str | int:
    """The number of a KMT share, or the name that it is."""
    digits = name.removeprefix(_KMT)
    return int(digits) if name.startswith(_KMT) and digits.isdecimal() else name


def _nothing(name: str) -> NotThere:
    return NotThere(
        f"there is no stream and no shared object {plain(name)!r}; `extmem view --json` says what "
        "there is"
    )
