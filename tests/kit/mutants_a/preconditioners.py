"""Preconditioners: two correct ones, and wrong ones made of them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from kit.mutants_a.records import Mutant, correct
from paracore import Preconditioner, Round
from paracore.parts.options import number
from paracore.window import Floats, Ints, per_sample, rms, to_numpy

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Limited(Preconditioner):
    """Residuals that are large against their state are shortened: ``R min(1, limit size / |R|)``, root mean squares.

    Attributes:
        limit: largest residual, in units of the sum of the sizes of the row's state and of the chain's.
    """

    limit: float = attrs.field(default=0.5, validator=number(1e-3))

    reference = "gradient clipping: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1, per row"

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """``(P, B, *event)``, each row and sample shortened by itself."""
        return torch.stack([self._shortened(round, r, row) for r, row in enumerate(rhs)])

    def _shortened(self, round: Round, r: int, row: torch.Tensor) -> torch.Tensor:
        norm = self._norm(row)
        bound = self._bound(round, r)
        share = np.divide(bound, norm, out=np.ones_like(norm), where=np.isfinite(norm) & (norm > bound))
        return (row * per_sample(share, row)).to(row.dtype)

    def _norm(self, row: torch.Tensor) -> Floats:
        """``(B,)``."""
        return to_numpy([rms(row)])[0]

    def _bound(self, round: Round, r: int) -> Floats:
        """``(B,)``."""
        return self.limit * (round.size[r] + to_numpy([rms(round.window.state_rows[r + 1])])[0])


@attrs.frozen
class LevelWeighted(Preconditioner):
    """Residuals of noisy rows are shortened: ``R / (1 + strength sigma^2 / (alpha^2 + sigma^2))``.

    Attributes:
        strength: of the shortening; 0 is none.
    """

    strength: float = attrs.field(default=0.5, validator=number(0.0, 10.0))

    needs = frozenset({"levels"})
    reference = "Song et al. 2021, arXiv:2011.13456, Appendix C, for the weights"

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """``(P, B, *event)``, by the level of each row's state."""
        levels, nodes = round.window.scheme.levels, self._nodes(round)
        assert levels is not None
        alpha, sigma = levels.alpha[nodes], levels.sigma[nodes]
        shares = 1.0 / (1.0 + self.strength * sigma**2 / (alpha**2 + sigma**2))
        return torch.stack([(row * per_sample(shares[r], row)).to(row.dtype) for r, row in enumerate(rhs)])

    def _nodes(self, round: Round) -> Ints:
        """``(P, B)`` node of each row's state, at most N."""
        return np.minimum(round.window.nodes + 1, round.window.scheme.steps)


# -- mutants ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Euclidean(Limited):
    __doc__ = Limited.__doc__

    def _norm(self, row: torch.Tensor) -> Floats:
        return to_numpy([torch.linalg.vector_norm(row.flatten(1), dim=1, dtype=torch.float64)])[0]


@attrs.frozen
class LargestOfBatch(Limited):
    __doc__ = Limited.__doc__

    def _norm(self, row: torch.Tensor) -> Floats:
        norms = to_numpy([rms(row)])[0]
        return np.full_like(norms, norms.max())


@attrs.frozen
class ThroughNumpy(Limited):
    __doc__ = Limited.__doc__

    def _shortened(self, round: Round, r: int, row: torch.Tensor) -> torch.Tensor:
        norm, bound = self._norm(row), self._bound(round, r)
        share = np.divide(bound, norm, out=np.ones_like(norm), where=np.isfinite(norm) & (norm > bound))
        numbers = (row.float() if row.dtype == torch.bfloat16 else row).cpu().numpy()
        numbers *= share.reshape((-1,) + (1,) * (row.ndim - 1)).astype(numbers.dtype)
        return torch.from_numpy(numbers).to(row)


@attrs.frozen
class AddedEpsilon(Limited):
    __doc__ = Limited.__doc__

    def _shortened(self, round: Round, r: int, row: torch.Tensor) -> torch.Tensor:
        return super()._shortened(round, r, row + 1e-3)


class Warming(Limited):
    __doc__ = Limited.__doc__

    def _bound(self, round: Round, r: int) -> Floats:
        calls = getattr(self, "_calls", 0) + 1
        object.__setattr__(self, "_calls", calls)
        return super()._bound(round, r) * min(1.0, calls / 40.0)


@attrs.frozen
class Negative(LevelWeighted):
    __doc__ = LevelWeighted.__doc__

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """With the residual's sign turned."""
        return -super().apply(round, rhs, damping, state)


@attrs.frozen
class BeyondTheEnd(LevelWeighted):
    __doc__ = LevelWeighted.__doc__

    def _nodes(self, round: Round) -> Ints:
        return np.asarray(round.window.nodes + 1)


@attrs.frozen
class UndeclaredLevels(LevelWeighted):
    __doc__ = LevelWeighted.__doc__

    needs = frozenset()


ORIGINALS = [
    correct("preconditioner:limited", "preconditioner", lambda: Limited),
    correct("preconditioner:level-weighted", "preconditioner", lambda: LevelWeighted),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str, runs: str = "yes") -> Mutant:
    return Mutant(
        f"preconditioner:{name}", "preconditioner", lambda: part, breaks, contract, f"preconditioner:{original}", runs
    )


MUTANTS = [
    _wrong("euclidean", Euclidean, "scale", "norms are root mean squares, whatever the event's length", "limited"),
    _wrong("largest-of-batch", LargestOfBatch, "batch", "a sample is shortened by its own residual", "limited"),
    _wrong(
        "through-numpy", ThroughNumpy, "read-only", "arrays that share memory with a view are not written", "limited"
    ),
    _wrong("added-epsilon", AddedEpsilon, "zero", "a zero residual stays zero", "limited"),
    _wrong("warming", Warming, "stateless", "the answer does not depend on how often the part was called", "limited"),
    _wrong("negative", Negative, "convergence", "the residual keeps its direction", "level-weighted"),
    _wrong(
        "beyond-the-end",
        BeyondTheEnd,
        "range",
        "rows beyond N are there while fronts differ",
        "level-weighted",
        "stopped where fronts differ near the end",
    ),
    _wrong("undeclared-levels", UndeclaredLevels, "capability", "who reads levels needs 'levels'", "level-weighted"),
]
