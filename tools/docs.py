"""Build the documentation, strictly: .venv/bin/python tools/docs.py

The pages come to .docs/html, which opens from the folder or from any server. A warning, a link
that leads nowhere, or a public name without a page is an error.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import docs_links
import docs_names
import docs_rules
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "docs"
BUILD = ROOT / ".docs"

# What the tests are told of the programs on a page is nothing for its readers.
_FOR_TESTS = re.compile(r"^[ ]*<!-- (?:program|needs|not run)\b.*?-->\n", re.DOTALL | re.MULTILINE)


def copy_pages() -> Path:
    """The pages that Sphinx reads: the written ones with their rules filled in, and the rules."""
    copy = BUILD / "source"
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(SOURCE, copy)
    explained: dict[str, str] = {}
    for page in sorted(copy.rglob("*.md")):
        path = page.relative_to(copy)
        text = page.read_text(encoding="utf-8")
        for parent in re.findall(r"<!-- rules: (\w+) -->", text):
            explained.setdefault(parent, f"../{path.as_posix()}#{parent.lower()}")
        text = _FOR_TESTS.sub("", text)
        text = docs_rules.filled(text, "../" * (len(path.parts) - 1))
        page.write_text(text, encoding="utf-8")
    docs_rules.write(copy / "rules", explained)
    return copy


def main() -> int:
    source, html = copy_pages(), BUILD / "html"
    options = ["--fail-on-warning", "--keep-going", "--quiet", "-j", "2", "-b", "html"]
    if status := sphinx([*options, "-d", str(BUILD / "doctrees"), str(source), str(html)]):
        return int(status)
    external: dict[str, int] = {}
    wrong = [*docs_links.problems(html, external), *docs_names.problems(html)]
    for each in wrong:
        print(each, file=sys.stderr)
    pages = len(list(html.rglob("*.html")))
    print(f"{pages} pages in {html}, {len(external)} addresses outside, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
