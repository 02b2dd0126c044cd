"""The banded Jacobian of the look-ahead residuals, solved with damping (ROPA, Eq. 10 and Algorithm 1)."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore import Problem
from paracore.parts.options import integer, number, one_of
from paracore.schemes import RowWeights
from paracore.slide import pick
from paracore.strategies import JacobianApproximation
from paracore.window import Bools, Floats, Round, to_numpy, where_rows
from paracore_ropa.band import Coupling, couplings, inner, same_as_chain, substitute
from paracore_ropa.rank_one import RankOne

__all__ = ["Banded", "BandedLML"]


def band_step(
    round: Round, rhs: torch.Tensor, damping: Floats, factors: Floats, replace: Coupling | None
) -> torch.Tensor:
    """``X - dX`` for the next states ``(P, B, *event)``."""
    moves = substitute(factors, rhs, damping, replace)
    return torch.stack([(round.window.state_rows[r + 1] - move).to(rhs.dtype) for r, move in enumerate(moves)])


@attrs.frozen
class Banded(JacobianApproximation):
    """``(J + Lambda) dX = R`` with the band of the look-ahead, by forward substitution; no network call.

    With the residual ``R_r = X_{r+1} - sum_m W_x[r,m] X_m - sum_m W_f[r,m] F_m`` the Jacobian has

    * the identity at ``X_{r+1}``,
    * ``-W_x[r,m]``, the scheme's own factors unrolled over the look-ahead: for a one-step table the single entry
      ``-A(r+1, r+1-w)`` at the node where the look-ahead ends, zero where that is the front (kept if ``linear``),
    * ``-W_f[r,m] G_m`` for the nodes ``m`` inside the look-ahead, where ``G_m`` stands for ``df_m/dx``. Nothing of it
      is kept but what holding the outputs in the composition's form implies (``G = u``, 0 for the network's own form),
      plus, with ``response="secant"``, one number per row: ``<dF, dX> / <dX, dX>`` of the node's last evaluations.
      The ``d x d`` blocks of Eq. 10 cannot be formed at image size; ``gmres`` uses them through products.

    W is taken at the *next* look-ahead, the residual at the last one (Algorithm 1, line 29). Where the two agree, there
    is no damping, no preconditioner, no ``band`` and no response, the update is the chain's, bit for bit: no choice of
    look-ahead then changes anything (math page, section 2). The look-ahead acts where ``linear`` is off (a Jacobi
    iteration over ``w`` nodes), in rows that have just changed, and on how far a damped row hears of earlier ones.

    Attributes:
        linear: keep the table's own factors in J. Off, ``J = I`` (and responses).
        band: keep only couplings over at most so many nodes (``b_k`` of Takeaway 2.7); 0 keeps the look-ahead's own.
        response: ``"none"`` or ``"secant"``.
        limit: bound on a secant response times the table's weight of the output: beyond it the secant is cut.
    """

    linear: bool = True
    band: int = attrs.field(default=0, validator=integer(0))
    response: str = attrs.field(default="none", validator=one_of("none", "secant"))
    limit: float = attrs.field(default=0.5, validator=number(0.0))

    reads_residuals = True
    reference = "ROPA, Eq. 10, Takeaways 2.6 and 2.7, Algorithm 1, lines 29 to 33"

    def start(self, problem: Problem, rows: int) -> dict[str, Any] | None:
        """No pair of evaluations yet."""
        if self.response == "none":
            return None
        front = np.zeros(problem.batch, dtype=np.int64)
        return {"front": front, "x": [], "f": [], "known": np.zeros((0, problem.batch), dtype=np.bool_), "slope": None}

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        """``X - dX``; the chain's own states where the two agree."""
        assert weights is not None
        assert rhs is not None
        response = None if state is None else self._responses(round, state)
        chain = torch.stack(round.chain[1:])
        plain = np.zeros(round.window.batch, dtype=np.bool_)
        if self.linear and not self.band and response is None:
            plain = same_as_chain(round, weights, rhs, damping)
            if plain[round.window.running].all():
                return chain
        factors = couplings(round, weights, response, linear=self.linear, band=self.band)
        trial = band_step(round, rhs, damping, factors, None)
        return torch.stack([where_rows(plain, c, t) for c, t in zip(chain, trial, strict=True)])

    def _responses(self, round: Round, state: dict[str, Any]) -> Floats:
        """``(P, B)`` secant slopes of the outputs in the composition's form; 0 where none is known."""
        window = round.window
        old = np.zeros(window.nodes.shape)
        if state["slope"] is not None:
            old = window.realign(state["slope"], state["front"])
        if not state["x"]:
            return old
        index = np.clip(window.nodes - state["front"][None, :], 0, len(state["x"]) - 1)
        known = window.realign(state["known"], state["front"]).astype(np.bool_) & round.evaluated
        before_x, before_f = pick(state["x"], index), pick(state["f"], index)
        top, below = [], []
        for r in range(window.rows):
            move, change = round.anchors[r] - before_x[r], round.form_output(r) - before_f[r]
            top.append(inner(change, move))
            below.append(inner(move, move))
        above, under = to_numpy(top), to_numpy(below)
        fresh = np.divide(above, under, out=np.zeros_like(above), where=known & (under > 0))
        node = np.minimum(window.nodes, window.scheme.steps - 1)
        reach = np.maximum(np.abs(window.scheme.b[node, 0] * window.gain[1][node]), 1e-30)
        fresh = np.clip(np.nan_to_num(fresh), -self.limit / reach, self.limit / reach)
        return np.where(known & (under > 0), fresh, old)

    def observe(self, round: Round, state: Any) -> Any:
        """Keep the newest evaluation of each row, and its slope."""
        if state is None:
            return None
        window = round.window
        return {
            "front": window.front.copy(),
            "x": list(round.anchors),
            "f": [round.form_output(r) for r in range(window.rows)],
            "known": round.age >= 0,
            "slope": self._responses(round, state),
        }


@attrs.frozen
class BandedLML(JacobianApproximation):
    """The band with the curvature correction in J instead of in R (ROPA, Eq. 16).

    Where the residual is aligned with the score, the row's blocks become ``[-H^{-1}, I]``: it follows its own node by
    ``H^{-1} dX_n`` instead of by the table's factors; other rows are those of ``banded``. Algorithm 1 corrects R
    instead (``lml``), and is the reference: use one or the other.

    Attributes:
        gamma, scaling, relative, factor, floor: as for ``lml``.
    """

    gamma: float = attrs.field(default=0.3, validator=number(0.0, 1.0))
    scaling: str = attrs.field(default="paper", validator=one_of("paper", "norm-preserving", "unit"))
    relative: bool = False
    factor: float | None = attrs.field(default=None, validator=attrs.validators.optional(number(0.0)))
    floor: float = attrs.field(default=1e-4, validator=number(0.0))

    needs = frozenset({"score"})
    reads_residuals = True
    reference = "ROPA, Eq. 14 to 16"

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        """``X - dX``."""
        assert weights is not None
        assert rhs is not None
        residual = rhs
        rank_one = RankOne(self.scaling, self.relative, self.factor, self.floor)

        def replace(row: int, move: torch.Tensor) -> tuple[torch.Tensor, Bools]:
            aligned = rank_one.alignment(round, row, residual[row]) > self.gamma
            changed, sound = rank_one.apply(round, row, move, damping[row])
            return changed, aligned & sound

        factors = couplings(round, weights, None, linear=True, band=0)
        return band_step(round, rhs, damping, factors, replace)
