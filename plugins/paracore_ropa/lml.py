"""The curvature correction as a preconditioner of the residuals (ROPA, Eq. 14 and 15, Algorithm 1)."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from paracore.parts.options import number, one_of
from paracore.strategies import Preconditioner
from paracore.window import Floats, Round, where_rows
from paracore_ropa.rank_one import RankOne

__all__ = ["LML"]


@attrs.frozen
class LML(Preconditioner):
    """``R~_n = H_n^{-1} R_n`` where ``|<R_n, s_n>| > gamma |R_n| |s_n|``, the other rows as they are.

    ``H^{-1} = (lambda g^2 |s|^2)^{-1} (I - s s^T / (lambda + |s|^2))``, ``s`` the score at the row's state, taken from
    the output that is there already (the listing spends a network call of its own on it).

    What the text leaves open or contradicts:

    * ``gamma`` is 0.3 in Appendix A.3.3, 0.85 in the listing and absent from Section 4.1. The listing also tests the
      signed alignment, averaged over the batch; Eq. 14 and this part take the absolute value, per sample.
    * As printed, ``H^{-1}`` carries the factor ``1 / (lambda g^2 |s|^2)``, which changes the length of the step in the
      directions orthogonal to the score too: about 1.5e-3 at d = 65,536 and 6e2 at d = 16 (lambda = 1e-2; g^2 = 1 and
      0.01). The Langevin correction that it builds on restores the original norm: ``scaling="norm-preserving"``.
      ``"unit"`` is the bracket alone, which damps along the score only.
    * ``|s|^2`` is about ``d / sigma^2``, so that an absolute ``lambda`` of 1e-3 makes the bracket a projection: the
      part of the residual along the score all but vanishes, and stalls. ``relative=True`` measures it in ``|s|^2``.
    * Eq. 16 changes J instead of R: that is ``banded-lml``.

    Attributes:
        gamma: alignment above which a row is corrected, between 0 (all rows) and 1 (none).
        scaling: ``"paper"``, ``"norm-preserving"`` or ``"unit"``.
        relative: ``lambda`` is in units of ``|s|^2``.
        factor: ``lambda``, not negative; ``None``: the damping policy's factor of the row, as in the paper.
        floor: smallest ``lambda`` (the listing's 1e-4).
    """

    gamma: float = attrs.field(default=0.3, validator=number(0.0, 1.0))
    scaling: str = attrs.field(default="paper", validator=one_of("paper", "norm-preserving", "unit"))
    relative: bool = False
    factor: float | None = attrs.field(default=None, validator=attrs.validators.optional(number(0.0)))
    floor: float = attrs.field(default=1e-4, validator=number(0.0))

    needs = frozenset({"score"})
    reference = "ROPA, Eq. 14 and 15, Algorithm 1, lines 20 to 28"

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """Correct the aligned rows; rows where ``H`` is not defined (no score, ``lambda = 0``) are left alone."""
        rank_one = RankOne(self.scaling, self.relative, self.factor, self.floor)
        out = []
        for r, row in enumerate(rhs):
            aligned = (rank_one.alignment(round, r, row) > self.gamma) & round.window.valid[r]
            if not aligned.any():
                out.append(row)
                continue
            changed, sound = rank_one.apply(round, r, row, damping[r])
            out.append(where_rows(aligned & sound, changed, row))
        return torch.stack(out)
