"""What each command prints with `--json`, as JSON Schema (2020-12): `extmem schema COMMAND`.

A schema's `$id` ends with its number. Within one number keys are added to objects and never taken
away, renamed or given another meaning; whoever reads them has to pass over keys that he does not
know. Answers that are objects carry the `$id` as `schema`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

__all__ = ["names", "read", "schema_of"]


def names() -> list[str]:
    """The commands that have one.

    >>> "devices" in names()
    True
    """
    found = (each.name for each in files(__name__).iterdir())
    return sorted(each.removesuffix(".json") for each in found if each.endswith(".json"))


def read(command: str) -> dict[str, Any]:
    """The schema of one command's output; KeyError if there is none.

    >>> read("devices")["$id"]
    'urn:extmem:schema:devices:1'
    """
    if command not in names():
        raise KeyError(command)
    text = files(__name__).joinpath(f"{command}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def schema_of(command: str) -> str:
    """What an answer says of its own form."""
    return str(read(command)["$id"])
