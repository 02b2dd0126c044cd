"""Commands that plugins add to the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_group

from paracore.cli.failures import note
from paracore.distributions import disabled, points, source_of
from paracore.errors import PluginError
from paracore.plugins import Plugin
from paracore.plugins.discovery import ask, is_kebab, open_plugin

__all__ = ["commands_of", "plugin_commands"]


def plugin_commands() -> Iterator[tuple[str, str, Any]]:
    """``(plugin, name, command)`` of installed plugins; what cannot be used is said on stderr."""
    for point in points():
        if disabled(point.name):
            continue
        plugin = Plugin(point.name, *source_of(point), point.value)
        try:
            yield from [(plugin.origin, name, made) for name, made in commands_of(plugin, point.load())]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even exit
            note(f"commands of plugin {plugin.origin} cannot be used: {type(error).__name__}: {error}")


def commands_of(plugin: Plugin, module: object) -> list[tuple[str, Any]]:
    """``(name, command)`` of one plugin.

    Raises:
        PluginError: for a plugin that cannot be used, or one that registers something else.
    """
    _, manager = open_plugin(plugin, module)
    found: list[tuple[str, Any]] = []
    for name, made in ask("paracore_commands", manager):
        if not is_kebab(name) or not isinstance(made, typer.Typer):
            raise PluginError(
                f"paracore_commands registers {name!r} as {type(made).__name__}; a typer.Typer is needed, "
                "under a kebab-case name"
            )
        command = get_group(made)
        command.name = name
        found.append((name, command))
    return found
