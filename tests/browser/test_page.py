"""The inspector's page in a browser: it shows what programs share, while they do it.

EXTMEM_TEST_SCREENSHOTS=1 writes the pictures of docs/images.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import second
from tests.support.inspected import (
    COLOURS,
    HEIGHT,
    PATIENCE,
    WIDTH,
    Inspector,
    inspector,
    publisher,
    reader,
    sharer,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hardware: no browser in Wine")

IMAGES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
SCREENSHOTS = os.environ.get("EXTMEM_TEST_SCREENSHOTS", "0") != "0"
MOST_ROWS = 50  # of objects, that a page has at the same time

PIXELS = """
const canvas = document.getElementById("picture");
const at = canvas.getContext("2d");
return [canvas.width, canvas.height, ...arguments[0].map(
    ([x, y]) => [...at.getImageData(x, y, 1, 1).data])];
"""
MIDDLES = [[WIDTH * (1 + 2 * (at % 2)) // 4, HEIGHT * (1 + 2 * (at // 2)) // 4] for at in range(4)]


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTMEM_DRIVER", "embedded")


@pytest.fixture(scope="module")
def served(browser: Any) -> Iterator[Inspector]:
    with inspector() as running:
        yield running


class Page:
    """What a person sees."""

    def __init__(self, browser: Any, served: Inspector) -> None:
        self.browser = browser
        self.served = served

    def text(self, where: str) -> str:
        """Of one element."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", where))

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.browser.execute_script(script, *arguments)

    def count(self, where: str) -> int:
        """How many elements there are."""
        return int(self.run("return document.querySelectorAll(arguments[0]).length", where))

    def click(self, where: str, text: str = "") -> None:
        """Click on the element, or on the one of these with a text."""
        self.until(
            lambda: self.run(
                "const found = [...document.querySelectorAll(arguments[0])]"
                ".find((each) => each.innerText.includes(arguments[1]));"
                "found?.click(); return found !== undefined",
                where,
                text,
            )
        )

    def type(self, text: str) -> None:
        """Write into the filter."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        field = self.browser.find_element(By.ID, "filter")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text)

    def until(self, check: Callable[[], Any]) -> Any:
        """What becomes true in time."""
        end = time.monotonic() + PATIENCE
        while not (found := check()):
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.05)
        return found

    def colours(self) -> list[tuple[int, ...]]:
        """Of the middles of the picture's quarters, with the picture's size before them."""
        width, height, *found = self.run(PIXELS, MIDDLES)
        return [(width, height), *(tuple(each[:3]) for each in found)]

    def shot(self, name: str) -> None:
        """Take a picture for the documentation, if that is asked for."""
        if SCREENSHOTS:
            IMAGES.mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(str(IMAGES / name))

    def scheme(self, which: str) -> None:
        """Light or dark."""
        features = [{"name": "prefers-color-scheme", "value": which}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def page(browser: Any, served: Inspector) -> Iterator[Page]:
    """A page of the inspector, on which nothing went wrong."""
    with shown_by(browser, served) as page:
        yield page


@contextlib.contextmanager
def shown_by(browser: Any, served: Inspector) -> Iterator[Page]:
    browser.get_log("browser")
    browser.get(served.address)
    shown = Page(browser, served)
    shown.scheme("light")
    shown.until(lambda: shown.run("return Number(document.body.dataset.updates) > 0"))
    yield shown
    said = browser.get_log("browser")
    browser.get("about:blank")
    # The tests read more pixels than a page would, and what is asked for may just have gone.
    said = [each for each in said if each["source"] != "rendering"]
    assert [each["message"] for each in said if "404 (Not Found)" not in each["message"]] == []


@contextlib.contextmanager
def published(name: str, **options: Any) -> Iterator[second.Other]:
    with second.start(publisher, name=name, **options) as source:
        source.receive()
        yield source


def of_colours(shift: int = 0) -> list[tuple[int, ...]]:
    return [(WIDTH, HEIGHT), *(COLOURS[(at + shift) % 4] for at in range(4))]


def fresh(word: str) -> str:
    return f"{word}-{secrets.token_hex(3)}"


def test_a_running_stream(page: Page) -> None:
    name = fresh("camera")
    with published(name, rate=40) as source, second.start(reader, name=name, pause=0.1) as other:
        other.receive()
        page.click("#streams button", name)
        page.until(lambda: page.text("#title") == name)
        page.until(lambda: page.colours() == of_colours())
        before = page.until(lambda: page.run("return Number(picture.dataset.sequence || 0)"))
        page.until(lambda: page.run("return Number(picture.dataset.sequence || 0)") > before)
        page.until(lambda: 0 < float(page.text("#rate").removesuffix("/s") or 0) <= 45)
        page.until(lambda: page.text("#latency").endswith(("µs", "ms")))
        page.until(lambda: float(page.text("#missed").removesuffix("/s") or 0) > 0)
        for plot in ("rate", "latency", "missed"):
            page.until(lambda plot=plot: page.count(f"#{plot}-plot .line[d*=L]"))
        page.until(lambda: str(other.pid) in page.text("#flow"))
        assert str(source.pid) in page.text("#flow")
        assert "shift: 0" in page.text("#facts")
        page.until(lambda: "extmem embedded 0" in page.text("#passport"))
        assert f"{HEIGHT}×{WIDTH}×4 uint8" in page.text("#subtitle")
        assert f"reads {name}" in page.text("#processes")
        other.send("end")
        other.result()
        source.send("end")
        source.result()
    page.until(lambda: "has ended this stream" in page.text("#notice"))


def test_a_publisher_that_dies_and_returns(page: Page) -> None:
    name = fresh("camera")
    with published(name) as source:
        page.click("#streams button", name)
        page.until(lambda: page.colours() == of_colours())
        source.kill()
        page.until(lambda: f"Process {source.pid}" in page.text("#notice"))
        assert "has died" in page.text("#notice")
        assert page.run("return picture.classList.contains('old')")
        assert "publisher died" in page.text("#streams")
        assert page.text("#rate") == "–"
    with published(name, shift=1) as source:
        page.until(lambda: page.colours() == of_colours(1))  # without a click
        page.until(lambda: page.text("#notice") == "")
        page.until(lambda: f"process {source.pid}, the 2." in page.text("#facts"))
        assert not page.run("return picture.classList.contains('old')")
        source.send("end")
        source.result()


def test_five_hundred_objects(page: Page) -> None:
    names = [r"Local\wall", r"Local\door"]
    with second.start(sharer, names=names, count=500, timeout=PATIENCE * 2) as other:
        other.receive()
        page.until(lambda: page.text("#objects-count") == "502")
        assert page.count("#objects button") == MOST_ROWS
        assert page.text("#page-number") == "1 of 11"
        page.click("#later")
        page.until(lambda: page.text("#page-number") == "2 of 11")
        assert page.count("#objects button") == MOST_ROWS
        assert page.count("body *") < 1000
        page.type("part-12")
        page.until(lambda: page.count("#objects button") == 10)
        assert page.text("#objects-count") == "10 of 502"
        page.type("door")
        page.until(lambda: page.count("#objects button") == 1)
        page.click("#objects button", "door")
        page.until(lambda: page.colours() == of_colours(1))
        assert page.text("#title") == names[1]
        page.until(lambda: "rgba8" in page.text("#passport"))
        assert str(other.pid) in page.text("#flow")
        page.type("")
        page.until(lambda: page.count("#objects button") == MOST_ROWS)
        page.click("#objects button", "part-")
        page.until(lambda: "128 in a row" in page.text("#caption"))
        other.send("end")
        other.result()
    page.until(lambda: page.text("#objects-count") == "0")
    page.until(lambda: "is gone" in page.text("#notice"))


def test_what_strangers_say_is_text(page: Page) -> None:
    name = "Local\\<img src=x onerror=\"document.title='taken'\">\u202e\x07"
    with second.start(sharer, names=[name]) as other:
        other.receive()
        page.click("#objects button", "onerror")
        page.until(lambda: page.colours() == of_colours())
        assert page.count("img") == 0
        assert page.run("return document.title") == "extmem"
        assert r"\u202e\u0007" in page.text("#title")
        other.send("end")
        other.result()


def test_the_keyboard_is_enough(page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    name = fresh("camera")
    with (
        published(name) as source,
        second.start(sharer, names=["Local\\one", "Local\\two"]) as other,
    ):
        other.receive()
        page.until(lambda: page.count("#objects button") == 2)
        page.until(lambda: name in page.text("#streams"))

        def press(*keys: str) -> None:
            ActionChains(page.browser).send_keys(*keys).perform()

        press("/", *"local")
        page.until(lambda: page.count("#streams button") == 0)
        press(Keys.ARROW_DOWN)
        page.until(lambda: page.text("#title") == r"Local\two")
        press(Keys.ARROW_DOWN)
        page.until(lambda: page.text("#title") == r"Local\one")
        time.sleep(1.2)  # two updates: what has the focus keeps it
        press(Keys.ARROW_UP)
        page.until(lambda: page.text("#title") == r"Local\two")
        press("/", Keys.ESCAPE)
        page.until(lambda: page.count("#streams button") >= 1)
        for each in (source, other):
            each.send("end")
            each.result()


# Programs as people have them, for the pictures.
PROGRAMS = {
    "camera.py": """
        from extmem.inspector.sample import main
        main(sys.argv[1], 30)
    """,
    "viewer.py": """
        for frame in extmem.subscribe(sys.argv[1], patience=30):
            frame.numpy()
    """,
    "train.py": """
        for frame in extmem.subscribe(sys.argv[1], patience=30):
            time.sleep(0.08)
    """,
    "compositor.py": """
        from extmem.cli.picture import HEIGHT, WIDTH, Painter
        picture = numpy.zeros((HEIGHT, WIDTH, 4), "uint8")
        Painter().paint(picture, 40)
        with extmem.open_device() as gpu, contextlib.ExitStack() as made:
            for name in sys.argv[1:]:
                image = made.enter_context(
                    gpu.image(
                        (HEIGHT, WIDTH), "rgba8", export="opaque_win32", name="Local\\\\" + name
                    )
                )
                gpu.upload(image, picture)
                made.enter_context(image.export())
            time.sleep(600)
    """,
}


@contextlib.contextmanager
def running(folder: Path, program: str, *arguments: str) -> Iterator[None]:
    begin = "import contextlib, extmem, numpy, sys, time\n"
    (folder / program).write_text(begin + textwrap.dedent(PROGRAMS[program]))
    command = [sys.executable, str(folder / program), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_in_light_and_in_dark(browser: Any, tmp_path: Path) -> None:
    stream, other = ("camera", "depth") if SCREENSHOTS else (fresh("camera"), fresh("depth"))
    with contextlib.ExitStack() as started:
        for program, *arguments in (
            ("camera.py", stream),
            ("camera.py", other),
            ("viewer.py", stream),
            ("train.py", stream),
            ("compositor.py", "backdrop", "overlay", "hud"),
        ):
            started.enter_context(running(tmp_path, program, *arguments))
        own = started.enter_context(inspector())  # which has seen none of the other tests
        page = started.enter_context(shown_by(browser, own))
        page.click("#streams button", stream)
        page.until(lambda: page.count("#flow .party") == 3)
        page.until(lambda: page.count("#objects button") == 3)
        page.until(lambda: page.run("return Number(picture.dataset.sequence || 0)") > 0)
        assert "camera.py" in page.text("#flow")
        time.sleep(50 if SCREENSHOTS else 0)
        ground = "return getComputedStyle(document.body).backgroundColor"
        light = page.run(ground)
        page.shot("view-light.png")
        page.scheme("dark")
        assert page.run(ground) != light
        page.shot("view-dark.png")
        page.click("#objects button", "backdrop")
        page.until(lambda: "rgba8" in page.text("#passport"))
        page.until(lambda: "640 × 360" in page.text("#caption"))
        page.scheme("light")
        page.shot("view-object.png")
    if sys.platform != "win32":
        from extmem.handles.directory.folder import where

        for each in (stream, other):  # killed publishers leave their sockets' files
            (where() / f"channel-stream-{each}.sock").unlink(missing_ok=True)


def test_without_the_secret(browser: Any, served: Inspector) -> None:
    browser.get(f"http://{served.host}:{served.port}/")
    assert "secret part" in browser.execute_script("return document.body.innerText")
    browser.get_log("browser")


def test_it_opens_by_a_file_that_leads_there(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, program = tmp_path / "told", tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" >"{told}.new"\nmv "{told}.new" "{told}"\n')
    program.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    with inspector("--open") as own:
        own.until(told.exists)
        browser.get(told.read_text())
        shown = Page(browser, own)
        shown.until(lambda: shown.run("return Number(document.body.dataset.updates) > 0"))
        assert browser.current_url == own.address
        browser.get("about:blank")
        browser.get_log("browser")


def test_the_inspector_ends(browser: Any) -> None:
    with inspector() as own:
        browser.get(own.address)
        shown = Page(browser, own)
        shown.until(lambda: shown.run("return Number(document.body.dataset.updates) > 0"))
        assert "Nothing is shared yet" in shown.text("#welcome")
        assert own.interrupt()[0] == 0
        shown.until(lambda: "does not answer" in shown.text("#connection"))
    browser.get("about:blank")
    browser.get_log("browser")
