"""Compositions of whatever is registered, as third parties will mix it."""

from __future__ import annotations

import random

import paracore
from paracore.composition import KINDS
from paracore.errors import CapabilityError, ConfigurationError

__all__ = ["registered_mixture"]

NEEDS_A_TRAJECTORY = "warm-start"


def registered_mixture(seed: int, problem: paracore.Problem, tolerance: float = 0.01) -> paracore.Engine | None:
    """A registered part of every kind with its default options, and a window from 1 to 8; the same for a seed.

    Returns:
        The sampler; ``None`` where the parts refuse one another, or the problem.
    """
    draw = random.Random(seed)
    parts = {}
    for kind in KINDS:
        names = [entry.name for entry in paracore.registry.entries(kind) if entry.name != NEEDS_A_TRAJECTORY]
        parts[kind] = draw.choice(names)
    if parts["stopping"] == "fixed-rounds":
        parts["stopping"] = f"fixed-rounds(rounds={problem.scheme.steps})"
    try:
        sampler = paracore.compose(window=draw.randint(1, 8), tolerance=tolerance, **parts)
        sampler.start(problem)
    except (CapabilityError, ConfigurationError):
        return None
    return sampler
