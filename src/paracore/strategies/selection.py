"""Selection: which rows of the window a round evaluates."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch

from paracore.strategies.base import Strategy
from paracore.window import Bools, Round, Window, where_rows

__all__ = ["Selection"]


class Selection(Strategy):
    """Chooses rows to evaluate, and fills in the outputs of the others. The front is always evaluated.

    Attributes:
        causal: whether the choice for a row depends on itself and earlier rows alone. A budget that is shared out over
            the window does not, and need not.
    """

    causal: ClassVar[bool] = False

    def span(self, width: int, steps: int) -> int:
        """P: how many rows the window has for ``width`` evaluations per round and sample, of ``steps`` nodes in all."""
        return width

    @abc.abstractmethod
    def rows(self, window: Window, state: Any) -> Bools:
        """``(P, B)`` rows to evaluate this round, at most ``window.width`` of each sample."""

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """P network outputs ``(B, *event)``; only those marked in ``rows (P, B)`` (never evaluated, or not finite)
        are used. Default: hold the nearest output to the left.
        """
        out = list(round.outputs)
        for r in range(1, len(out)):
            if rows[r].any():
                out[r] = where_rows(rows[r], out[r - 1], out[r])
        return out

    def observe(self, round: Round, state: Any) -> Any:
        """The state for the next round, once per round."""
        return state
