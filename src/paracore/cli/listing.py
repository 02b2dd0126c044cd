"""``paracore list`` and ``paracore show``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from paracore.cli.catalogue import details, entries, find, kinds_of, summary
from paracore.cli.output import console
from paracore.plugins import registry

__all__ = ["list_", "show"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="sampler, model, evaluator, scheme, or a kind of strategy; plurals too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List everything that has a name, where it came from, and the plugins that could not be used."""
    found = entries(kinds_of(kind))
    clashes = {f"{k} {n}": owners for (k, n), owners in registry.conflicts.items()}
    if as_json:
        keep = ("name", "kind", "plugin", "distribution", "version", "summary")
        data: dict[str, Any] = {
            "entries": [{key: details(e)[key] for key in keep} for e in found],
            "conflicts": {what: [o.plugin for o in owners] for what, owners in clashes.items()},
            "broken": [
                {"plugin": b.plugin, "distribution": b.distribution, "version": b.version, "cause": b.cause}
                for b in registry.broken
            ],
        }
        typer.echo(json.dumps(data, indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in ("kind", "name", "plugin", "distribution", "version"):
        table.add_column(head, no_wrap=True)
    table.add_column("what it is")
    for e in found:
        cells = (e.kind, e.name, e.plugin, e.distribution, e.version, summary(e))
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table)
    for what, owners in clashes.items():
        typer.echo(f"conflict: {what} is registered by {' and '.join(o.origin for o in owners)}; it cannot be used")
    for b in registry.broken:
        typer.echo(f"broken: {b.origin}: {' '.join(b.cause.split())}")


def show(
    name: Annotated[str, typer.Argument(help="A name that paracore list shows.")],
    kind: Annotated[str | None, typer.Option("--kind", help="If several kinds have the name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show options with types and defaults, documentation and reference of everything of that name."""
    found = [details(entry) for entry in find(name, kinds_of(kind))]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for number, item in enumerate(found):
        if number:
            typer.echo("")
        typer.echo(
            f"{item['name']}: {item['kind']} of plugin {item['plugin']}, {item['distribution']} {item['version']}"
        )
        if item["documentation"]:
            typer.echo("\n" + "\n".join(f"  {line}".rstrip() for line in item["documentation"].splitlines()))
        typer.echo("\nOptions:" if item["options"] else "\nNo options.")
        for option in item["options"]:
            value = "required" if option["required"] else f"default {option['default']!r}"
            typer.echo(f"  {option['name']}: {option['type']}, {value}")
        if item["reference"]:
            typer.echo(f"\nReference: {item['reference']}")
