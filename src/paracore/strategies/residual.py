"""Residual construction: which look-ahead each row's residual has."""

from __future__ import annotations

import abc
from typing import Any

from paracore.schemes.weights import RowWeights
from paracore.strategies.base import Strategy
from paracore.window import Ints, Round, Window

__all__ = ["ResidualConstruction"]


class ResidualConstruction(Strategy):
    """Chooses the weights of the residuals ``R = X_next - W_x X - W_f F - c`` (math page, section 2)."""

    @abc.abstractmethod
    def weights(self, window: Window, state: Any) -> RowWeights:
        """The weights of every row. Called only if the Jacobian part reads residuals."""

    def look_ahead(self, window: Window, state: Any) -> Ints | None:
        """``(P, B)`` look-ahead of each row, for traces; ``None`` if the notion does not apply."""
        return None

    def adapt(self, round: Round, state: Any) -> Any:
        """The state for the next round, once per round."""
        return state
