"""Looks at built pages: every link and picture of theirs leads to something that is there."""

from __future__ import annotations

import posixpath
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["problems"]

# What loads something as soon as the page is looked at; it has to lie beside the page.
_LOADING = {"script", "img", "link", "source", "iframe", "object", "embed"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []  # tag and address

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src", "data"):
                self.links.append((tag, value))


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(folder: Path, external: dict[str, int] | None = None) -> list[str]:
    """What is wrong with the links of the pages under a folder, one sentence each.

    external: filled with the addresses outside, and how often each is there
    """
    pages = {each.relative_to(folder).as_posix(): _read(each) for each in folder.rglob("*.html")}
    found: list[str] = []
    for name, page in sorted(pages.items()):
        for tag, address in page.links:
            problem = _problem(folder, pages, name, tag, address, external)
            if problem:
                found.append(f"{name}: {address}: {problem}")
    return found


def _problem(
    folder: Path,
    pages: dict[str, _Page],
    name: str,
    tag: str,
    address: str,
    external: dict[str, int] | None,
) -> str:
    """What is wrong with one address; "" if nothing."""
    parts = urlsplit(address)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        if tag in _LOADING:
            return "is loaded from elsewhere"
        if parts.scheme != "https" or "." not in parts.netloc or " " in address:
            return "is no https address"
        if external is not None:
            external[address] = external.get(address, 0) + 1
        return ""
    if parts.path.startswith("/"):
        return "begins at the root of a server, which is not there in a folder"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
    target = name if not parts.path else path
    if target not in pages:
        return "" if (folder / target).is_file() else "leads to no file"
    anchor = unquote(parts.fragment)
    if anchor and anchor not in pages[target].anchors:
        return "leads to no anchor"
    return ""
