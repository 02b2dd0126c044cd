"""Discovery of strategies, samplers, models and evaluators (pluggy), lazily, one entry point at a time."""

from paracore.plugins.conformance import Conformance
from paracore.plugins.hookspecs import HOOKS, hookimpl
from paracore.plugins.registry import Entry, Registry, registry

__all__ = ["HOOKS", "Conformance", "Entry", "Registry", "hookimpl", "registry"]
