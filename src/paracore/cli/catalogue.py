"""Everything that has a name: what is registered, and the scheme builders."""

from __future__ import annotations

import inspect
import re
from typing import Any

from paracore import schemes
from paracore.composition import KINDS
from paracore.distributions import OWN, own_version
from paracore.errors import ConfigurationError, UnknownNameError, suggest
from paracore.plugins import HOOKS, Entry, registry
from paracore.plugins.calls import options_of, parse_call
from paracore.schemes import Scheme

__all__ = ["details", "entries", "find", "kinds_of", "make_scheme", "summary"]

_PLURALS = {
    **{f"{kind}s": (kind,) for kind in [*HOOKS, "scheme"]},
    "stopping-rules": ("stopping",),
    "stopping-rule": ("stopping",),
    "strategies": tuple(KINDS),
    "strategy": tuple(KINDS),
}


def kinds_of(word: str | None) -> tuple[str, ...]:
    """The kinds that a word means: a kind, its plural, ``strategies``, or ``None`` for all.

    Raises:
        UnknownNameError: with near matches.
    """
    known = [*HOOKS, "scheme"]
    if word is None:
        return tuple(known)
    if word in known:
        return (word,)
    if word in _PLURALS:
        return _PLURALS[word]
    raise UnknownNameError(f"unknown kind {word!r}; {suggest(word, [*known, 'strategies'])}")


def scheme_entries() -> list[Entry]:
    """The builders of ``paracore.schemes``, under kebab-case names."""
    found = []
    for name in schemes.__all__:
        builder = getattr(schemes, name)
        if inspect.isfunction(builder) and next(iter(inspect.signature(builder).parameters), "") == "steps":
            found.append(Entry("scheme", name.replace("_", "-"), builder, "paracore", OWN, own_version()))
    return sorted(found, key=lambda entry: entry.name)


def entries(kinds: tuple[str, ...]) -> list[Entry]:
    """All names of some kinds."""
    return [e for kind in kinds for e in (scheme_entries() if kind == "scheme" else registry.entries(kind))]


def find(name: str, kinds: tuple[str, ...]) -> list[Entry]:
    """All things of that name.

    Raises:
        UnknownNameError: with near matches.
        PluginError: if two plugins registered it.
    """
    there = entries(kinds)
    found = [entry for entry in there if entry.name == name]
    if not found:
        what = kinds[0] if len(kinds) == 1 else "name"
        raise UnknownNameError(f"unknown {what} {name!r}; {suggest(name, {e.name for e in there})}{registry.remark()}")
    return [e if e.kind == "scheme" else registry.find(e.kind, e.name) for e in found]


def make_scheme(call: str, steps: int) -> Scheme:
    """A scheme from a string like ``"flow-euler(shift=3)"``.

    Raises:
        UnknownNameError, ConfigurationError.
    """
    name, options = parse_call(call)
    if "steps" in options:
        raise ConfigurationError("steps are given with --steps, not as an option of the scheme")
    made: Scheme = find(name.replace("_", "-"), ("scheme",))[0].make(steps, **options)
    return made


def summary(entry: Entry) -> str:
    """The first sentence of its docstring, without markup."""
    first = " ".join(_document(entry).split("\n\n")[0].split())
    first = re.sub(r":\w+:`~?([^`]*)`", r"\1", first).replace("``", "")
    sentence = re.match(r".*?(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\bEq)[.!?](?=\s|$)", first)
    return sentence.group(0) if sentence else first


def details(entry: Entry) -> dict[str, Any]:
    """Everything about it, ready for JSON."""
    factory = entry.factory
    owner = getattr(factory, "__self__", None)
    reference = getattr(factory, "reference", "") or getattr(owner, "reference", "")
    if not reference:
        cited = re.search(r"^References?:\s*(.+?)(?=\n\s*\n|\Z)", _document(entry), re.DOTALL | re.MULTILINE)
        reference = " ".join(cited.group(1).split()) if cited else ""
    return {
        "name": entry.name,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": summary(entry),
        "options": [
            {
                "name": name,
                "type": _type_name(annotation),
                "required": default is inspect.Parameter.empty,
                "default": None if default is inspect.Parameter.empty else _plain(default),
            }
            for name, (annotation, default) in options_of(factory).items()
            if not (entry.kind == "evaluator" and name == "denoiser")
        ],
        "reference": reference,
        "documentation": _document(entry),
    }


def _document(entry: Entry) -> str:
    return inspect.getdoc(entry.factory) or ""


def _type_name(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any"
    if isinstance(annotation, type):
        return annotation.__name__
    return re.sub(r"\b(typing|collections\.abc|numpy|torch)\.", "", str(annotation))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
