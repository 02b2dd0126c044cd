"""Jacobian approximations that need no knowledge of the network."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from paracore.schemes.weights import RowWeights
from paracore.strategies import JacobianApproximation
from paracore.window import Floats, Round, per_sample

__all__ = ["Identity"]


@attrs.frozen
class Identity(JacobianApproximation):
    """``J = I``: every row moves by its own (preconditioned) residual over ``1 + damping``.

    With look-ahead 1 this is the Jacobi iteration, with full look-ahead Picard's (Shih et al. 2023, Eq. 8).
    """

    reads_residuals = True
    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Eq. 8"

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | None:
        """``X - R / (1 + damping)``."""
        assert rhs is not None
        rows = [round.window.state_rows[r + 1] - rhs[r] / per_sample(1.0 + damping[r], rhs[r]) for r in range(len(rhs))]
        return torch.stack(rows).to(rhs.dtype)
