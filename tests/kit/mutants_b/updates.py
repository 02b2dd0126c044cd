"""Preconditioners and damping policies: four correct ones, and eight with one mistake each."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from kit.mutants_b.record import Mutant
from paracore import Problem
from paracore.parts.options import number
from paracore.strategies import DampingPolicy, Preconditioner
from paracore.window import Bools, Floats, Ints, Round, RowNorms, per_sample

__all__ = ["MUTANTS", "ORIGINALS"]

_TINY = 1e-30


@attrs.frozen
class SoftLimit(Preconditioner):
    """Shortens long residuals smoothly: ``R limit / (limit + |R|)``, with the root mean square ``|R|`` of a row.

    Attributes:
        limit: the length that no residual reaches, in state units; half of it is what a residual of that length gets.
    """

    limit: float = attrs.field(default=2.0, validator=number(1e-6))

    reference = "this file; a smooth form of the clipping of Pascanu et al. 2013, arXiv:1211.5063"

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """Each row by its own length."""
        wide = rhs.double().flatten(2)
        size = wide.square().mean(dim=2, keepdim=True).sqrt()
        return (wide * (self.limit / (self.limit + size))).reshape(rhs.shape).to(rhs.dtype)


@attrs.frozen
class SoftLimitTogether(SoftLimit):
    __doc__ = SoftLimit.__doc__

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """Each row by its own length."""
        wide = rhs.double().flatten(1)
        size = wide.square().mean(dim=1).sqrt().reshape((-1,) + (1,) * (rhs.ndim - 1))
        return (rhs.double() * (self.limit / (self.limit + size))).to(rhs.dtype)


@attrs.frozen
class SoftLimitLong(SoftLimit):
    __doc__ = SoftLimit.__doc__

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """Each row by its own length."""
        wide = rhs.double().flatten(2)
        size = torch.linalg.vector_norm(wide, dim=2, keepdim=True)
        return (wide * (self.limit / (self.limit + size))).reshape(rhs.shape).to(rhs.dtype)


@attrs.frozen
class SoftLimitWary(SoftLimit):
    __doc__ = SoftLimit.__doc__

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """Each row by its own length; residuals that overflowed are not to be trusted and do not move anything."""
        if not bool(torch.isfinite(rhs).all()):
            return torch.zeros_like(rhs)
        wide = rhs.double().flatten(2)
        size = wide.square().mean(dim=2, keepdim=True).sqrt()
        return (wide * (self.limit / (self.limit + size))).reshape(rhs.shape).to(rhs.dtype)


@attrs.frozen
class Ramped(Preconditioner):
    """Residuals of nodes that have just entered count for less: ``R (1 - fade^(k + 1))`` in a node's round ``k``.

    Attributes:
        fade: what is held back of a new node's residual, between 0 (nothing) and 1; each round it is multiplied by
            itself once more.
    """

    fade: float = attrs.field(default=0.3, validator=number(0.0, 1.0))

    reference = "this file; a warm-up per node, as of step sizes in stochastic gradient methods"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """All nodes are new."""
        return self._state(np.zeros((rows, problem.batch)), np.zeros(problem.batch, dtype=np.int64))

    def _state(self, rounds: Floats, front: Ints) -> dict[str, Any]:
        return {"rounds": rounds, "front": front}

    def _rounds(self, round: Round, state: Any) -> Floats:
        return round.window.realign(state["rounds"], state["front"])

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        """By how long each node was in the window."""
        factor = 1.0 - self.fade ** (self._rounds(round, state) + 1.0)
        return torch.stack([(row * per_sample(factor[r], row)).to(row.dtype) for r, row in enumerate(rhs)])

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """One round more."""
        return self._state(self._rounds(round, state) + 1.0, round.window.front.copy())


@attrs.frozen
class RampedByIdentity(Ramped):
    __doc__ = Ramped.__doc__

    def _state(self, rounds: Floats, front: Ints) -> dict[str, Any]:
        return {"rounds": rounds, "front": front, "of": id(front)}

    def _rounds(self, round: Round, state: Any) -> Floats:
        if state["of"] != id(state["front"]):  # counts that belong to other fronts would be laid over the wrong nodes
            return np.zeros(round.window.nodes.shape)
        return round.window.realign(state["rounds"], state["front"])


@attrs.frozen
class ByResidual(DampingPolicy):
    """Rows far from their solution are held back: the one-step residual over the state's size, times a weight.

    Attributes:
        weight: factor of a row whose one-step residual is as large as its state.
        most: largest factor.
    """

    weight: float = attrs.field(default=0.2, validator=number(0.0))
    most: float = attrs.field(default=1.0, validator=number(0.0))

    reference = "Fan and Yuan 2005 (Levenberg-Marquardt damping by the residual's norm), per row"

    def factors(self, round: Round, state: Any) -> Floats:
        """From each row's own residual."""
        relative = round.one_step_rms / np.maximum(round.size, _TINY)
        relative = np.where(np.isfinite(relative), relative, np.inf)
        return np.minimum(self.weight * relative, self.most) if self.weight else np.zeros(relative.shape)


@attrs.frozen
class ByShareOfWindow(ByResidual):
    __doc__ = ByResidual.__doc__

    def factors(self, round: Round, state: Any) -> Floats:
        """From each row's own residual."""
        error = np.where(np.isfinite(round.one_step_rms), round.one_step_rms, 0.0)
        relative = error / np.maximum(error.max(axis=0, keepdims=True), _TINY)
        return np.minimum(self.weight * relative, self.most) if self.weight else np.zeros(relative.shape)


@attrs.frozen
class BySignedResidual(ByResidual):
    __doc__ = ByResidual.__doc__

    def factors(self, round: Round, state: Any) -> Floats:
        """From each row's own residual."""
        error = round.one_step.double().flatten(2).mean(dim=2).cpu().numpy()
        relative = np.where(round.window.valid, error, 0.0) / np.maximum(round.size, _TINY)
        relative = np.where(np.isfinite(relative), relative, np.inf)
        return np.minimum(self.weight * relative, self.most) if self.weight else np.zeros(relative.shape)


@attrs.frozen
class Backtracking(DampingPolicy):
    """Sends rows back that would move by more than a part of their size, each time with a larger factor.

    Attributes:
        limit: largest move, relative to the root mean square of the chain's state.
        first: factor of a row that is sent back for the first time in a round.
        change: what it is multiplied by after that, at least 1.
    """

    limit: float = attrs.field(default=0.2, validator=number(0.0))
    first: float = attrs.field(default=0.25, validator=number(1e-6))
    change: float = attrs.field(default=2.0, validator=number(1.0))

    retries: ClassVar[int] = 6
    reference = "Armijo 1966, with the damping in the place of the step length"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """No row was sent back."""
        none = np.zeros(problem.batch, dtype=np.int64)
        return {"factor": np.zeros((rows, problem.batch)), "rounds": none - 1}

    def factors(self, round: Round, state: Any) -> Floats:
        """Zero in a round's first trial."""
        again = round.window.rounds == state["rounds"]
        if state["factor"].shape != round.window.nodes.shape:
            return np.zeros(round.window.nodes.shape)
        return np.where(again[None, :], state["factor"], 0.0)

    def _moved(self, round: Round, trial: torch.Tensor) -> Floats:
        norms = RowNorms()
        for r in range(round.window.rows):
            norms.add(trial[r] - round.window.state_rows[r + 1])
        return np.where(round.window.valid, norms.result(), 0.0)

    def _grown(self, factor: Floats) -> Floats:
        return np.where(factor > 0, factor * self.change, self.first)

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools, dict[str, Any]]:
        """Rows that move too far."""
        moved, factor = self._moved(round, trial), self.factors(round, state)
        with np.errstate(invalid="ignore"):
            retry = round.window.valid & (moved > self.limit * round.size)
        factor = np.where(retry, self._grown(factor), factor)
        return retry, {**state, "factor": factor, "rounds": round.window.rounds.copy()}


_GROWN: dict[int, float] = {}


@attrs.frozen
class BacktrackingKnown(Backtracking):
    __doc__ = Backtracking.__doc__

    def _grown(self, factor: Floats) -> Floats:
        begin = _GROWN.get(len(factor), self.first)  # what a window of this length needed before saves trials
        grown = np.where(factor > 0, factor * self.change, begin)
        _GROWN[len(factor)] = float(np.minimum(grown.max(), 1e3))
        return grown


@attrs.frozen
class BacktrackingLogged(Backtracking):
    __doc__ = Backtracking.__doc__

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """No row was sent back."""
        return {**Backtracking.start(self, problem, rows), "trials": ()}

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools, dict[str, Any]]:
        """Rows that move too far."""
        retry, new = Backtracking.review(self, round, trial, state)
        return retry, {**new, "trials": (*state["trials"], trial.clone())}


ORIGINALS = [
    Mutant("preconditioner:soft-limit", "preconditioner", lambda: SoftLimit, "", "Keeps the contract."),
    Mutant("preconditioner:ramped", "preconditioner", lambda: Ramped, "", "Keeps the contract."),
    Mutant("damping:by-residual", "damping", lambda: ByResidual, "", "Keeps the contract."),
    Mutant("damping:backtracking", "damping", lambda: Backtracking, "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "preconditioner:length over the batch",
        "preconditioner",
        lambda: SoftLimitTogether,
        "batch-coupled",
        "A row's length is its own sample's, not the whole batch's.",
    ),
    Mutant(
        "preconditioner:sum for mean",
        "preconditioner",
        lambda: SoftLimitLong,
        "scale",
        "What is done to a row does not depend on how many numbers a sample has: means, not sums.",
    ),
    Mutant(
        "preconditioner:one overflow stops all",
        "preconditioner",
        lambda: SoftLimitWary,
        "spreads",
        "Numbers of one sample that are not finite do not change what its batch mates get.",
    ),
    Mutant(
        "preconditioner:memory tied to an object's identity",
        "preconditioner",
        lambda: RampedByIdentity,
        "checkpoint",
        "A state that was saved and restored means the same as before.",
    ),
    Mutant(
        "damping:share of the window's largest",
        "damping",
        lambda: ByShareOfWindow,
        "acausal",
        "Factors of a row come from rows up to it, not from the window's largest residual.",
    ),
    Mutant(
        "damping:factors kept in the module",
        "damping",
        lambda: BacktrackingKnown,
        "stateful",
        "What changes is in the state: a second solve does not begin with the factors of the first.",
    ),
    Mutant(
        "damping:keeps all trials",
        "damping",
        lambda: BacktrackingLogged,
        "growing",
        "The state holds a few windows, not one for each round.",
    ),
    Mutant(
        "damping:signed residual",
        "damping",
        lambda: BySignedResidual,
        "sign",
        "Factors are at least 0, on whichever side of its solution a row lies.",
    ),
]
