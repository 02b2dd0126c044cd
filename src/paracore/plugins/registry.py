"""The registry: names to factories, with where each came from."""

from __future__ import annotations

import importlib.metadata
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import pluggy

from paracore.errors import PluginError, UnknownNameError, suggest
from paracore.plugins.calls import call_factory, parse_call
from paracore.plugins.conformance import Conformance
from paracore.plugins.hookspecs import HOOKS, HookSpecs

__all__ = ["GROUP", "Broken", "Entry", "Registry", "registry"]

GROUP = "paracore"
"""The entry-point group that plugins are found under."""

IN_PROCESS = "this process"
"""The distribution of plugins added with :meth:`Registry.register`."""

_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@attrs.frozen
class Entry:
    """A registered name.

    Attributes:
        kind: one of :data:`~paracore.plugins.HOOKS`.
        name: kebab-case.
        factory: class or function; its keyword parameters are the options.
        plugin: entry-point name of the plugin that registered it.
        distribution: the installed distribution it came with.
        version: that distribution's version.
        citation: BibTeX entries of its source, empty if the plugin gives none.
        conformance: how the conformance kit builds it, and what it is known to fail.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    plugin: str
    distribution: str
    version: str
    citation: str = ""
    conformance: Conformance = attrs.field(factory=Conformance, hash=False)  # it holds dicts

    def make(self, *args: Any, **options: Any) -> Any:
        """Call the factory; wrong options raise :class:`~paracore.errors.ConfigurationError`."""
        return call_factory(f"{self.kind} {self.name!r}", self.factory, args, options)


@attrs.frozen
class Broken:
    """A plugin that could not be used, and why."""

    plugin: str
    distribution: str
    version: str
    cause: str
    details: str


class Registry:
    """Names of all kinds. Plugins are loaded at the first look-up, one by one: a broken one does not hide the others.

    ``PARACORE_DISABLE_PLUGINS`` (names separated by commas, or ``all``) leaves entry points out.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, dict[str, Entry]] | None = None
        self._broken: list[Broken] = []
        self._conflicts: dict[tuple[str, str], list[Entry]] = {}
        self._registered: dict[str, list[Entry]] = {}

    @property
    def conflicts(self) -> dict[tuple[str, str], tuple[Entry, ...]]:
        """``(kind, name)`` that more than one plugin registered: usable under none of them."""
        self._load()
        return {key: tuple(entries) for key, entries in self._conflicts.items()}

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Plugins that could not be used."""
        self._load()
        return tuple(self._broken)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All registered names, of one kind or of all, sorted."""
        table = self._load()
        kinds = [self._kind(kind)] if kind else list(HOOKS)
        return [table[k][n] for k in kinds for n in sorted(table[k])]

    def find(self, kind: str, name: str) -> Entry:
        """One entry.

        Raises:
            UnknownNameError: with near matches, and the broken plugins, if there are any.
            PluginError: if two distributions registered the name.
        """
        table = self._load()[self._kind(kind)]
        clash = self._conflicts.get((kind, name))
        if clash:
            owners = " and ".join(f"{e.plugin} ({e.distribution} {e.version})" for e in clash)
            last = clash[-1]
            remedy = (
                f"registry.unregister({last.plugin!r}) removes one"
                if last.distribution == IN_PROCESS
                else f"uninstall one, or leave it out with PARACORE_DISABLE_PLUGINS={last.plugin}"
            )
            raise PluginError(f"{kind} {name!r} is registered by {owners}; {remedy}")
        if name not in table:
            elsewhere = [k for k, names in self._load().items() if name in names]
            hint = f"{name!r} is a {' and a '.join(elsewhere)}; " if elsewhere else ""
            broken = f" (broken plugins: {', '.join(b.plugin for b in self._broken)})" if self._broken else ""
            raise UnknownNameError(f"unknown {kind} {name!r}; {hint}{suggest(name, table)}{broken}")
        return table[name]

    def make(self, kind: str, call: str) -> Any:
        """Build from a string: ``"secant"``, ``"secant(memory=2)"``.

        Raises:
            UnknownNameError, ConfigurationError, PluginError.
        """
        name, options = parse_call(call)
        return self.find(kind, name).make(**options)

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin that is not installed: a module or object with hook implementations, for this process.

        It is checked now, loads nothing else, and outlives :meth:`reset`.

        Args:
            plugin: its functions are marked with ``@paracore.hookimpl``.
            name: to tell it from others; not the name of an installed plugin.

        Raises:
            PluginError: for what it must not register, or a name that is taken.
        """
        if name == "paracore" or name in self._registered:
            raise PluginError(f"a plugin {name!r} is registered already; choose another name")
        found = _collect(name, plugin, IN_PROCESS, "unversioned")
        if not found:
            raise PluginError(f"plugin {name!r} registers nothing; mark its hooks with @paracore.hookimpl")
        self._registered[name] = found
        self.reset()

    def unregister(self, name: str) -> None:
        """Remove a plugin that :meth:`register` added.

        Raises:
            PluginError: if there is none of that name.
        """
        if name not in self._registered:
            raise PluginError(f"no plugin {name!r} was registered in this process; {suggest(name, self._registered)}")
        del self._registered[name]
        self.reset()

    def reset(self) -> None:
        """Forget what was discovered; the next look-up discovers again. Registered plugins stay."""
        self._entries, self._broken, self._conflicts = None, [], {}

    def _kind(self, kind: str) -> str:
        if kind not in HOOKS:
            raise UnknownNameError(f"unknown kind {kind!r}; {suggest(kind, HOOKS)}")
        return kind

    def _load(self) -> dict[str, dict[str, Entry]]:
        with self._lock:  # other threads wait for the whole; a plugin that looks up while it loads sees what is there
            if self._entries is None:
                self._entries = {kind: {} for kind in HOOKS}
                from paracore.plugins import builtin

                self._add(_collect("paracore", builtin, "paracore", _own_version()))
                for found in self._registered.values():
                    self._add(found)
                for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda p: p.name):
                    self._load_point(point)
            return self._entries

    def _load_point(self, point: importlib.metadata.EntryPoint) -> None:
        if point.name in _disabled() or "all" in _disabled():
            return
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "unknown"
        try:
            self._add(_collect(point.name, point.load(), distribution, version))
        except KeyboardInterrupt:
            self.reset()
            raise
        except BaseException as error:
            self._broken.append(
                Broken(point.name, distribution, version, f"{type(error).__name__}: {error}", traceback.format_exc())
            )

    def _add(self, found: Iterable[Entry]) -> None:
        assert self._entries is not None
        for entry in found:
            table = self._entries[entry.kind]
            if entry.name in table:
                self._conflicts.setdefault((entry.kind, entry.name), [table[entry.name]]).append(entry)
            else:
                table[entry.name] = entry


def _collect(plugin: str, module: object, distribution: str, version: str) -> list[Entry]:
    """All of a plugin's names, or none.

    Raises:
        PluginError: for misspelt hooks, names that are not kebab-case, or things that cannot be called.
    """
    manager = pluggy.PluginManager("paracore")
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name=plugin)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = ", ".join([*HOOKS.values(), "paracore_citations", "paracore_conformance"])
        raise PluginError(f"{error}; the hooks are {hooks}") from error
    found = [
        entry
        for kind, hook in HOOKS.items()
        for answer in getattr(manager.hook, hook)()
        for entry in _entries(kind, hook, answer, plugin, distribution, version)
    ]
    return _told(_cited(found, manager.hook.paracore_citations()), manager.hook.paracore_conformance())


def _cited(found: list[Entry], answers: Iterable[Any]) -> list[Entry]:
    """The entries with their BibTeX."""
    names = {entry.name for entry in found}
    for answer in answers:
        if not isinstance(answer, Mapping) or not all(isinstance(text, str) for text in answer.values()):
            raise PluginError("paracore_citations must return a dict of registered names and BibTeX strings")
        for name in answer:
            if name not in names:
                raise PluginError(f"paracore_citations names {name!r}, which the plugin does not register")
        found = [attrs.evolve(e, citation=answer[e.name]) if e.name in answer else e for e in found]
    return found


def _told(found: list[Entry], answers: Iterable[Any]) -> list[Entry]:
    """The entries with what the conformance kit must know."""
    names = {name for entry in found for name in (entry.name, f"{entry.kind}:{entry.name}")}
    for answer in answers:
        if not isinstance(answer, Mapping) or not all(isinstance(told, Conformance) for told in answer.values()):
            raise PluginError("paracore_conformance must return a dict of registered names and paracore.Conformance")
        for name in answer:
            if name not in names:
                raise PluginError(f"paracore_conformance names {name!r}, which the plugin does not register")
        found = [
            attrs.evolve(e, conformance=answer.get(f"{e.kind}:{e.name}", answer.get(e.name, e.conformance)))
            for e in found
        ]
    return found


def _entries(kind: str, hook: str, answer: Any, plugin: str, distribution: str, version: str) -> Iterable[Entry]:
    if not isinstance(answer, Mapping):
        raise PluginError(f"{hook} returned {type(answer).__name__}; a dict of names and factories is needed")
    for name, factory in answer.items():
        if not isinstance(name, str) or not _KEBAB.fullmatch(name):
            raise PluginError(f"{hook} registers the name {name!r}; names are kebab-case, like 'gain-ratio'")
        if not callable(factory):
            raise PluginError(f"{hook} registers {name!r} as {type(factory).__name__}; a class or function is needed")
        yield Entry(kind, name, factory, plugin, distribution, version)


def _disabled() -> set[str]:
    return {n.strip() for n in os.environ.get("PARACORE_DISABLE_PLUGINS", "").split(",") if n.strip()}


def _own_version() -> str:
    try:
        return importlib.metadata.version("paracore")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


registry = Registry()
"""The registry of this process."""
