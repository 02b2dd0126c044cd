"""The rank-one inverse Hessian of the curvature correction (ROPA, Eq. 15)."""

from __future__ import annotations

import attrs
import numpy as np
import torch

from paracore.schemes import compute_dtype
from paracore.window import Bools, Floats, Round, per_sample, to_numpy
from paracore_ropa.band import inner

__all__ = ["RankOne"]


@attrs.frozen
class RankOne:
    """``H^{-1} v = c (v - s <s, v> / (lambda + |s|^2))``, ``s`` the score at a row's anchor.

    Attributes:
        scaling: ``c``: ``"paper"`` is ``1 / (lambda g^2 |s|^2)``, ``"unit"`` 1, ``"norm-preserving"`` ``|v|`` over the
            bracket's norm.
        relative: ``lambda`` is in units of ``|s|^2``.
        factor: ``lambda``; ``None``: the damping policy's.
        floor: smallest ``lambda``.
    """

    scaling: str
    relative: bool
    factor: float | None
    floor: float

    def alignment(self, round: Round, row: int, v: torch.Tensor) -> Floats:
        """``(B,)`` cosine between ``v`` and the score, its absolute value (Eq. 14); 0 where either is zero."""
        s = round.score[row]
        sv, ss, vv = to_numpy([inner(s, v), inner(s, s), inner(v, v)])
        size = np.sqrt(ss) * np.sqrt(vv)
        out = np.divide(np.abs(sv), size, out=np.zeros_like(size), where=np.isfinite(size) & (size > 0))
        return np.asarray(np.nan_to_num(out))

    def apply(self, round: Round, row: int, v: torch.Tensor, damping: Floats) -> tuple[torch.Tensor, Bools]:
        """``(H^{-1} v, (B,) samples where it is well defined)``; ``v`` itself is returned nowhere.

        Args:
            round: for score and levels.
            row: window row.
            v: ``(B, *event)``.
            damping: ``(B,)`` factors of the damping policy at the row.
        """
        scheme, wide = round.window.scheme, compute_dtype(v.dtype)
        assert scheme.levels is not None
        s = round.score[row].to(wide)
        sv, ss, vv = to_numpy([inner(s, v), inner(s, s), inner(v, v)])
        factor = np.full(len(ss), self.factor) if self.factor is not None else damping
        damped = np.maximum(factor, self.floor) * (ss if self.relative else 1.0)
        along = np.divide(sv, damped + ss, out=np.zeros_like(sv), where=damped + ss > 0)
        along = np.nan_to_num(along, posinf=0.0, neginf=0.0)
        bracket = v.to(wide) - s * per_sample(along, s)
        if self.scaling == "unit":
            scale = np.ones_like(ss)
        elif self.scaling == "paper":
            g = scheme.levels.g[np.minimum(round.window.nodes[row], scheme.steps - 1)]
            below = damped * g**2 * ss
            scale = np.divide(1.0, below, out=np.zeros_like(below), where=below > 0)
        else:
            (left,) = to_numpy([inner(bracket, bracket)])
            scale = np.sqrt(np.divide(vv, left, out=np.zeros_like(vv), where=left > 0))
        sound = np.isfinite(scale) & (scale > 0) & np.isfinite(ss) & (ss > 0)
        scale = np.where(sound, scale, 1.0)
        return (bracket * per_sample(scale, bracket)).to(v.dtype), np.asarray(sound, dtype=np.bool_)
