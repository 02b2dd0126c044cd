"""``paracore doctor``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paracore.cli.failures import FAILED
from paracore.cli.output import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["doctor"]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what is installed, which plugins were found, and what is broken; exit code 1 if something is."""
    from paracore.cli.diagnosis import diagnose

    with redirect_stdout(sys.stderr):  # plugins may print while they are imported
        found = diagnose()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found, console())
    if not found["healthy"]:
        raise typer.Exit(FAILED)


def _print(found: dict[str, Any], out: Console) -> None:
    _section(out, "Environment", (), _environment(found))
    _section(out, "Devices", (), [(d["device"], d["trouble"] or "usable", d["what"]) for d in found["devices"]])
    rows = [
        (p["plugin"], p["distribution"], p["version"], _api(p), f"{kind}: {', '.join(names)}")
        for p in found["plugins"]
        for kind, names in (p["registers"] or {"nothing": []}).items()
    ]
    _section(out, "Plugins", ("plugin", "distribution", "version", "hooks", "registers"), _without_repeats(rows))
    left = [(p["plugin"], p["distribution"], p["version"]) for p in found["disabled"]]
    _section(out, "Left out by PARACORE_DISABLE_PLUGINS", ("plugin", "distribution", "version"), left)
    _section(out, "Extras", ("extra", "state", "what it needs"), [_extra(e) for e in found["extras"]])
    for b in found["broken"]:
        typer.echo(f"\nTraceback of plugin {b['plugin']} ({b['distribution']} {b['version']}), {b['target']}:")
        typer.echo("\n".join(f"  {line}" for line in b["traceback"].rstrip().splitlines()))
    count = len(found["problems"])
    typer.echo(f"\n{count} problem{'s' if count > 1 else ''}:" if count else "\nNothing is broken.")
    for problem in found["problems"]:
        typer.echo(f"  {' '.join(problem.split())}")


def _environment(found: dict[str, Any]) -> list[tuple[str, str]]:
    said = found["environment"]
    rows = [("paracore", f"{said['paracore']}, hooks of version {said['hooks']}"), ("python", said["python"])]
    rows += [("executable", said["executable"]), ("platform", said["platform"])]
    return rows + [(n["name"], _version(n)) for n in found["needs"]]


def _version(need: dict[str, Any]) -> str:
    if need["enough"] is False:
        return f"{need['installed'] or 'missing'}: {need['asked']} is needed"
    return str(need["installed"] or f"missing, asked for as {need['asked']}")


def _api(plugin: dict[str, Any]) -> str:
    return str(plugin["api"])


def _extra(extra: dict[str, Any]) -> tuple[str, str, str]:
    name = f"{extra['distribution']}[{extra['extra']}]"
    if extra["installed"]:
        return name, "installed", ", ".join(n["asked"] for n in extra["needs"])
    return name, "missing", f"pip install '{name}' would add {', '.join(extra['would_add'])}"


def _without_repeats(rows: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    """Plugin, distribution, version and hooks once for several lines."""
    found: list[Sequence[str]] = []
    last: Sequence[str] = ()
    for row in rows:
        found.append(("",) * 4 + tuple(row[4:]) if row[:4] == last else row)
        last = row[:4]
    return found


def _section(out: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table: Table = Table(box=None, pad_edge=False, show_header=bool(heads))
    for number in range(len(rows[0])):
        table.add_column(heads[number] if heads else "", no_wrap=number < len(rows[0]) - 1, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(Text(f"\n{title}", style="bold"))
    out.print(table)
