"""ParaSolver's stopping rule for subintervals of several steps."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from paracore.parts.options import integer
from paracore.schemes import Levels, Scheme
from paracore.strategies import StoppingRule
from paracore.window import Bools, Round
from paracore_parasolver.partition import places, starts

__all__ = ["SubintervalChange"]


@attrs.frozen
class SubintervalChange(StoppingRule):
    """ParaDIGMS' rule on the points between subintervals: mean squared change at most ``tolerance^2`` x variance.

    Asked at the end of a sweep; accepts whole subintervals up to and including the first whose end still changes. The
    variance is the posterior's over a whole subinterval, one late as published; where it is zero, ``g^2 |dt|``.

    Attributes:
        length: steps in the longest subinterval.
        count: number of subintervals; 0: as many as ``length`` asks for.
    """

    length: int = attrs.field(default=2, validator=integer(1))
    count: int = attrs.field(default=0, validator=integer(0))

    needs = frozenset({"levels"})
    unit = "root-mean-square change of a subinterval's end in units of the subinterval's noise"
    reference = "Lu et al. 2025 (ParaSolver), ICLR 2025, Algorithm 1"

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows of the sweep's subintervals up to the first whose end still changes; none in the middle of a sweep."""
        window = round.window
        at = places(window, self.length, self.count)
        variance = _late_variance(window.scheme, self.length, self.count)
        fails = at.last & (round.change**2 > round.tolerance**2 * variance[at.number])
        failed_before = np.cumsum(fails, axis=0) - fails > 0
        return np.asarray((at.index < window.width) & ~failed_before & at.swept[None, :], dtype=np.bool_)


def _late_variance(scheme: Scheme, length: int, count: int) -> npt.NDArray[np.float64]:
    """``(K,)`` variance that the end of each subinterval is held against: the next subinterval's; the last one's is
    infinite (nothing comes after it)."""
    levels = scheme.levels
    assert levels is not None
    first = starts(scheme.steps, length, count)
    spans = np.add.reduceat(levels.g**2 * levels.span, first[:-1])
    coarse = Levels(levels.alpha[first], levels.sigma[first], levels.g[first[:-1]], levels.span[first[:-1]])
    variance = coarse.posterior_variance
    return np.concatenate([np.where(variance > 0, variance, spans)[1:], [np.inf]])
