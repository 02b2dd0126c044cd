"""Which rows a round of ParaSolver evaluates: one per subinterval, in step with the front."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore import Problem
from paracore.errors import ConfigurationError
from paracore.parts.options import integer
from paracore.strategies import Selection
from paracore.window import Bools, Round, Window
from paracore_parasolver.frozen import check as check_forms
from paracore_parasolver.frozen import frozen_outputs
from paracore_parasolver.partition import check, places

__all__ = ["Subintervals"]


@attrs.frozen
class Subintervals(Selection):
    """One row of each of the window's subintervals: the one as far into its subinterval as the front is into its own.

    So a sweep solves every subinterval sequentially, all at once, while the front takes its exact steps. Rows that were
    never evaluated continue with the newest data prediction, frozen. At tolerance 0 the window is dense, since only
    rows next to the front can be exact.

    Attributes:
        length: steps in the longest subinterval; the window spans ``length`` rows per evaluation.
        count: number of subintervals; 0: as many as ``length`` asks for.
        preconditioning: subintervals at the start that are solved alone, one after the other.
    """

    length: int = attrs.field(default=1, validator=integer(1))
    count: int = attrs.field(default=0, validator=integer(0))
    preconditioning: int = attrs.field(default=0, validator=integer(0))

    needs = frozenset({"score"})
    reference = "Lu et al. 2025 (ParaSolver), ICLR 2025, Algorithm 1"

    def start(self, problem: Problem, rows: int) -> None:
        """Check the options against the number of steps."""
        check_forms(problem.scheme)
        number = len(check(self, problem.scheme.steps, self.length, self.count)) - 1
        if self.preconditioning > number:
            raise ConfigurationError(
                f"{type(self).__name__}: preconditioning is {self.preconditioning}, but there are {number} "
                f"subintervals of {problem.scheme.steps} steps; use at most {number}"
            )

    def span(self, width: int, steps: int) -> int:
        """``width`` subintervals."""
        return width * self.length

    def rows(self, window: Window, state: Any) -> Bools:
        """Rows in step with the front, in the window's first subintervals."""
        at = places(window, self.length, self.count)
        if window.tolerance == 0:
            chosen = np.broadcast_to(np.arange(window.rows)[:, None] < window.width, window.nodes.shape)
        else:
            chosen = (at.phase == at.phase[:1]) & (at.index < window.width)
        alone = at.number[0] < self.preconditioning
        return np.asarray(chosen & ~(alone[None, :] & (np.arange(window.rows) > 0)[:, None]), dtype=np.bool_)

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """The newest data prediction, frozen."""
        return frozen_outputs(round, rows)
