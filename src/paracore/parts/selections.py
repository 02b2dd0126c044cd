"""Selections: which rows a round evaluates."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.interpolation import interpolated
from paracore.parts.options import integer
from paracore.strategies import Selection
from paracore.window import Bools, Round, Window

__all__ = ["AllRows", "EveryKth"]


@attrs.frozen
class AllRows(Selection):
    """Evaluates every row of the window."""

    causal = True
    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Algorithm 1"

    def rows(self, window: Window, state: Any) -> Bools:
        """All of them."""
        return np.ones(window.nodes.shape, dtype=np.bool_)


@attrs.frozen
class EveryKth(Selection):
    """Evaluates every k-th row from the front; outputs between are interpolated in time, beyond them extrapolated.

    The window then spans ``(window - 1) * stride + 1`` rows for ``window`` evaluations. Rounds are dense until one was
    saved: before that the guesses are too rough to interpolate. Interpolation leaves an error floor that no tolerance
    removes; at tolerance 0 every row is evaluated before it is accepted.

    Attributes:
        stride: k; 0 chooses it by window p and N: ``1 + log2(0.16 N / p)``, rounded down, at least 1, so that about a
            sixth of the nodes is spanned (N = 50: 3, 2, 1 at windows 2, 4, 8; N = 100: 4, 3, 2, 1), and half of that,
            rounded up, in stochastic schemes: fresh noise makes outputs rough from node to node. Their window keeps its
            span, and rows beyond the last evaluated one are extrapolated, never accepted.
        trend: how much of the last slope the extrapolation keeps (1 is linear, 0 holds the output).
    """

    stride: int = attrs.field(default=2, validator=integer(0))
    trend: float = 0.5

    causal = True
    reference = "this library: docs/mathematics.md, skipped rows"

    def span(self, width: int, steps: int) -> int:
        """``(width - 1) * stride + 1`` rows."""
        return (width - 1) * self._stride(width, steps) + 1

    def _stride(self, width: int, steps: int) -> int:
        return self.stride or 1 + max(0, int(np.log2(max(0.16 * steps / width, 1.0))))

    def rows(self, window: Window, state: Any) -> Bools:
        """Every k-th row; the first ``window.width`` rows until a round was saved, and always at tolerance 0."""
        row = np.arange(window.rows)[:, None]
        stride = self._stride(window.width, window.scheme.steps)
        if window.scheme.stochastic and not self.stride:
            stride = -(-stride // 2)
        strided = np.broadcast_to((row % stride == 0) & (row < stride * window.width), window.nodes.shape)
        dense = np.broadcast_to(row < window.width, window.nodes.shape)
        if window.tolerance == 0:
            return dense.copy()
        return np.where((window.front == window.rounds)[None, :], dense, strided)

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """Linear interpolation between the nearest rows with outputs, a damped trend beyond the last."""
        return interpolated(round, rows, self.trend)
