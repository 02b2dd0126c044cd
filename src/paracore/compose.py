"""Building samplers: from a registered name, or from parts."""

from __future__ import annotations

from typing import Any

import attrs

from paracore.composition import KINDS, Composition
from paracore.engine import Engine
from paracore.errors import ConfigurationError
from paracore.fitting import AutoWindow
from paracore.plugins.calls import call_factory, parse_call
from paracore.plugins.registry import registry
from paracore.sampler import Sampler
from paracore.strategies import Strategy

__all__ = ["DEFAULTS", "DEFAULT_SAMPLER", "compose", "sampler"]

DEFAULTS: dict[str, str] = {
    "residual": "look-ahead",
    "jacobian": "none",
    "preconditioner": "none",
    "damping": "none",
    "stopping": "error-target",
    "initializer": "hold",
    "selection": "all",
}
"""The part of each kind that a composition gets when none is named."""

DEFAULT_SAMPLER = "ropa"
"""The sampler that is meant when none is named."""


def compose(
    *,
    residual: Strategy | str | None = None,
    jacobian: Strategy | str | None = None,
    preconditioner: Strategy | str | None = None,
    damping: Strategy | str | None = None,
    stopping: Strategy | str | None = None,
    initializer: Strategy | str | None = None,
    selection: Strategy | str | None = None,
    **settings: Any,
) -> Engine:
    """A sampler from parts: objects, or strings like ``"every-kth(stride=2)"``.

    Args:
        residual, jacobian, preconditioner, damping, stopping, initializer, selection: the parts; what is not named
            is the default (:data:`DEFAULTS`).
        settings: ``window``, ``tolerance``, ``output_form``, ``warmup``, ``name`` of
            :class:`~paracore.Composition`.

    Raises:
        UnknownNameError: for a name that is not registered, with near matches.
        ConfigurationError: for options that are not allowed.
    """
    given = {
        "residual": residual,
        "jacobian": jacobian,
        "preconditioner": preconditioner,
        "damping": damping,
        "stopping": stopping,
        "initializer": initializer,
        "selection": selection,
    }
    chosen = {kind: _part(kind, part) for kind, part in given.items()}
    return Engine(call_factory("composition", Composition, (), {**chosen, **settings}))


def _part(kind: str, part: Strategy | str | None) -> Any:
    if part is None:
        part = DEFAULTS[kind]
    return registry.make(kind, part) if isinstance(part, str) else part


def sampler(name: str = DEFAULT_SAMPLER, **options: Any) -> Sampler:
    """A registered sampler by name, or by a string like ``"picard(window=4)"``.

    Args:
        name: see ``paracore list samplers``; the library's default if left out.
        options: the preset's options; parts by kind (``stopping="change"``) replace its own. ``window="auto"``: chosen
            by :func:`paracore.solve` for its evaluator (:func:`~paracore.fitting.fit_window`).

    Raises:
        UnknownNameError: for an unknown name, with near matches.
        ConfigurationError: for options that are not allowed.
        PluginError: for a preset that raises, or builds something else; it names the plugin and its distribution.
    """
    name, inner = parse_call(name)
    entry = registry.find("sampler", name)
    merged = {**inner, **options}
    if merged.get("window") == "auto":
        rest = {k: v for k, v in merged.items() if k != "window"}
        waiting = AutoWindow(name, lambda window: sampler(name, window=window, **rest))
        waiting.make(4)  # its errors now, not in the solve
        return waiting
    parts = {k: merged.pop(k) for k in list(merged) if k in KINDS}
    made = entry.make(**merged)
    if isinstance(made, Engine):
        made = made.composition
    if isinstance(made, Composition):
        replaced = {kind: _part(kind, part) for kind, part in parts.items()}
        return Engine(attrs.evolve(made, **replaced))
    if parts:
        raise ConfigurationError(f"sampler {name!r} is no composition; it has no part {next(iter(parts))!r} to replace")
    other: Sampler = made
    return other
