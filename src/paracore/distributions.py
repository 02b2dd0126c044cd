"""What is installed: the entry points of plugins, and which distribution a thing came from."""

from __future__ import annotations

import importlib.metadata
import os
import traceback

__all__ = ["GROUP", "OWN", "blamed", "disabled", "origin_of", "own_version", "points", "source_of"]

GROUP = "paracore"
"""The entry-point group that plugins are found under."""

OWN = "paracore"
"""The name of our own distribution."""


def own_version() -> str:
    """Of the installed distribution."""
    try:
        return importlib.metadata.version(OWN)
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


def points() -> list[importlib.metadata.EntryPoint]:
    """All entry points of the group by name, the disabled ones too."""
    return sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)


def disabled(name: str) -> bool:
    """Whether ``PARACORE_DISABLE_PLUGINS`` leaves a plugin out."""
    left_out = {n.strip() for n in os.environ.get("PARACORE_DISABLE_PLUGINS", "").split(",")}
    return name in left_out or "all" in left_out


def source_of(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """``(distribution, version)`` of an entry point; ``unknown`` where the installation does not say."""
    try:
        return (point.dist.name or "unknown", point.dist.version or "unknown") if point.dist else ("unknown", "unknown")
    except Exception:  # metadata that is missing or damaged
        return "unknown", "unknown"


def origin_of(module: str) -> str:
    """``"mine (my-dist 1.2)"``: the installed plugin whose package a module is of; empty if it is none, or ours.

    It is for messages: nothing is looked up before something went wrong.
    """
    package = module.partition(".")[0]
    for point in points():
        distribution, version = source_of(point)
        if point.value.partition(":")[0].partition(".")[0].strip() == package and distribution != OWN:
            return f"{point.name} ({distribution} {version})"
    return ""


def blamed(error: BaseException) -> str:
    """The installed plugin in whose code an error was raised, innermost first; empty if none was running."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = dict.fromkeys(str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in reversed(frames))
    return next((origin for origin in map(origin_of, modules) if origin), "")
