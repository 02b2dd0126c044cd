"""Preconditioner: changes the right-hand side before the solve."""

from __future__ import annotations

import abc
from typing import Any

import attrs
import torch

from paracore.strategies.base import Strategy
from paracore.window import Floats, Round

__all__ = ["NoPreconditioner", "Preconditioner"]


class Preconditioner(Strategy):
    """``R -> R~`` (the LML correction of the ROPA paper, for instance)."""

    @abc.abstractmethod
    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """``(P, B, *event)`` right-hand side from ``(P, B, *event)`` residuals; a new tensor, or ``rhs`` itself."""

    def observe(self, round: Round, state: Any) -> Any:
        """The state for the next round, once per round."""
        return state


@attrs.frozen
class NoPreconditioner(Preconditioner):
    """Leaves the residuals alone."""

    null = True

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        return rhs
