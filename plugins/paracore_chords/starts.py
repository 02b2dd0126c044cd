"""Where the cores start."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from paracore.errors import ConfigurationError

__all__ = ["RULES", "begins", "checked", "even", "greedy", "scaled"]

LENGTH = 50
"""The number of steps that the published sequences are for."""

SEQUENCES: dict[int, tuple[int, ...]] = {
    4: (0, 8, 16, 32),
    6: (0, 3, 6, 12, 24, 36),
    8: (0, 2, 4, 8, 16, 24, 32, 40),
}

RULES = ("even", "greedy")
"""Rules for core counts without a published sequence."""


def begins(cores: int, steps: int, rule: str) -> tuple[int, ...]:
    """Start nodes of ``cores`` cores for N steps: a published sequence, scaled, else by the rule.

    References: Han et al. 2025, arXiv:2507.15260, Section 4 (the sequences).
    """
    if cores in SEQUENCES:
        return scaled([t / LENGTH for t in SEQUENCES[cores]], steps)
    return scaled(greedy(cores), steps) if rule == "greedy" else even(cores, steps)


def fastest(cores: int) -> float:
    """Where the fastest core starts: on the line through the published ones, ``0.48 + 0.04 K``, at most 0.9."""
    return min(0.48 + 0.04 * cores, 0.9) if cores > 1 else 0.0


def even(cores: int, steps: int) -> tuple[int, ...]:
    """Gaps of one whole number of nodes, counted back from the fastest core; the first gap is what is left.

    A core is set right whenever the one behind it has walked their gap. With equal gaps that happens right after that
    one was set right itself, with others up to a gap too early. Core 1 is always right, so its gap may be another.
    For three cores these are the start times of the greedy rule.
    """
    end = scaled((fastest(cores),), steps)[0]
    gap = max(1, -(-end // max(1, cores - 1)))
    return tuple(sorted({0, *range(end, 0, -gap)}))


def greedy(cores: int) -> tuple[float, ...]:
    """The rule for three cores, as fractions, applied from the fastest to the slowest.

    Half the next start where ``1 / (1 - t) <= 3``, else ``2 t - 1``.

    References: Han et al. 2025, arXiv:2507.15260, Theorem 2.5 (three cores).
    """
    times = [0.0] * (cores > 1)
    at = fastest(cores)
    found = [at]
    while len(found) < cores - len(times):
        at = at / 2 if 1 / (1 - at) <= 3 + 1e-9 else 2 * at - 1
        found.append(at)
    return tuple(times + found[::-1])


def scaled(fractions: Sequence[float], steps: int) -> tuple[int, ...]:
    """Start nodes for N steps; of cores that would start at one node, one is kept."""
    nodes = {min(round(f * steps), steps - 1) for f in fractions}
    return tuple(sorted(nodes))


def checked(given: Any) -> tuple[int, ...]:
    """Start nodes as a tuple, from a sequence or from the published notation ``"0-8-16-32"``.

    Raises:
        ConfigurationError: unless they are integers that begin at 0 and rise.
    """
    need = "integers that begin at 0 and rise are needed, like (0, 8, 16, 32) or '0-8-16-32'"
    try:
        values = given.split("-") if isinstance(given, str) else list(given)
        nodes = tuple(int(v) for v in values)
    except (TypeError, ValueError):
        raise ConfigurationError(f"Chords: starts is {given!r}; {need}") from None
    if any(isinstance(v, (bool, float)) for v in values):
        raise ConfigurationError(f"Chords: starts is {given!r}; {need}")
    if not nodes or nodes[0] != 0:
        raise ConfigurationError(f"Chords: starts is {given!r}: the first core runs the whole trajectory; {need}")
    for before, after in itertools.pairwise(nodes):
        if after <= before:
            raise ConfigurationError(f"Chords: starts is {given!r}: {after} does not rise from {before}; {need}")
    return nodes
