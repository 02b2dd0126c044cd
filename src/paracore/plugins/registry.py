"""The registry: names to factories, with where each came from."""

from __future__ import annotations

import importlib.metadata
import textwrap
import threading
import traceback
from typing import Any

from paracore.distributions import OWN, disabled, own_version, points, source_of
from paracore.errors import PluginError, UnknownNameError, suggest
from paracore.plugins.calls import parse_call
from paracore.plugins.discovery import collect
from paracore.plugins.entry import IN_PROCESS, Broken, Entry, Plugin
from paracore.plugins.hookspecs import HOOKS

__all__ = ["IN_PROCESS", "Registry", "registry"]


class Registry:
    """Names of all kinds. Plugins are loaded at the first look-up, one by one: a broken one does not hide the others.

    ``PARACORE_DISABLE_PLUGINS`` (names separated by commas, or ``all``) leaves entry points out.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, dict[str, Entry]] | None = None
        self._plugins: list[Plugin] = []
        self._broken: list[Broken] = []
        self._disabled: list[Plugin] = []
        self._conflicts: dict[tuple[str, str], list[Entry]] = {}
        self._registered: dict[str, Plugin] = {}

    @property
    def conflicts(self) -> dict[tuple[str, str], tuple[Entry, ...]]:
        """``(kind, name)`` that more than one plugin registered: usable under none of them."""
        self._load()
        return {key: tuple(entries) for key, entries in self._conflicts.items()}

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Plugins that were found and can be used, paracore itself first; conflicting names are among their entries."""
        self._load()
        return tuple(self._plugins)

    @property
    def disabled(self) -> tuple[Plugin, ...]:
        """Plugins that ``PARACORE_DISABLE_PLUGINS`` left out, unread."""
        self._load()
        return tuple(self._disabled)

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
            owners = " and ".join(e.origin for e in clash)
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
            raise UnknownNameError(f"unknown {kind} {name!r}; {hint}{suggest(name, table)}{self.remark()}")
        return table[name]

    def remark(self) -> str:
        """The end of an error message about an unknown name: which plugins are broken and why, or nothing."""
        broken = "; ".join(f"{b.origin}: {textwrap.shorten(b.cause, 160)}" for b in self.broken)
        return f" (broken plugins: {broken}; paracore doctor shows where)" if broken else ""

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
        found = collect(Plugin(name, IN_PROCESS, "unversioned"), plugin)
        if not found.entries:
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
        self._entries, self._conflicts = None, {}
        self._plugins, self._broken, self._disabled = [], [], []

    def _kind(self, kind: str) -> str:
        if kind not in HOOKS:
            raise UnknownNameError(f"unknown kind {kind!r}; {suggest(kind, HOOKS)}")
        return kind

    def _load(self) -> dict[str, dict[str, Entry]]:
        with self._lock:  # other threads wait for the whole; a plugin that looks up while it loads sees what is there
            if self._entries is None:
                self._entries = {kind: {} for kind in HOOKS}
                from paracore.plugins import builtin

                self._add(collect(Plugin("paracore", OWN, own_version(), builtin.__name__), builtin))
                for plugin in self._registered.values():
                    self._add(plugin)
                for point in points():
                    self._load_point(point)
            return self._entries

    def _load_point(self, point: importlib.metadata.EntryPoint) -> None:
        plugin = Plugin(point.name, *source_of(point), point.value)
        if disabled(point.name):
            self._disabled.append(plugin)
            return
        try:
            self._add(collect(plugin, point.load()))
        except KeyboardInterrupt:
            self.reset()
            raise
        except BaseException as error:
            cause, details = f"{type(error).__name__}: {error}", traceback.format_exc()
            self._broken.append(
                Broken(plugin.plugin, plugin.distribution, plugin.version, cause, details, plugin.target)
            )

    def _add(self, plugin: Plugin) -> None:
        assert self._entries is not None
        self._plugins.append(plugin)
        for entry in plugin.entries:
            table = self._entries[entry.kind]
            if entry.name in table:
                self._conflicts.setdefault((entry.kind, entry.name), [table[entry.name]]).append(entry)
            else:
                table[entry.name] = entry


registry = Registry()
"""The registry of this process."""
