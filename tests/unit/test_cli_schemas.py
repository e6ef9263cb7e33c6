"""What `--json` prints is what its schema says, of every command, and nothing that it does not."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import extmem
from extmem.cli import schemas

ROOT = Path(__file__).resolve().parents[2]

ANSWERS = {
    "devices": [("--driver", "all"), ("--driver", "embedded")],
    "matrix": [("--driver", "all"), ("--type", "dma_buf", "--tiling", "drm", "--usage", "sampled")],
    "doctor": [()],
    "explain": [("01714",), ("VkMemoryAllocateInfo-sType-sType",)],
    "list": [()],
    "rules": [(), ("--parent", "VkExportMemoryAllocateInfo")],
}


def closed(schema: Any) -> Any:
    """The schema with no room for keys that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict):
        found["additionalProperties"] = False
    return found


def validate(command: str, answer: Any) -> None:
    """Every key that is required is there, and every key that is there is documented."""
    schema = schemas.read(command)
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    validator(schema).validate(answer)
    validator(closed(schema)).validate(answer)


def answer(command: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "extmem", command, *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(command, each) for command, several in ANSWERS.items() for each in several],
)
def test_an_answer_is_as_its_schema_says(command: str, arguments: tuple[str, ...]) -> None:
    found = answer(command, *arguments)
    assert found or command == "list"  # nothing need be shared
    validate(command, found)
    if isinstance(found, dict):
        assert found["schema"] == schemas.schema_of(command)


def test_the_demo_too(tmp_path: Path) -> None:
    picture = str(tmp_path / "x.png")
    found = answer("demo", "--driver", "embedded", "--seconds", "0.2", "--picture", picture)
    validate("demo", found)


@pytest.mark.skipif(sys.platform == "win32", reason="hardware: Windows lists nothing")
def test_a_list_of_something_too() -> None:
    with (
        extmem.open_device(driver="embedded") as gpu,
        gpu.allocate(4096, export="opaque_win32", name=rf"Local\schema-{os.getpid()}") as memory,
        memory.export("opaque_win32"),
    ):
        found = answer("list")
    assert found
    validate("list", found)


@pytest.mark.parametrize("command", schemas.names())
def test_each_says_what_it_is(command: str) -> None:
    schema = schemas.read(command)
    assert schema["$id"] == f"urn:extmem:schema:{command}:1"
    assert schema["title"].startswith(f"extmem {command} --json: ")
    done = subprocess.run(
        [sys.executable, "-m", "extmem", "schema", command], capture_output=True, text=True
    )
    assert json.loads(done.stdout) == schema


def test_the_command_lists_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extmem", "schema"], capture_output=True, text=True
    )
    assert done.stdout.split() == schemas.names()


def test_every_command_that_speaks_json_has_a_schema() -> None:
    from typer.main import get_command

    from extmem.cli import app

    group: Any = get_command(app)
    speaking = {
        name
        for name, command in group.commands.items()
        if any("--json" in each.opts for each in command.params)
    }
    assert speaking == set(schemas.names())


def test_an_answer_that_lacks_a_key_or_has_another_is_noticed() -> None:
    found = answer("explain", "01714")
    for wrong in (
        {key: value for key, value in found.items() if key != "why"},
        {**found, "verdict": "perhaps"},
        {**copy.deepcopy(found), "undocumented": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate("explain", wrong)
    # But who reads an answer of a later version takes what was added to it.
    jsonschema.Draft202012Validator(schemas.read("explain")).validate({**found, "added": 1})
