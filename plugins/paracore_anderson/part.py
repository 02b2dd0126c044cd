"""Anderson acceleration as a Jacobian approximation: an inverse Jacobian from the window's own past."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import attrs
import numpy as np
import torch

from paracore import Problem
from paracore.parts.options import integer, one_of
from paracore.schemes import RowWeights
from paracore.strategies import JacobianApproximation
from paracore.window import Bools, Floats, Round, per_sample, small_solve
from paracore_anderson.history import Differences, differences, empty, record
from paracore_anderson.options import positive

__all__ = ["Anderson"]


@attrs.frozen
class Anderson(JacobianApproximation):
    """``X - R - (dX - dR) gamma``, ``gamma = (dR^T dR + regularisation)^-1 dR^T R``, per sample.

    ``dX, dR`` are differences of the last iterates and of their look-ahead residuals. In the triangular form each row
    has a ``gamma`` of its own, from sums over itself and the rows before it in the window (the noise end), so that no
    row is moved by what later rows do. The front's row is not accelerated. History follows a row as the window slides
    and is dropped when the row's look-ahead changes. A preconditioned residual replaces ``R`` in the step, not in
    ``gamma``; a damping ``d`` divides the move by ``1 + d``.

    Attributes:
        memory: iterates used, the newest included, so ``memory - 1`` differences; 1 is the plain fixed-point step.
        regularisation: added to the diagonal of each Gram matrix, in units of a squared residual (absolute).
        gram: ``"triangular"`` (ParaTAA) or ``"window"`` (one ``gamma`` for all rows: Anderson's own).
        history: ``"newest"``: of a row that joined late its own differences are used; ``"oldest"``: the first
            columns of the zero-padded history, as in the authors' code, which are not that row's own differences.
    """

    memory: int = attrs.field(default=2, validator=integer(1))
    regularisation: float = attrs.field(default=1e-3, validator=positive)
    gram: str = attrs.field(default="triangular", validator=one_of("triangular", "window"))
    history: str = attrs.field(default="newest", validator=one_of("newest", "oldest"))

    reads_residuals = True
    reference = "Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Section 3 and Algorithm 1; Anderson 1965"

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """The triangular form only: one ``gamma`` for the whole window reads all of its rows."""
        return self.gram == "triangular"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing remembered."""
        return empty()

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        """``(P, B, *event)`` next states."""
        assert rhs is not None
        past = differences(round, state)
        gamma, used = self._coefficients(round, past)
        out = []
        for r, residual in enumerate(rhs):
            old = round.window.state_rows[r + 1]
            move = residual.to(past.states[0][r].dtype) if past.states else residual
            for i in range(len(past.states)):
                if r > 0 and used[i, r].any():
                    weight = gamma[r, :, i].to(move.dtype).reshape((-1,) + (1,) * (move.ndim - 1))
                    move = move + (past.states[i][r] - past.residuals[i][r]) * weight
            out.append((old - move / per_sample(1.0 + damping[r], move)).to(old.dtype))
        return torch.stack(out)

    def observe(self, round: Round, state: Any) -> Any:
        """Remember the round's iterate and residual."""
        return record(round, state, self.memory)

    def _coefficients(self, round: Round, past: Differences) -> tuple[torch.Tensor, Bools]:
        """``gamma (P, B, D)`` in float64, and which differences ``(D, P, B)`` each row uses."""
        rows, batch, total = round.window.rows, round.window.batch, len(past.states)
        device = round.residual.device
        if total == 0:
            return torch.zeros((rows, batch, 0), dtype=torch.float64, device=device), past.known
        used, counted = past.known, past.known
        if self.history == "oldest":
            used = np.arange(total)[:, None, None] < past.known.sum(axis=0)[None]
            counted = np.ones_like(past.known)
        gram = torch.zeros((rows, batch, total, total), dtype=torch.float64, device=device)
        right = torch.zeros((rows, batch, total), dtype=torch.float64, device=device)
        for r in range(rows):
            newest = round.residual[r]
            for i in range(total):
                right[r, :, i] = _dot(past.residuals[i][r], newest)
                for j in range(i + 1):
                    gram[r, :, i, j] = gram[r, :, j, i] = _dot(past.residuals[i][r], past.residuals[j][r])
        gram, right = _masked(gram, right, counted)
        gram, right = (torch.stack(list(accumulate(rows))) for rows in (gram, right))  # each row and those before it
        if self.gram == "window":
            gram, right = gram[-1:].expand_as(gram), right[-1:].expand_as(right)
        gram, right = _masked(gram, right, used)
        gram = gram + self.regularisation * torch.eye(total, dtype=torch.float64, device=device)
        return small_solve(gram, right[..., None])[..., 0], used


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``(B,)`` products per sample in float64."""
    return (a.double() * b.double()).flatten(1).sum(1)


def _masked(gram: torch.Tensor, right: torch.Tensor, mask: Bools) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with zeros where a difference is masked out; ``mask (D, P, B)``."""
    keep = torch.from_numpy(np.ascontiguousarray(mask.transpose(1, 2, 0))).to(gram.device)
    zero = torch.zeros((), dtype=gram.dtype, device=gram.device)
    both = keep[..., :, None] & keep[..., None, :]
    return torch.where(both, gram, zero), torch.where(keep, right, zero)
