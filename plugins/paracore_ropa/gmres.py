"""Newton-Krylov: the exact Jacobian of the window through Jacobian-vector products."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import ConfigurationError
from paracore.parts.options import integer, number
from paracore.schemes import RowWeights
from paracore.strategies import JacobianApproximation
from paracore.window import Bools, Floats, Round, per_sample, to_numpy, where_rows
from paracore_ropa.band import couplings, inner, same_as_chain, substitute

__all__ = ["GMRES"]

Rows = list[torch.Tensor]


@attrs.frozen
class GMRES(JacobianApproximation):
    """``(J + Lambda) dX = R`` with the outputs' true derivatives, by restarted GMRES with Jacobian-vector products.

    Each product is one dependent request for all rows of the window, so it *is* a round, and is counted as such and in
    the evaluations; a sample may spend only rounds that its solve has saved so far (``round.spare``), less ``reserve``.
    While there are none, its next iterate is the banded one (for an undamped, uncorrected right-hand side: the chain).
    So Newton's fewer iterations have to pay for their products, which they seldom do; it is here to be measured.

    The linear part of J, with the damping, preconditions from the left: its substitution costs no network call, and the
    first direction is then the banded update. The paper names GMRES in Section 4.3 and conjugate gradients in Takeaway
    2.7; J is not symmetric, which rules the latter out. With a look-ahead ``w`` the derivatives of the last ``w`` nodes
    enter each row.

    Attributes:
        iterations: most products per round and sample.
        restart: directions kept before a restart; each is a window of memory.
        tolerance: relative residual of the linear system at which a sample stops asking.
        reserve: saved rounds that are not spent.
    """

    iterations: int = attrs.field(default=8, validator=integer(1))
    restart: int = attrs.field(default=4, validator=integer(1))
    tolerance: float = attrs.field(default=0.1, validator=number(0.0))
    reserve: int = attrs.field(default=0, validator=integer(0))

    needs = frozenset({"jvp"})
    reads_residuals = True
    causal = False  # the Krylov space is that of the whole window
    reference = "ROPA, Section 4.3; Saad and Schultz 1986 (GMRES); Knoll and Keyes 2004 (Jacobian-free Newton-Krylov)"

    def __attrs_post_init__(self) -> None:
        if self.restart > self.iterations:
            raise ConfigurationError(
                f"GMRES: restart is {self.restart}, above iterations = {self.iterations}: directions that are never "
                "made would be reserved; lower restart, or raise iterations"
            )

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> Any:
        """The generator of requests (:data:`paracore.strategies.Krylov`)."""
        assert weights is not None
        assert rhs is not None
        return self._run(round, weights, rhs, damping)

    def _run(self, round: Round, weights: RowWeights, rhs: torch.Tensor, damping: Floats) -> Any:
        window = round.window
        history, batch = window.scheme.memory, window.batch
        # Left-preconditioned: M^-1 A v = v - M^-1 (W_f (G - u) v), with M the banded part, u held outputs included.
        factors = couplings(round, weights, None, linear=True, band=0)
        u = window.gain_rows[0]
        banded = residual = substitute(factors, rhs, damping)
        solution = [torch.zeros_like(row) for row in residual]
        first = self._norm(residual)
        left = first
        active = window.running & np.isfinite(first) & (first > 0)
        asked = np.zeros(batch, dtype=np.int64)
        while self._who(round, active, asked).any():
            basis, heights = [_scaled(residual, left)], np.zeros((self.restart + 1, self.restart, batch))
            made = np.zeros(batch, dtype=np.int64)
            for j in range(self.restart):
                who = self._who(round, active, asked) & (made == j)
                if not who.any():
                    break
                probes = [v.to(rhs.dtype) for v in basis[j][:-1]]  # combined, they are wider than half precision
                products = yield torch.stack([torch.zeros_like(rhs[0]), *probes]), who
                if products is None:
                    break
                asked, made = asked + who, made + who
                pulled = self._pull(weights, products, basis[j], u, history)
                moved = substitute(factors, pulled, damping)
                direction = [v - m for v, m in zip(basis[j], moved, strict=True)]
                for i in range(j + 1):
                    heights[i, j] = self._inner(basis[i], direction)
                    direction = _less(direction, basis[i], heights[i, j])
                heights[j + 1, j] = self._norm(direction)
                basis.append(_scaled(direction, heights[j + 1, j]))
                left_now = _remaining(heights, made, left)
                active = active & ~(who & ((left_now <= self.tolerance * first) | (heights[j + 1, j] <= 0)))
            if not made.any():
                break
            y, rest = _least_squares(heights, made, left)
            for i in range(int(made.max())):
                solution = _less(solution, basis[i], -y[i])
            residual = _combine(basis, rest)
            left = self._norm(residual)
            active = active & (made == self.restart)
        moves = [where_rows(asked > 0, s, b) for s, b in zip(solution, banded, strict=True)]
        plain = same_as_chain(round, weights, rhs, damping) & (asked == 0)
        return torch.stack(
            [
                where_rows(plain, round.chain[r + 1], (window.state_rows[r + 1] - move).to(rhs.dtype))
                for r, move in enumerate(moves)
            ]
        )

    def _who(self, round: Round, active: Bools, asked: Any) -> Bools:
        """Samples that may ask: not finished, with rounds to spend."""
        return np.asarray(active & (asked < self.iterations) & (round.spare > self.reserve), dtype=np.bool_)

    @staticmethod
    def _inner(a: Rows, b: Rows) -> Floats:
        return np.asarray(to_numpy([inner(x, y) for x, y in zip(a, b, strict=True)]).sum(axis=0))

    def _norm(self, rows: Rows) -> Floats:
        return np.sqrt(self._inner(rows, rows))

    @staticmethod
    def _pull(weights: RowWeights, products: torch.Tensor, v: Rows, u: Floats, history: int) -> torch.Tensor:
        """``W_f (G v - u v)``: what the outputs' own response adds, ``(P, B, *event)``."""
        rows = len(v)
        own = [torch.zeros_like(v[0])]
        for r in range(1, rows):
            own.append(products[r] - v[r - 1] * per_sample(u[r], v[r - 1]) if u[r].any() else products[r])
        out = []
        for r in range(rows):
            total = torch.zeros_like(v[0])
            for m in range(1, r + 1):
                factor = weights.f[r, history + m]
                if factor.any():
                    total = where_rows(factor != 0, total + own[m] * per_sample(factor, total), total)
            out.append(total)
        return torch.stack(out)


def _scaled(rows: Rows, norm: Floats) -> Rows:
    """Rows over a norm; zero where it is zero or not finite."""
    fine = np.isfinite(norm) & (norm > 0)
    factor = np.divide(1.0, norm, out=np.zeros_like(norm), where=fine)
    return [where_rows(fine, (row * per_sample(factor, row)).to(row.dtype), torch.zeros_like(row)) for row in rows]


def _less(rows: Rows, direction: Rows, factor: Floats) -> Rows:
    """``rows - factor * direction``."""
    factor = np.nan_to_num(factor, posinf=0.0, neginf=0.0)
    return [
        where_rows(factor != 0, (a - b * per_sample(factor, b)).to(a.dtype), a)
        for a, b in zip(rows, direction, strict=True)
    ]


def _combine(basis: list[Rows], weights: Floats) -> Rows:
    """``sum_i weights[i] basis[i]``."""
    out = [torch.zeros_like(row) for row in basis[0]]
    for i, rows in enumerate(basis):
        out = _less(out, rows, -weights[i])
    return out


def _least_squares(heights: Floats, made: Any, norm: Floats) -> tuple[Floats, Floats]:
    """``y (m, B)`` that minimises ``|norm e_1 - H y|`` with each sample's own number of columns; and what is left."""
    m, batch = heights.shape[1], heights.shape[2]
    y, rest = np.zeros((m, batch)), np.zeros((m + 1, batch))
    for b in range(batch):
        k = int(made[b])
        target = np.zeros(k + 1)
        target[0] = norm[b]
        h = heights[: k + 1, :k, b]
        if k and np.isfinite(h).all() and np.isfinite(target).all():
            y[:k, b] = np.linalg.lstsq(h, target, rcond=None)[0]
            target = target - h @ y[:k, b]
        rest[: k + 1, b] = target
    return y, rest


def _remaining(heights: Floats, made: Any, norm: Floats) -> Floats:
    """``(B,)`` norm of what the directions made so far leave."""
    return np.asarray(np.linalg.norm(_least_squares(heights, made, norm)[1], axis=0))
