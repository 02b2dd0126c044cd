"""``paracore cite``."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import typing
from typing import Annotated, Any

import attrs
import typer

from paracore.cli.catalogue import entries, find, kinds_of
from paracore.compose import sampler
from paracore.composition import KINDS
from paracore.distributions import own_version
from paracore.engine import Engine
from paracore.errors import PluginError
from paracore.plugins import Entry
from paracore.plugins.calls import options_of, parse_call
from paracore.strategies import Strategy

__all__ = ["cite"]

_HEAD = re.compile(r"@\s*(\w+)\s*\{\s*([^\s,{}]+)\s*,")
_SUMMARY = "parallel-in-time sampling of diffusion models"


@attrs.frozen
class Reference:
    """One BibTeX entry.

    Attributes:
        key: what papers cite it by.
        kind: ``article``, ``inproceedings``, ...
        bibtex: the whole entry.
    """

    key: str
    kind: str
    bibtex: str


def cite(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Samplers, parts, models: names or calls like 'picard(guess=hold)'."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print BibTeX of what was used: the methods, the parts they are made of, and paracore."""
    found: dict[str, Reference] = {}
    used_by: dict[str, list[str]] = {}
    remarks: dict[str, str] = {}
    for call in dict.fromkeys(names):
        name, options = parse_call(call)
        own = find(name, kinds_of(None))
        if not any(entry.citation for entry in own):
            remarks[name] = "no publication"
        for entry in [*own, *_made_of(call, own, options, remarks)]:
            for reference in references(entry):
                found.setdefault(reference.key, reference)
                users = used_by.setdefault(reference.key, [])
                users += [entry.name] * (entry.name not in users)
    found.pop("paracore", None)
    found["paracore"] = own_reference()
    used_by["paracore"] = ["paracore"]
    if as_json:
        data: dict[str, Any] = {
            "references": [{**attrs.asdict(r), "for": used_by[key]} for key, r in found.items()],
            "remarks": remarks,
        }
        typer.echo(json.dumps(data, indent=2))
        return
    lines = [f"% {name}: {remark}" for name, remark in remarks.items()]
    typer.echo("\n\n".join([*(["\n".join(lines)] if lines else []), *(r.bibtex for r in found.values())]))


def references(entry: Entry) -> list[Reference]:
    """The BibTeX entries of a registered name, one by one.

    Raises:
        PluginError: if they cannot be told apart.
    """
    text, found = entry.citation, []
    at = text.find("@")
    while at >= 0:
        head = _HEAD.match(text, at)
        end = _closing(text, text.find("{", at))
        if head is None or end is None:
            shown = text[at : at + 40].splitlines()[0]
            raise PluginError(
                f"plugin {entry.plugin!r} cites {entry.kind} {entry.name!r} with {shown!r}, which is no BibTeX entry: "
                "write @article{key, title = {...}, ...}"
            )
        found.append(Reference(head.group(2), head.group(1).lower(), text[at:end].strip()))
        at = text.find("@", end)
    return found


def own_reference() -> Reference:
    """paracore itself, as the installed distribution describes it."""
    try:
        data: Any = importlib.metadata.metadata("paracore")
        summary, author = data.get("Summary") or _SUMMARY, data.get("Author") or "The paracore authors"
    except importlib.metadata.PackageNotFoundError:
        summary, author = _SUMMARY, "The paracore authors"
    fields = {
        "title": "{paracore}: " + summary[0].lower() + summary[1:],
        "author": f"{{{author}}}",
        "version": own_version(),
        "license": "Apache-2.0",
    }
    lines = [f"  {name:7} = {{{value}}}," for name, value in fields.items()]
    return Reference("paracore", "software", "\n".join(["@software{paracore,", *lines, "}"]))


def _made_of(call: str, own: list[Entry], options: dict[str, Any], remarks: dict[str, str]) -> list[Entry]:
    """Entries of the parts that a sampler is composed of; none for one that is no composition.

    Raises:
        ConfigurationError: for options that the sampler refuses.
    """
    preset = next((entry for entry in own if entry.kind == "sampler"), None)
    if preset is None:
        if options and not set(options) <= set().union(*(options_of(entry.factory) for entry in own)):
            own[0].make(**options)  # says which option is wrong
        return []
    needed = [n for n, (_, default) in options_of(preset.factory).items() if default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in options]
    if missing and not options:
        remarks[preset.name] = f"its parts are not cited, since they depend on the option {missing[0]!r}: give it"
        return []
    made = sampler(call)
    if not isinstance(made, Engine):
        return []
    there = entries(tuple(KINDS))
    return [e for kind, part in made.composition.parts.items() for e in _registered(kind, part, there)]


def _registered(kind: str, part: Strategy, there: list[Entry]) -> list[Entry]:
    """The names that build this part: its class, or functions that say they return it."""
    same = [entry for entry in there if entry.kind == kind]
    return [e for e in same if e.factory is type(part)] or [e for e in same if _returns(e) is type(part)]


def _returns(entry: Entry) -> object:
    factory = getattr(entry.factory, "__func__", entry.factory)
    try:
        return None if inspect.isclass(factory) else typing.get_type_hints(factory).get("return")
    except Exception:  # annotations that only a type checker can read
        return None


def _closing(text: str, start: int) -> int | None:
    """The end of the brace that opens at ``start``."""
    depth = 0
    for place in range(max(start, 0), len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place + 1 if start >= 0 else None
    return None
