"""A Sphinx extension: each rule's section has the rule's name as its anchor, as it is spelled.

Sphinx makes anchors of small letters; a link that is built from a message's `[VUID-...]` has to
work as it stands.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes

__all__ = ["setup"]


def _spell(_app: Any, document: nodes.document) -> None:
    for section in document.findall(nodes.section):
        title = section[0].astext()
        if title.startswith("VUID-") and title not in section["ids"]:
            section["ids"].insert(0, title)


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", _spell)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
