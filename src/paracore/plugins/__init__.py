"""Discovery of strategies, samplers, models and evaluators (pluggy), lazily, one entry point at a time."""

from paracore.plugins.hookspecs import HOOKS, hookimpl
from paracore.plugins.registry import Entry, Registry, registry

__all__ = ["HOOKS", "Entry", "Registry", "hookimpl", "registry"]
