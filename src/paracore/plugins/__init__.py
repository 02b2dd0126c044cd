"""Discovery of strategies, samplers, models and evaluators (pluggy), lazily, one entry point at a time."""

from paracore.plugins.calls import options_of, parse_call
from paracore.plugins.conformance import Conformance
from paracore.plugins.entry import Broken, Entry, Plugin
from paracore.plugins.hookspecs import API, HOOKS, hookimpl
from paracore.plugins.registry import Registry, registry

__all__ = [
    "API",
    "HOOKS",
    "Broken",
    "Conformance",
    "Entry",
    "Plugin",
    "Registry",
    "hookimpl",
    "options_of",
    "parse_call",
    "registry",
]
