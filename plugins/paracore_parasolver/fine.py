"""The inside of a subinterval: sequential steps, until the sweep is done."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from paracore import Problem
from paracore.parts.options import integer
from paracore.schemes import RowWeights
from paracore.strategies import JacobianApproximation
from paracore.window import Floats, Round, per_sample, where_rows
from paracore_parasolver.partition import check, places

__all__ = ["FineSteps"]


@attrs.frozen
class FineSteps(JacobianApproximation):
    """Between updates each subinterval advances by the scheme's own step; at the end of a sweep comes the chain.

    In drift form that chain is ParaSolver's update: ``x_front`` plus the sum of what the subintervals before a point
    moved by. Goes with the selection ``subintervals`` of the same ``length`` and ``count``.

    Attributes:
        length: steps in the longest subinterval.
        count: number of subintervals; 0: as many as ``length`` asks for.
    """

    length: int = attrs.field(default=2, validator=integer(1))
    count: int = attrs.field(default=0, validator=integer(0))

    reference = "Lu et al. 2025 (ParaSolver), ICLR 2025, Algorithm 1"

    def start(self, problem: Problem, rows: int) -> None:
        """Check the options against the number of steps."""
        check(self, problem.scheme.steps, self.length, self.count)

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        """``(P, B, *event)`` next states: one fine step in each subinterval, or the chain."""
        window = round.window
        if window.tolerance == 0:  # the window is dense then
            return _damped(round, round.chain[1:], damping)
        at = places(window, self.length, self.count)
        inside = round.evaluated & ~at.last & ~at.swept[None, :]
        following = []
        for r in range(window.rows):
            new = window.state_rows[r + 1]
            if inside[r].any():
                states = window.history(r, window.state_rows, window.past_x)
                stepped = window.step(r, states, window.history(r, round.outputs, window.past_f))
                new = where_rows(inside[r], stepped, new)
            following.append(where_rows(at.swept, round.chain[r + 1], new))
        return _damped(round, following, damping)


def _damped(round: Round, following: list[torch.Tensor], damping: Floats) -> torch.Tensor:
    if not damping.any():  # the chain's bits
        return torch.stack(following)
    pairs = zip(round.window.state_rows[1:], following, damping, strict=True)
    return torch.stack([(old + (new - old) / per_sample(1.0 + d, old)).to(old.dtype) for old, new, d in pairs])
