"""The tools that look at the documentation find what is wrong."""

from __future__ import annotations

from pathlib import Path

import docs_links
import docs_rules
import docs_words
import pytest

from extmem.errors import Problem, ViewsAlive
from extmem.rules import catalogue
from tests.support import pages


def site(folder: Path, body: str) -> list[str]:
    (folder / "other.html").write_text('<p id="here">x</p>')
    (folder / "page.html").write_text(body)
    return docs_links.problems(folder)


@pytest.mark.parametrize(
    "body",
    [
        '<a href="other.html#here">x</a><a href="#top" id="top">y</a>',
        '<img src="other.html"><a href="https://www.khronos.org/vulkan/">z</a>',
    ],
)
def test_good_links_are_no_problems(body: str, tmp_path: Path) -> None:
    assert site(tmp_path, body) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="missing.html">x</a>', "leads to no file"),
        ('<a href="other.html#there">x</a>', "leads to no anchor"),
        ('<a href="#nowhere">x</a>', "leads to no anchor"),
        ('<img src="missing.svg">', "leads to no file"),
        ('<a href="/other.html">x</a>', "begins at the root"),
        ('<script src="https://cdn.example.org/x.js"></script>', "is loaded from elsewhere"),
        ('<a href="http://example.org">x</a>', "is no https address"),
    ],
)
def test_bad_links_are_found(body: str, problem: str, tmp_path: Path) -> None:
    [found] = site(tmp_path, body)
    assert problem in found


def test_docstrings_become_what_sphinx_reads() -> None:
    text = "Two words: `a` and b_.\n\nsize: bytes,\n    all of them\nname, other: text\n\n>>> 1\n1"
    assert docs_words.as_rst(text) == [
        "Two words: ``a`` and b\\_.",
        "",
        "* **size**: bytes, all of them",
        "* **name, other**: text",
        "",
        ">>> 1",
        "1",
        "",
    ]
    assert docs_words.as_rst("For `async\nfor` too.") == ["For ``async for`` too.", ""]


def test_attributes_have_the_comment_beside_them_or_a_note() -> None:
    assert docs_words.attributes(Problem)["vuid"] == "the specification's name of the rule"
    assert docs_words.attributes(ViewsAlive) == {"count": "how many views are alive"}


def test_every_rule_is_on_the_page_of_its_parent(tmp_path: Path) -> None:
    assert docs_rules.write(tmp_path / "rules", {}) == len(catalogue.entries()) == 533
    for each in catalogue.entries():
        text = (tmp_path / "rules" / f"{each.parent}.md").read_text(encoding="utf-8")
        assert f"\n## {each.vuid}\n" in text


def test_a_comment_that_is_no_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("<!-- porgram: x -->\n```python\npass\n```\n")
    with pytest.raises(ValueError, match="that is no mark"):
        pages.read(path)
