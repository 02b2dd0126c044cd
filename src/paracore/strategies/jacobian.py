"""Jacobian approximation: what is known of the outputs' dependence on the states."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import attrs
import torch

from paracore.schemes.weights import RowWeights
from paracore.strategies.base import Strategy
from paracore.window import Bools, Floats, Local, Round, Window

__all__ = ["JacobianApproximation", "Krylov", "NoJacobian"]

Krylov = Generator[tuple[torch.Tensor, Bools], torch.Tensor | None, torch.Tensor]
"""Yields ``(tangents (P, B, *event), who (B,))``, is sent the products ``(P, B, *event)`` (or ``None``: no rounds are
left to spend), and returns the next states. Each request is a round for the samples it asks for."""


class JacobianApproximation(Strategy):
    """Turns residuals into the next states.

    The bidiagonal methods write :meth:`local` alone: the engine's chain then gives their next states. Others write
    :meth:`solve`.

    Attributes:
        reads_residuals: whether :meth:`solve` wants weights and the (preconditioned) look-ahead residuals; they cost
            a few passes.
    """

    reads_residuals: ClassVar[bool] = False

    def probes(self, window: Window, state: Any) -> torch.Tensor | None:
        """``(P, B, *event)`` tangents that ride along in the round's request, or ``None``."""
        return None

    def local(self, round: Round, state: Any) -> Local | None:
        """``(row, v) -> G v`` for outputs in the composition's form, or ``None`` for ``G = 0``."""
        return None

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | Krylov | None:
        """``(P, B, *event)`` next states of rows ``1 .. P``; ``None``: the engine's sweep will do, damping included."""
        return None

    def observe(self, round: Round, state: Any) -> Any:
        """The state for the next round, once per round, after acceptance."""
        return state


@attrs.frozen
class NoJacobian(JacobianApproximation):
    """``G = 0``: outputs are held while states move (Picard, in the composition's output form)."""

    null = True
