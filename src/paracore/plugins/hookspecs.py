"""The hooks: one per kind, all alike. Each takes nothing and returns ``{name: factory}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from paracore.deprecation import Deprecation
from paracore.plugins.conformance import Conformance

if TYPE_CHECKING:  # the command line alone needs it
    import typer

__all__ = [
    "API",
    "HOOKS",
    "RENAMED_HOOKS",
    "Citations",
    "Commands",
    "Conformances",
    "Factories",
    "HookSpecs",
    "hookimpl",
    "hookspec",
]

API = 1
"""The version of the hooks: of their names, of what they return, and of the contracts behind the kinds.

A plugin says what it was made for with ``paracore_api = 1`` in the module that its entry point names; one that says
nothing was made for the first version. It is raised when a plugin of the version before would do the wrong thing.
"""

hookspec = pluggy.HookspecMarker("paracore")
hookimpl = pluggy.HookimplMarker("paracore")
"""Marks a function as the implementation of the hook of its name: ``@paracore.hookimpl``."""

Factories = Mapping[str, Callable[..., Any]]
"""Kebab-case names to classes or functions; their keyword parameters are the options."""

Citations = Mapping[str, str]
"""Registered names to BibTeX entries (one or more in a string)."""

Conformances = Mapping[str, Conformance]
"""Registered names, or ``kind:name`` where two kinds have the name, to what the conformance kit must know."""

Commands = Mapping[str, "typer.Typer"]
"""Kebab-case names to applications of the command line."""


class HookSpecs:
    """What a plugin may implement. Called for discovery only, never inside a solve."""

    @hookspec
    def paracore_residuals(self) -> Factories:  # type: ignore[empty-body]
        """Residual constructions by name."""

    @hookspec
    def paracore_jacobians(self) -> Factories:  # type: ignore[empty-body]
        """Jacobian approximations by name."""

    @hookspec
    def paracore_preconditioners(self) -> Factories:  # type: ignore[empty-body]
        """Preconditioners by name."""

    @hookspec
    def paracore_dampings(self) -> Factories:  # type: ignore[empty-body]
        """Damping policies by name."""

    @hookspec
    def paracore_stopping_rules(self) -> Factories:  # type: ignore[empty-body]
        """Stopping rules by name."""

    @hookspec
    def paracore_initializers(self) -> Factories:  # type: ignore[empty-body]
        """Initial guesses by name."""

    @hookspec
    def paracore_selections(self) -> Factories:  # type: ignore[empty-body]
        """Selections by name."""

    @hookspec
    def paracore_samplers(self) -> Factories:  # type: ignore[empty-body]
        """Presets: functions of keyword options that return a Composition or a Sampler."""

    @hookspec
    def paracore_models(self) -> Factories:  # type: ignore[empty-body]
        """Models by name."""

    @hookspec
    def paracore_evaluators(self) -> Factories:  # type: ignore[empty-body]
        """Evaluators by name: functions of a denoiser and keyword options."""

    @hookspec
    def paracore_citations(self) -> Citations:  # type: ignore[empty-body]
        """BibTeX of what the plugin registers, by the registered name; ``paracore cite`` prints it."""

    @hookspec
    def paracore_conformance(self) -> Conformances:  # type: ignore[empty-body]
        """How the conformance kit builds what the plugin registers, and what it is known to fail, by name."""

    @hookspec
    def paracore_commands(self) -> Commands:  # type: ignore[empty-body]
        """Sub-commands of the command line, by name. Asked for by the command line alone."""


HOOKS: dict[str, str] = {
    "residual": "paracore_residuals",
    "jacobian": "paracore_jacobians",
    "preconditioner": "paracore_preconditioners",
    "damping": "paracore_dampings",
    "stopping": "paracore_stopping_rules",
    "initializer": "paracore_initializers",
    "selection": "paracore_selections",
    "sampler": "paracore_samplers",
    "model": "paracore_models",
    "evaluator": "paracore_evaluators",
}
"""The hook of each kind."""

RENAMED_HOOKS: dict[str, Deprecation] = {}
"""Old names of hooks that are still asked for, with a warning."""
