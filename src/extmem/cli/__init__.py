"""The command line: `extmem devices`, `list`, `doctor`, `rules`, `explain` and `demo`.

Exit codes: 0 it worked, 1 it did not, 2 the command was wrong. Answers go to stdout, everything
else to stderr.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer

from extmem.errors import ExtmemError

__all__ = ["app", "main"]

app = typer.Typer(
    name="extmem",
    help="GPU memory shared by its operating-system handle, without a copy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Driver = Annotated[
    str,
    typer.Option(
        "--driver",
        help="auto, embedded, system, or the path of a driver's library or manifest.",
        show_default=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def version(show: bool) -> None:
    if show:
        from extmem import __version__

        typer.echo(f"extmem {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is chosen.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """GPU memory shared by its operating-system handle, without a copy."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="extmem: %(message)s",
    )


@app.command("devices")
def devices_command(driver: Driver = "all", as_json: Json = False) -> None:
    """List every device of every driver found, and what each can share."""
    from extmem.cli.devices import collect, show

    found = collect(driver)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found)


@app.command("list")
def list_command(
    most: Annotated[
        int, typer.Option(help="How many to show for people, the newest of them.", min=1)
    ] = 200,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list on stdout, of all objects.")
    ] = False,
) -> None:
    """List what this user's programs share by Windows handles, and who holds it.

    With --json each object has: identity, kind, name, kmt, size, age, owner, holders, more_holders,
    lender, passport, handle_type, allocation_size, memory_type, device_name, device_uuid, exporter.
    Sizes are bytes, age is seconds; owner and each of holders have process_id, user_id, program and
    handles; exporter has process_id and program. What is not known is null.

    Nothing is started for this: where no program uses such handles, nothing is shared.
    """
    from extmem.cli.listing import collect, show

    found = collect()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found, most)


@app.command("doctor")
def doctor_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list on stdout, of all findings.")
    ] = False,
) -> None:
    """Look at all that sharing needs on this machine, and say what to do where something is amiss.

    With --json each finding has: check, severity (ok, note or problem), sentence, remedy (null
    where nothing is to be done), and facts, an object with what was measured.

    Nothing is changed or started. The exit code is 0 whatever was found.
    """
    from extmem.cli.doctor import collect, show

    found = collect()
    if as_json:
        typer.echo(json.dumps([each.plain() for each in found], indent=2))
    else:
        show(found)


@app.command("rules")
def rules_command(
    parent: Annotated[
        str, typer.Option(help="Of this structure or command alone, as VkMemoryAllocateInfo.")
    ] = "",
    verdict: Annotated[str, typer.Option(help="checked, derived, os, device or undecidable.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list on stdout, of all rules.")
    ] = False,
) -> None:
    """List the rules of the specification that are checked, and how each is.

    With --json each rule has: vuid, parent, implicit (whether it follows from the registry),
    verdict, where (the function that checks it), reason (why it cannot be decided, or how far it
    can; mostly empty), and says, the rule in our words.
    """
    from extmem.cli.rules import collect, show

    found = collect(parent, verdict)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found)


@app.command("explain")
def explain_command(
    rule: Annotated[
        str, typer.Argument(help="VUID-..., or the end of one that no other has, as 01327.")
    ],
    as_json: Json = False,
) -> None:
    """Say what a rule of the specification wants, why, and how it is broken and kept.

    With --json the object has what `extmem rules --json` says of the rule, and extension, why,
    breaks (what happens without it), wrong and right (whole programs; empty where a rule cannot be
    broken).
    """
    from extmem.cli.rules import explain, show_explanation

    known = explain(rule)
    if as_json:
        typer.echo(json.dumps(known, indent=2))
    else:
        show_explanation(known)


@app.command("demo")
def demo_command(
    driver: Driver = "auto",
    seconds: Annotated[float, typer.Option(help="How long to hand pictures over.", min=0.1)] = 3.0,
    handle_type: Annotated[
        str, typer.Option(help="The handle to share by; by default what the device has.")
    ] = "auto",
    picture: Annotated[
        str, typer.Option(help="Where the received picture goes; by default a temporary file.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Two processes, one picture in shared memory, no copy: published here, checked there."""
    from extmem.cli.demo import run, show

    result: dict[str, Any] = run(driver, seconds, handle_type, picture or None)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        show(result)
    if result["frames_wrong"] or not result["frames"]:
        raise typer.Exit(1)


def main() -> None:
    """The entry point: errors of ours are one sentence, not a traceback."""
    try:
        app()
    except (ExtmemError, OSError) as error:
        said = str(error)  # a text: a name for the error would keep what its frames hold
        if isinstance(error, OSError) and error.filename is None and error.strerror:
            said = error.strerror  # a sentence already, without its number
        print(f"extmem: {said}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("extmem: interrupted", file=sys.stderr)
        sys.exit(130)
