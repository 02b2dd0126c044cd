"""Damping policies: by gain ratio, and by the ratio of step to residual."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from paracore import Problem
from paracore.errors import ConfigurationError
from paracore.parts.options import integer, number, one_of
from paracore.strategies import DampingPolicy
from paracore.window import Bools, Floats, Round, to_numpy
from paracore_ropa.band import inner

__all__ = ["GainRatio", "StepRatio", "move_norms"]

MOST_RETRIES = 64


def move_norms(round: Round, trial: torch.Tensor) -> Floats:
    """``(P, B)`` Euclidean norms of the trial's moves; 0 on rows beyond N."""
    rows = [trial[r] - round.window.state_rows[r + 1] for r in range(len(trial))]
    norms = np.sqrt(np.nan_to_num(to_numpy([inner(row, row) for row in rows])))
    return np.where(round.window.valid, norms, 0.0)


@attrs.frozen
class GainRatio(DampingPolicy):
    """A factor per row, doubled where the last step gained little, halved where it gained much.

    The gain of a row is, by ``ratio``:

    * ``"listing"``: ``(|R_old| - |R|) / |R_old|``, as in the paper's listing,
    * ``"takeaway"``: ``(|R_old| - |R|) / (dx . (lambda dx - R_old))``, as Takeaway 2.6 prints it: a norm over a square,
      so that it depends on the unit of the states (Levenberg and Marquardt's has squares in both).

    ``R`` is the one-step residual, which stays comparable while the look-ahead changes. Rows that have just entered,
    and rows whose old residual was zero, keep their factor. A row ahead of the front gains nothing before its past has
    settled, so its factor grows to ``highest`` unless the window is short: that is why the listing stalls.

    Attributes:
        first: factor of entering rows: 1e-3 in Section 4.1, 1e-2 in the listing.
        low: gains below it raise the factor.
        high: gains above it lower the factor.
        change: what the factor is multiplied or divided by.
        lowest, highest: bounds of the factor.
        ratio: ``"listing"`` or ``"takeaway"``.
    """

    first: float = attrs.field(default=1e-3, validator=number(0.0))
    low: float = attrs.field(default=0.1, validator=number(-float("inf")))
    high: float = attrs.field(default=0.5, validator=number(-float("inf")))
    change: float = attrs.field(default=2.0, validator=number(1.0))
    lowest: float = attrs.field(default=1e-4, validator=number(0.0))
    highest: float = attrs.field(default=1e2, validator=number(0.0))
    ratio: str = attrs.field(default="listing", validator=one_of("listing", "takeaway"))

    reference = "ROPA, Takeaway 2.6 and the listing of Appendix B (adapt_damping)"

    def __attrs_post_init__(self) -> None:
        if not self.lowest <= self.first <= self.highest:
            raise ConfigurationError(
                f"GainRatio: first is {self.first}, outside lowest = {self.lowest} and highest = {self.highest}; "
                "choose it between them"
            )
        if self.low >= self.high:
            raise ConfigurationError(
                f"GainRatio: low is {self.low} and high {self.high}; low must be smaller (the paper: 0.1 and 0.5)"
            )

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Every row at its first factor, no residual seen."""
        shape = (rows, problem.batch)
        return {
            "factor": np.full(shape, self.first),
            "norm": np.full(shape, np.nan),
            "expected": np.full(shape, np.nan),
            "front": np.zeros(problem.batch, dtype=np.int64),
        }

    def _norms(self, round: Round) -> Floats:
        size = round.chain[0][0].numel() ** 0.5
        return np.asarray(np.where(round.window.valid, round.one_step_rms * size, np.nan))

    def factors(self, round: Round, state: Any) -> Floats:
        """The factors, moved by what the last step gained."""
        window = round.window
        factor = window.realign(state["factor"], state["front"], fill=self.first)
        old = window.realign(state["norm"], state["front"], fill=np.nan)
        below = old if self.ratio == "listing" else window.realign(state["expected"], state["front"], fill=np.nan)
        known = np.isfinite(old) & np.isfinite(below) & (old > 0) & (below != 0)
        gain = np.divide(old - self._norms(round), below, out=np.full(old.shape, np.nan), where=known)
        with np.errstate(invalid="ignore"):
            factor = np.where(gain < self.low, factor * self.change, factor)
            factor = np.where(gain > self.high, factor / self.change, factor)
        return np.asarray(np.clip(factor, self.lowest, self.highest))

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[None, Any]:
        """Remember the residuals, and what the step was expected to gain."""
        window = round.window
        expected = np.full(window.nodes.shape, np.nan)
        if self.ratio == "takeaway":
            moves = [trial[r] - window.state_rows[r + 1] for r in range(window.rows)]
            squares = to_numpy([inner(m, m) for m in moves])
            along = to_numpy([inner(m, round.one_step[r]) for r, m in enumerate(moves)])
            expected = round.damping * squares - along
        factor = self.factors(round, state)
        front = window.front.copy()
        return None, {"factor": factor, "norm": self._norms(round), "expected": expected, "front": front}


@attrs.frozen
class StepRatio(DampingPolicy):
    """A factor raised until the step is small against the residual: ``|dx| < limit |R|`` (ROPA, Section 4.1).

    Each round starts at ``first`` and multiplies by ``change`` where the ratio is not met, at most ``attempts`` times;
    a trial costs a substitution, no network call. ``R`` is the look-ahead residual.

    On a row that follows no other, ``dx = R / (1 + lambda)``: the ratio 0.3 then asks for ``lambda >= 2.33``, that is a
    step of at most 30 % of Picard's, in every round, however well the row is conditioned; with factors of 2 from 1e-3
    the first that meets it is 4.1, a step of 20 %. A row that follows others must be damped more. The solve then moves
    little beyond the exact first row.

    Attributes:
        first: first factor (1e-3).
        change: what it is multiplied by (2).
        limit: largest ratio (0.3).
        attempts: most trials sent back in a round, up to 64.
        scope: ``"row"``: each row by its own ratio; ``"sample"``: all rows of a sample by the ratio over its window.
        carry: begin a round at the last round's factors divided by ``change``. Needed where a round has one trial only
            (``gmres``).
    """

    first: float = attrs.field(default=1e-3, validator=number(0.0))
    change: float = attrs.field(default=2.0, validator=number(1.0))
    limit: float = attrs.field(default=0.3, validator=number(0.0))
    attempts: int = attrs.field(default=20, validator=integer(0))
    scope: str = attrs.field(default="row", validator=one_of("row", "sample"))
    carry: bool = False

    retries: ClassVar[int] = MOST_RETRIES
    reference = "ROPA, Section 4.1 (hyperparameter settings) and Algorithm 1, line 31"

    def __attrs_post_init__(self) -> None:
        if self.first == 0 or self.change == 1:
            raise ConfigurationError(
                f"StepRatio: first is {self.first} and change {self.change}; no multiple of them would ever grow: "
                "choose first > 0 and change > 1 (the paper: 1e-3 and 2)"
            )
        if self.attempts > MOST_RETRIES:
            raise ConfigurationError(f"StepRatio: attempts is {self.attempts}; at most {MOST_RETRIES} are made")

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Every row at its first factor."""
        none = np.zeros(problem.batch, dtype=np.int64)
        factor = np.full((rows, problem.batch), self.first)
        return {"factor": factor, "front": none, "rounds": none - 1, "tries": none}

    def _current(self, round: Round, state: Any) -> tuple[Floats, Any]:
        """``(factors, tries)`` of this round."""
        window = round.window
        again = window.rounds == state["rounds"]
        kept = window.realign(state["factor"], state["front"], fill=self.first)
        fresh = np.maximum(kept / self.change, self.first) if self.carry else np.full(kept.shape, self.first)
        return np.where(again[None, :], kept, fresh), np.where(again, state["tries"], 0)

    def factors(self, round: Round, state: Any) -> Floats:
        """The factors of this trial."""
        return self._current(round, state)[0]

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools, Any]:
        """Send rows back whose step is too long, with a larger factor."""
        window = round.window
        factor, tries = self._current(round, state)
        residual = to_numpy([inner(row, row) for row in round.residual]) ** 0.5
        moved = move_norms(round, trial)
        if self.scope == "sample":
            residual = np.broadcast_to(np.sqrt((residual**2).sum(axis=0)), moved.shape)
            moved = np.broadcast_to(np.sqrt((moved**2).sum(axis=0)), moved.shape)
        wanted = window.valid & (residual > 0) & (moved >= self.limit * residual)
        grown = np.where(wanted, factor * self.change, factor)
        retry = wanted & (tries < self.attempts)[None, :]
        going = retry.any(axis=0)
        # Samples that were not sent back before keep their trial: their factors are not to move any more.
        done = (window.rounds == state["rounds"]) & (state["tries"] < 0)
        factor = np.where((going | self.carry) & ~done, grown, factor)
        tries = np.where(done, -1, np.where(going, tries + 1, -1))
        retry = retry & ~done[None, :]
        return retry, {"factor": factor, "front": window.front.copy(), "rounds": window.rounds.copy(), "tries": tries}
