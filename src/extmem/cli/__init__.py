"""The command line: `extmem devices`, `matrix`, `list`, `doctor`, `rules`, `explain`, `demo` and
`schema`.

`exits` has the exit codes. Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer

from extmem.cli.exits import EPILOG, Commands, run

__all__ = ["app", "main"]

app = typer.Typer(
    name="extmem",
    cls=Commands,
    epilog=EPILOG,
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


@app.command("matrix")
def matrix_command(
    driver: Driver = "all",
    handle_type: Annotated[
        list[str] | None, typer.Option("--type", help="Of this handle type alone; several times.")
    ] = None,
    image_format: Annotated[
        str, typer.Option("--format", help="Of the image that is asked about, as rgba8 or nv12.")
    ] = "rgba8",
    tiling: Annotated[
        str, typer.Option(help="Of that image: optimal, linear, or drm (any modifier).")
    ] = "optimal",
    usage: Annotated[
        list[str] | None,
        typer.Option(help="Of that image; several times.  [default: transfer_src, transfer_dst]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what each device shares: every handle type, for buffers, images, semaphores and fences.

    Whether it is exported, imported, and only as a dedicated allocation; and by whom: native (the
    driver itself), bridged (by other handles of the driver), or emulated (handles or resources that
    this system does not have). `semaphore` is for binary ones, `timeline` for the others.
    """
    from extmem.cli.matrix import collect, show

    found = collect(driver, handle_type, image_format, tiling, usage)
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

    checked: from the arguments and what was done before. derived: from the registry, which says it
    by itself. os, device: by asking the operating system, or the driver. undecidable: not checked;
    that are six of all, and each says why.
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


@app.command("view")
def view_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Streams to wait for; with --png, the one stream or object to show.",
        ),
    ] = None,
    png: Annotated[str, typer.Option(help="Write one picture to this file, and end.")] = "",
    port: Annotated[
        int, typer.Option(help="Of the page; 0 for one that is free.", min=0, max=65535)
    ] = 0,
    seconds: Annotated[
        float | None, typer.Option(help="How long to serve; by default until Ctrl-C.", min=0.1)
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout: what there is, once.")
    ] = False,
) -> None:
    """Show what is shared, live, on a page of this machine's own; or one picture, without a page.

    The page is served on loopback alone, to whoever has the address that is printed. It changes
    nothing, and publishers do not wait for it. It needs: pip install 'extmem\\[view]'. --png and
    --json do without.
    """
    from extmem.cli import view

    wanted = tuple(names or ())
    if png:
        if len(wanted) != 1:
            raise typer.BadParameter("--png takes the name of one stream or object")
        made = view.picture(wanted[0], png)
        if as_json:
            typer.echo(json.dumps(made, indent=2))
        else:
            view.show(made)
    elif as_json:
        found = view.survey(wanted)
        typer.echo(json.dumps(found, indent=2))
        view.require(found, wanted)
    else:
        view.serve(wanted, port, seconds, browser)


@app.command("schema")
def schema_command(
    command: Annotated[
        str, typer.Argument(help="Whose; without one, the commands that have a schema.")
    ] = "",
) -> None:
    """Print the JSON Schema (2020-12) of what a command prints with --json.

    Keys may be added to an object, and none is taken away or gets another meaning, until the number
    at the end of the schema's $id changes. Answers that are objects carry the $id as `schema`.
    """
    from extmem.cli.schemas import names, read

    if not command:
        for each in names():
            typer.echo(each)
        return
    if command not in names():
        raise typer.BadParameter(f"{command} has no schema; these have: {', '.join(names())}")
    typer.echo(json.dumps(read(command), indent=2))


@app.command("bench")
def bench_command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="handover, directory, waiting, streams, subscribers, quarantine, objects, names; "
            "all of them by default."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(help="Of everything; by default each has a number of its own.", min=1),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Half a minute: whether all works, and no figures to quote.")
    ] = False,
    driver: Annotated[
        str, typer.Option(help="Whose hand-overs: system, or the path of a library or manifest.")
    ] = "system",
    out: Annotated[
        str,
        typer.Option(
            help="The folder for bench.json and the plots; by default extmem-bench, and with "
            "--json none."
        ),
    ] = "",
    result: Annotated[
        str, typer.Option("--from", help="Measure nothing; show and draw this earlier bench.json.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Measure what things cost, beside what others take for the same, and draw it (SVG).

    All of it takes some minutes and wants the machine for itself; `chrt -f 1 extmem bench` keeps
    other programs away. Everybody takes turns in rounds. p50 and p95 are medians of the rounds'
    own; lowest and highest are rounds' medians; ratios are medians of the rounds' own ratios.

    A peer that is not installed is named as missing. The exit code is 1 if a part failed.
    """
    from extmem.bench.parts import unknown
    from extmem.cli.bench import collect, earlier, keep, show

    if wrong := unknown(what or []):
        raise typer.BadParameter(wrong)
    command = ["extmem", *sys.argv[1:]]
    report = earlier(result) if result else collect(what or [], rounds, quick, driver, command)
    folder = out or ("" if as_json else "extmem-bench")
    made = keep(report, folder) if folder else []
    if as_json:
        from extmem.bench.report import encode

        typer.echo(encode(report))
    else:
        show(report)
        typer.echo(f"\nbench.json and {len(made) - 1} plots are in {folder}")
    if report.failed:
        raise typer.Exit(1)


def main() -> None:
    """The entry point. Errors are one sentence, not a traceback."""
    run(app)
