"""From a plugin's module to what it registers: all of its names, or an error that says what is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import pluggy

from paracore.distributions import own_version
from paracore.errors import PluginError
from paracore.plugins.conformance import Conformance
from paracore.plugins.entry import Entry, Plugin
from paracore.plugins.hookspecs import API, HOOKS, RENAMED_HOOKS, HookSpecs

__all__ = ["ask", "collect", "is_kebab", "open_plugin"]

_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


_RETURNED = {
    **dict.fromkeys(HOOKS.values(), "names and factories"),
    "paracore_citations": "registered names and BibTeX strings",
    "paracore_conformance": "registered names and paracore.Conformance",
    "paracore_commands": "names and typer.Typer",
}


def is_kebab(name: object) -> bool:
    """Whether it is a name like ``gain-ratio``."""
    return isinstance(name, str) and bool(_KEBAB.fullmatch(name))


class _Manager(pluggy.PluginManager):
    """Asks hooks under their current names, and notices hooks that lack their mark."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None:
            if hasattr(HookSpecs, name) and name.startswith("paracore_") and callable(getattr(plugin, name)):
                raise PluginError(f"{name} lacks its mark; write @paracore.hookimpl above it")
            return None
        old = options.get("specname") or name
        if old in RENAMED_HOOKS:
            new = RENAMED_HOOKS[old].new
            if hasattr(plugin, new):  # it serves two minor versions
                return None
            RENAMED_HOOKS[old].warn("the hook")
            return {**options, "specname": new}  # a copy: the function keeps its own
        return options


def open_plugin(plugin: Plugin, module: object) -> tuple[Plugin, pluggy.PluginManager]:
    """The plugin with the version of the hooks that it was made for, and what asks its hooks.

    Raises:
        PluginError: for a plugin that was made for another version, misspelt hooks, or hooks without their mark.
    """
    plugin = attrs.evolve(plugin, api=_api(plugin, getattr(module, "paracore_api", 1)))
    manager = _Manager("paracore")
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name=plugin.plugin)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = [name for name in vars(HookSpecs) if name.startswith("paracore_")]
        wrong = re.search(r"unknown hook '(\w+)'", str(error))
        near = difflib.get_close_matches(wrong[1] if wrong else "", known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PluginError(f"{error}; {hint}the hooks are {', '.join(known)}") from error
    return plugin, manager


def _api(plugin: Plugin, asked: object) -> int:
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise PluginError(f"paracore_api is {asked!r}; the version of the hooks is needed, like paracore_api = {API}")
    if asked != API:
        name = plugin.distribution
        remedy = (
            f"upgrade paracore, or install a release of {name} that was made for version {API}"
            if asked > API
            else f"upgrade {name}, or install a release of paracore that has version {asked}"
        )
        raise PluginError(
            f"{name} {plugin.version} was made for version {asked} of paracore's hooks; paracore {own_version()} has "
            f"version {API}: {remedy}"
        )
    return asked


def collect(plugin: Plugin, module: object) -> Plugin:
    """The plugin with all of its entries.

    Raises:
        PluginError: for what :func:`open_plugin` refuses, a hook that raises or returns something else, and citations
            or examples of names that the plugin does not register.
    """
    plugin, manager = open_plugin(plugin, module)
    found = [entry for kind, hook in HOOKS.items() for entry in _entries(kind, hook, plugin, manager)]
    names = {e.name for e in found}
    cited = _about("paracore_citations", manager, str, names)
    names |= {f"{e.kind}:{e.name}" for e in found}
    told = _about("paracore_conformance", manager, Conformance, names)
    found = [
        attrs.evolve(
            e,
            citation=cited.get(e.name, ""),
            conformance=told.get(f"{e.kind}:{e.name}", told.get(e.name, e.conformance)),
        )
        for e in found
    ]
    return attrs.evolve(plugin, entries=tuple(found))


def ask(hook: str, manager: pluggy.PluginManager) -> list[tuple[Any, Any]]:
    """What a plugin's hook returns, as pairs.

    Raises:
        PluginError: if it raises, or returns no mapping.
    """
    try:  # pluggy's own call drops None: a forgotten return
        answers = [one.function() for one in getattr(manager.hook, hook).get_hookimpls()]
    except (Exception, SystemExit) as error:
        raise PluginError(f"{hook} raised {type(error).__name__}: {error}") from error
    for answer in answers:
        if not isinstance(answer, Mapping):
            raise PluginError(f"{hook} returned {type(answer).__name__}; a dict of {_RETURNED[hook]} is needed")
    return [pair for answer in answers for pair in answer.items()]


def _entries(kind: str, hook: str, plugin: Plugin, manager: pluggy.PluginManager) -> Iterable[Entry]:
    for name, factory in ask(hook, manager):
        if not is_kebab(name):
            raise PluginError(f"{hook} registers the name {name!r}; names are kebab-case, like 'gain-ratio'")
        if not callable(factory):
            raise PluginError(f"{hook} registers {name!r} as {type(factory).__name__}; a class or function is needed")
        yield Entry(kind, name, factory, plugin.plugin, plugin.distribution, plugin.version)


def _about(hook: str, manager: pluggy.PluginManager, needed: type, known: set[str]) -> dict[str, Any]:
    """What a hook says of names that the plugin registers."""
    told = dict(ask(hook, manager))
    for name, value in told.items():
        if name not in known:
            raise PluginError(f"{hook} names {name!r}, which the plugin does not register")
        if not isinstance(value, needed):
            raise PluginError(f"{hook} has {type(value).__name__} for {name!r}; a dict of {_RETURNED[hook]} is needed")
    return told
