"""The preset, and its registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paracore
from paracore_chords.citations import CITATIONS
from paracore_chords.cores import Chords

__all__ = ["chords", "paracore_citations", "paracore_samplers"]


def chords(
    cores: int | None = None,
    starts: Sequence[int] | str | None = None,
    stop: str = "core-index",
    index: int = 1,
    tolerance: float = 4e-4,
    norm: str = "l2-over-size",
    rule: str = "even",
) -> Chords:
    """CHORDS: cores that start ever later from coarse jumps, each set right by the slower one behind it.

    ``x_{c+1} <- F(x_c) - G(x_b^k) + G(x_b^{k-1})`` where core ``k - 1`` reaches the node ``b`` at which core ``k`` was
    last set right. By default it returns the fastest core, whatever its error. Tolerance: change from one complete
    sample to the next, for ``stop=residual``; it is no bound on the error.

    References: Han et al. 2025, arXiv:2507.15260, Section 2 (rectification), Theorem 2.5, Algorithm 1.

    Args:
        cores: evaluations per round and sample; None is 8. For 4, 6 and 8 the published start times, scaled to N.
        starts: start nodes of the cores, like (0, 8, 16, 32) or 0-8-16-32; None lets cores decide.
        stop: core-index (a fixed number of rounds) or residual.
        index: the core to return, by arrival: 1 is the fastest, 0 the coarse shot before it.
        tolerance: of the residual; 0 gives the sequential answer itself, with either stop.
        norm: of the residual: l2-over-size (the authors'), l1 (mean absolute), rms, max, relative.
        rule: start times for other core counts: even (equal gaps), or greedy (the paper's for three cores, repeated).
    """
    nodes: Any = starts  # checked and made a tuple there
    return Chords(cores=cores, starts=nodes, stop=stop, index=index, tolerance=tolerance, norm=norm, rule=rule)


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The preset of this package."""
    return {"chords": chords}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX of the preset."""
    return CITATIONS
