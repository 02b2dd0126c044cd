"""Residual constructions."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore.parts.options import integer
from paracore.schemes.weights import RowWeights, look_ahead_weights
from paracore.strategies import ResidualConstruction
from paracore.window import Ints, Window

__all__ = ["LookAhead"]


@attrs.frozen
class LookAhead(ResidualConstruction):
    """The same look-ahead for every row: 1 is the one-step residual, the window's length (0 here) Picard's.

    It changes the update only under a Jacobian part that keeps less than the residual's own linear part (the identity,
    Anderson, a band); under the chain it has no effect at all (math page, section 2).

    Attributes:
        width: look-ahead in nodes; 0 reaches back to the front.
    """

    width: int = attrs.field(default=0, validator=integer(0))

    reference = "Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Definition 2.1; ROPA, Eq. 9"

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` look-ahead of each row."""
        width = min(self.width, window.rows) if self.width else window.rows
        return np.full(window.nodes.shape, width, dtype=np.int64)

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))
