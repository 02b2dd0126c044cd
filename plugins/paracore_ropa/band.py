"""Forward substitution through the band of a Jacobian with scalar blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from paracore.schemes import RowWeights, compute_dtype
from paracore.window import Bools, Floats, Round, per_sample, where_rows

__all__ = ["Coupling", "couplings", "inner", "same_as_chain", "substitute"]

Coupling = Callable[[int, torch.Tensor], tuple[torch.Tensor, Bools]]
"""``(row, dX at the row's own node) -> (what it adds to the row, the samples (B,) for which it replaces the band)``."""


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product of each sample: ``(B, *event), (B, *event) -> (B,)``, at least float32."""
    dtype = compute_dtype(a.dtype)
    return (a.to(dtype) * b.to(dtype)).flatten(1).sum(dim=1)


def couplings(round: Round, weights: RowWeights, response: Floats | None, *, linear: bool, band: int) -> Floats:
    """``(P, P, B)`` factors ``C[r, m]`` with ``J = I - C``: how row ``r`` follows a move of the unknown state ``m``.

    Column 0 is the front, which does not move. An output held in the composition's form responds with that form's
    ``u``; ``response`` is what is known beyond it.

    Args:
        round: the round.
        weights: look-ahead weights of the Jacobian.
        response: ``(P, B)`` scalar responses of the outputs, in the composition's form, or ``None``.
        linear: keep the table's own factors.
        band: keep the couplings over at most this many nodes; 0 keeps all.
    """
    window = round.window
    rows, history = window.rows, window.scheme.memory
    u, v, moving = window.gain_rows
    slope = u if response is None else u + v * response
    out = weights.x[:, history:] * float(linear)
    if response is not None or moving.any():
        out = out + weights.f[:, history:] * slope[None]
    if band:
        distance = np.arange(1, rows + 1)[:, None] - np.arange(rows)[None, :]
        out = np.where((distance <= band)[..., None], out, 0.0)
    return np.asarray(out)


def substitute(
    factors: Floats, rhs: torch.Tensor, damping: Floats, replace: Coupling | None = None
) -> list[torch.Tensor]:
    """Solve ``(I - C + diag(damping)) dX = R`` row by row.

    Args:
        factors: ``(P, P, B)``; column 0, the front, is not read.
        rhs: ``(P, B, *event)``.
        damping: ``(P, B)``.
        replace: a coupling of a row to its own node that stands in for the band's, or ``None``.

    Returns:
        P rows ``(B, *event)``: ``dX`` of the states ``1 .. P``.
    """
    out: list[torch.Tensor] = []
    for r in range(len(rhs)):
        total = rhs[r]
        for m in range(1, r + 1):
            factor = factors[r, m]
            if (factor != 0).any():
                # Rows of other samples may be wild here: leave those that are not coupled untouched.
                total = where_rows(factor != 0, total + out[m - 1] * per_sample(factor, total), total)
        if replace is not None and r > 0:
            added, who = replace(r, out[r - 1])
            total = where_rows(who, rhs[r] + added, total)
        out.append((total / per_sample(1.0 + damping[r], total)).to(rhs.dtype))
    return out


def same_as_chain(round: Round, weights: RowWeights, rhs: torch.Tensor, damping: Floats) -> Bools:
    """``(B,)`` samples whose band keeps all that the residual has, undamped: there ``X - dX`` is the chain."""
    own = round.weights
    pairs = ((own.x, weights.x), (own.f, weights.f), (own.c, weights.c))
    equal = np.logical_and.reduce([(a == b).all(axis=(0, 1)) for a, b in pairs])
    plain = np.where(round.window.valid, damping, 0.0) == 0.0
    return np.asarray(equal & plain.all(axis=0) & (rhs is round.residual), dtype=np.bool_)
