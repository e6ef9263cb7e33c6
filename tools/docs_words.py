"""A Sphinx extension: docstrings as they are written here, made what Sphinx reads.

A paragraph of ours that begins with the name of a parameter and a colon says what that parameter
is; words between single backticks are code; indented lines are a program. Attributes are
documented by the comment beside them, and joined to the docstring of their class.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from docs_attributes import INTERNAL, NOTES

__all__ = ["as_rst", "attributes", "setup"]

_PARAMETERS = re.compile(r"(?P<names>[a-z_]+(?:, [a-z_]+)*): (?P<text>.*)", re.DOTALL)
_CODE = re.compile(r"(`[^`]+`)")


def _prose(text: str) -> str:
    """Words of a paragraph: code marked, and nothing else taken for a mark."""
    parts = _CODE.split(text)
    return "".join(
        f"``{' '.join(part[1:-1].split())}``"
        if part.startswith("`") and len(part) > 2
        else _escaped(part)
        for part in parts
    )


def _escaped(text: str) -> str:
    return re.sub(r"([\\*|]|_(?=\W|$))", r"\\\1", text)


def _paragraphs(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []


def _items(block: list[str]) -> list[str] | None:
    """The parameters of a paragraph that says what each is; None where it is another one."""
    found: list[str] = []
    for line in block:
        if not line.startswith(" "):
            if not _PARAMETERS.match(line):
                return None
            found.append(line)
        elif found:
            found[-1] += " " + line.strip()
        else:
            return None
    return found


def as_rst(text: str) -> list[str]:
    """A docstring, cleaned of its indent, as lines of reStructuredText.

    >>> as_rst("Copy `size` bytes.\\n\\nsize: bytes;\\n    all by default")
    ['Copy ``size`` bytes.', '', '* **size**: bytes; all by default', '']
    """
    lines: list[str] = []
    for block in _paragraphs(text):
        if block[0].lstrip().startswith(">>>"):
            lines += textwrap.dedent("\n".join(block)).splitlines()
        elif all(line.startswith(" ") for line in block):
            lines += [".. code-block:: python", "", *block]
        elif items := _items(block):
            for item in items:
                names, _, rest = item.partition(": ")
                lines.append(f"* **{names}**: {_prose(rest)}")
        else:
            lines += _prose("\n".join(line.strip() for line in block)).splitlines()
        lines.append("")
    return lines


def _commented(lines: list[str], statement: ast.stmt) -> str:
    """The comment beside a statement, or on the lines before it."""
    line = lines[(statement.end_lineno or statement.lineno) - 1]
    beside = line[statement.end_col_offset or 0 :].strip()
    if beside.startswith("#"):
        return beside[1:].strip()
    before: list[str] = []
    for above in reversed(lines[: statement.lineno - 1]):
        if not above.strip().startswith("# ") or "--" in above:
            break
        before.insert(0, above.strip()[2:])
    return " ".join(before)


def attributes(cls: type) -> dict[str, str]:
    """The public attributes of a class that are no properties, each with its comment.

    >>> from extmem.errors import Problem
    >>> sorted(attributes(Problem))
    ['member', 'problem', 'remedy', 'value', 'vuid']
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("extmem"):
            continue
        text = textwrap.dedent(inspect.getsource(base))
        lines = text.splitlines()
        [tree] = ast.parse(text).body
        assert isinstance(tree, ast.ClassDef)
        for statement in tree.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found[statement.target.id] = _commented(lines, statement)
            elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                found |= _assigned(lines, statement)
    for base in reversed(cls.__mro__):
        found |= {
            name: text for name, text in NOTES.get(base.__name__, {}).items() if name in found
        }
    return {
        name: text
        for name, text in found.items()
        if not name.startswith("_")
        and name not in INTERNAL
        and not isinstance(inspect.getattr_static(cls, name, None), property)
    }


def _assigned(lines: list[str], function: ast.FunctionDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for statement in ast.walk(function):
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if (
                    isinstance(each, ast.Attribute)
                    and isinstance(each.value, ast.Name)
                    and each.value.id == "self"
                ):
                    text = _commented(lines, statement)
                    found[each.attr] = found.get(each.attr) or text
    return found


def _process(_app: Any, what: str, _name: str, thing: Any, _options: Any, lines: list[str]) -> None:
    new = as_rst("\n".join(lines))
    if what in ("class", "exception"):
        said = {name: text for name, text in attributes(thing).items() if text}
        if said:
            new += ["Attributes:", ""]
            new += [f"* **{name}**: {_prose(text)}" for name, text in said.items()]
            new.append("")
    lines[:] = new


def _skip(_app: Any, _what: str, name: str, thing: Any, skip: bool, _options: Any) -> bool | None:
    # Attributes in slots are listed with their class; so are the fields of named tuples.
    if inspect.ismemberdescriptor(thing) or type(thing).__name__ == "_tuplegetter":
        return True
    return None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
