"""Damping policies: three correct ones, and wrong ones made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from kit.mutants_a.records import Mutant, correct
from paracore import DampingPolicy, Problem, Round
from paracore.parts.options import integer, number
from paracore.window import Bools, Floats, rms, to_numpy

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Annealed(DampingPolicy):
    """``first * decay ** rounds`` on every row, by the rounds that the sample has taken part in.

    Attributes:
        first: factor before the first round.
        decay: what each round leaves of it, between 0 and 1.
    """

    first: float = attrs.field(default=1.0, validator=number(0.0, 1e6))
    decay: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    reference = "Levenberg 1944, doi:10.1090/qam/10666, with a fixed schedule"

    def factors(self, round: Round, state: Any) -> Floats:
        """``(P, B)``, the same on all rows of a sample."""
        return np.broadcast_to(self.first * self.decay**round.window.rounds, round.age.shape).copy()


@attrs.frozen
class Cautious(DampingPolicy):
    """A factor per row, raised where the one-step residual grew since the last round, lowered where it halved.

    Attributes:
        first: factor of entering rows.
        growth: what a factor is multiplied or divided by, at least 1.
        highest: largest factor.
    """

    first: float = attrs.field(default=0.05, validator=number(1e-6))
    growth: float = attrs.field(default=2.0, validator=number(1.0, 1e3))
    highest: float = attrs.field(default=10.0, validator=number(1e-6))

    reference = "Marquardt 1963, doi:10.1137/0111030, row by row"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Every row at its first factor, no residual seen."""
        shape, front = (rows, problem.batch), np.zeros(problem.batch, dtype=np.int64)
        return {"factor": np.full(shape, self.first), "norm": np.full(shape, np.nan), "front": front}

    def factors(self, round: Round, state: Any) -> Floats:
        """``(P, B)``."""
        factor = round.window.realign(state["factor"], state["front"], fill=self.first)
        return np.minimum(factor, self.highest)

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools | None, Any]:
        """Compare the residuals with the last round's."""
        window = round.window
        old = window.realign(state["norm"], state["front"], fill=np.nan)
        norm = np.where(window.valid, self._norm(round), np.nan)
        factor = self.factors(round, state)
        factor = np.where(norm > old, factor * self.growth, factor)
        factor = np.where(norm < 0.5 * old, factor / self.growth, factor)
        return None, {"factor": np.clip(factor, 1e-6, self.highest), "norm": norm, "front": window.front.copy()}

    def _norm(self, round: Round) -> Floats:
        return round.one_step_rms


@attrs.frozen
class Backtracking(DampingPolicy):
    """Undamped, unless a row would move by more than its size: such samples try again with larger factors.

    Attributes:
        limit: longest move of a row, in units of the size of the chain's state there.
        attempts: most trials sent back in a round, up to 8.
    """

    limit: float = attrs.field(default=1.0, validator=number(1e-3))
    attempts: int = attrs.field(default=4, validator=integer(0))

    retries: ClassVar[int] = 8
    reference = "Armijo 1966, doi:10.2140/pjm.1966.16.1, on the length of the step"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing tried."""
        none = np.zeros(problem.batch, dtype=np.int64)
        return {"factor": np.zeros((rows, problem.batch)), "front": none, "rounds": none - 1, "tries": none}

    def factors(self, round: Round, state: Any) -> Floats:
        """``(P, B)``: 0 in the first trial of a round."""
        window = round.window
        kept = window.realign(state["factor"], state["front"])
        return np.where((window.rounds == state["rounds"])[None, :], kept, 0.0)

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools | None, Any]:
        """Send back what moves too far."""
        window, factor = round.window, self.factors(round, state)
        tries = np.where(window.rounds == state["rounds"], state["tries"], 0)
        moved = to_numpy([rms(row - old) for row, old in zip(trial, window.state_rows[1:], strict=True)])
        retry = self._again((moved > self.limit * round.size) & window.valid, tries)
        factor = np.where(retry, np.maximum(2.0 * factor, 0.5), factor)
        tries = tries + retry.any(axis=0)
        return retry, {"factor": factor, "front": window.front.copy(), "rounds": window.rounds.copy(), "tries": tries}

    def _again(self, wild: Bools, tries: Any) -> Bools:
        """``(P, B)`` rows to try again."""
        return np.asarray(wild & (tries < min(self.attempts, self.retries))[None, :])


# -- mutants ----------------------------------------------------------------------------------------------------------

_CALLS: Iterator[int] = itertools.count()


@attrs.frozen
class CountedCalls(Annealed):
    __doc__ = Annealed.__doc__

    def factors(self, round: Round, state: Any) -> Floats:
        """By the calls made so far."""
        return np.full(round.age.shape, self.first * self.decay ** next(_CALLS))


@attrs.frozen
class Dithered(Annealed):
    __doc__ = Annealed.__doc__

    def factors(self, round: Round, state: Any) -> Floats:
        """With a little noise against ties."""
        return super().factors(round, state) * np.random.uniform(0.9, 1.1, round.age.shape)


@attrs.frozen
class BelowZero(Annealed):
    __doc__ = Annealed.__doc__

    def factors(self, round: Round, state: Any) -> Floats:
        """Less than nothing after a few rounds."""
        return super().factors(round, state) - 0.1


@attrs.frozen
class SaysNull(Annealed):
    __doc__ = Annealed.__doc__

    null = True


@attrs.frozen
class KeepsAll(Cautious):
    __doc__ = Cautious.__doc__

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """With an empty past."""
        return {**super().start(problem, rows), "past": []}

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools | None, Any]:
        """Keep every round's residuals."""
        retry, new = super().review(round, trial, state)
        return retry, {**new, "past": [*state["past"], new["norm"]]}


@attrs.frozen
class SameState(Cautious):
    __doc__ = Cautious.__doc__

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools | None, Any]:
        """The old state is brought up to date."""
        retry, new = super().review(round, trial, state)
        state.update(new)
        return retry, state


@attrs.frozen
class RowAfter(Cautious):
    __doc__ = Cautious.__doc__

    def _norm(self, round: Round) -> Floats:
        norms = round.one_step_rms
        return np.concatenate([norms[1:], norms[-1:]])


@attrs.frozen
class AnyAgain(Backtracking):
    __doc__ = Backtracking.__doc__

    def _again(self, wild: Bools, tries: Any) -> Bools:
        return np.repeat(super()._again(wild, tries).any(axis=1, keepdims=True), wild.shape[1], axis=1)


@attrs.frozen
class NoState(Backtracking):
    __doc__ = Backtracking.__doc__

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> Any:
        """The rows alone."""
        return super().review(round, trial, state)[0]


ORIGINALS = [
    correct("damping:annealed", "damping", lambda: Annealed),
    correct("damping:cautious", "damping", lambda: Cautious),
    correct("damping:backtracking", "damping", lambda: Backtracking),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str, runs: str = "yes") -> Mutant:
    return Mutant(f"damping:{name}", "damping", lambda: part, breaks, contract, f"damping:{original}", runs)


MUTANTS = [
    _wrong("counted-calls", CountedCalls, "stateless", "a module's counter does not survive a checkpoint", "annealed"),
    _wrong("dithered", Dithered, "deterministic", "no draw comes from numpy's global generator", "annealed"),
    _wrong("below-zero", BelowZero, "range", "factors are not negative", "annealed"),
    _wrong("says-null", SaysNull, "capability", "null means that the part does nothing and may be skipped", "annealed"),
    _wrong("keeps-all", KeepsAll, "plain-state", "a state does not grow with the rounds", "cautious"),
    _wrong("same-state", SameState, "read-only", "review returns a new state and leaves the old one", "cautious"),
    _wrong("row-after", RowAfter, "causal", "a row's factor does not hear of the row after it", "cautious"),
    _wrong("any-again", AnyAgain, "batch", "a sample is not sent back for its mates' moves", "backtracking"),
    _wrong("no-state", NoState, "shape", "review returns (retry, state)", "backtracking", "no"),
]
