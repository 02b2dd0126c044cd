"""Stopping rule: which rows may be accepted."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from paracore.problem import Problem
from paracore.status import Status
from paracore.strategies.base import Strategy
from paracore.window import Bools, Floats, Round

__all__ = ["StoppingRule"]


class StoppingRule(Strategy):
    """Decides which rows are good enough. Never asked at tolerance 0.

    The engine accepts the longest prefix of true rows, always at least the exact first row, never past the last
    evaluated row or a row whose output was not finite.

    Attributes:
        unit: what the composition's tolerance means under this rule.
        outcome: the status of samples that end under this rule.
        reads_changes: whether ``round.anchor_change`` and ``round.output_change`` are read (they cost two passes).
        reads_growth: whether ``round.output_growth`` is read as well. It costs another pass, and the anchors of rows
            that are evaluated again stay in memory until then.
    """

    unit: ClassVar[str] = ""
    outcome: ClassVar[Status] = Status.CONVERGED
    reads_changes: ClassVar[bool] = False
    reads_growth: ClassVar[bool] = False

    @abc.abstractmethod
    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``: whether the chain's state at row ``r + 1`` may be accepted. Row 0 is exact and always true."""

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """The state for the next round; ``accepted (B,)`` rows were accepted."""
        return state

    def estimate(self, state: Any) -> Floats | None:
        """``(B,)`` estimated relative error of the sample, if the rule keeps one."""
        return None

    def check(self, problem: Problem, width: int, tolerance: float) -> None:
        """Refuse options that cannot work for this problem, window and tolerance."""
