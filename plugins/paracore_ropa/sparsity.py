"""Sparsity by residuals: rows that interpolation covers are not evaluated."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import numpy as np
import torch

from paracore import Problem
from paracore.errors import ConfigurationError
from paracore.interpolation import between, clock, form_outputs, interpolated, known_rows, neighbours
from paracore.parts.options import integer, number
from paracore.strategies import Selection
from paracore.window import Bools, Floats, Ints, Round, RowNorms, Window

__all__ = ["ResidualSparsity"]

_GROWTH = 2.0
"""Early errors grow by ``exp(2 tau)``, ``tau = sigma / (alpha + sigma)``: the error target's growth at its calmest."""

_WIDEST = 4
"""Largest spacing, where most rows are skipped."""

_FEW = 0.06
"""Windows below that part of N skip most rows."""

_ROUGH, _SMOOTH = 2.0, 8.0
"""Shares: of stochastic schemes, of others."""


@attrs.frozen
class ResidualSparsity(Selection):
    """Evaluates rows at a spacing that residuals widen and narrow, per sample; the rows between are interpolated.

    Rows with an evaluated output are **knots**. The residual of a knot is how badly its neighbours' outputs predict it,
    as an error of the sample: ``cost = |f - interpolated| * response * exp(2 tau) / |x|``, with the table's response to
    an output error. Errors of different rows point different ways and add in quadrature, so a row may cost about

        budget = share * tolerance / sqrt(N)

    (costs are estimated high, so that shares above 1 are usual). The spacing
    narrows by one where the knots' mean cost exceeds ``alpha`` budgets and widens by one where it is below ``beta``
    budgets: Eq. 13 of the paper, with coupling read as evaluations and the mean residual replaced by what the sample
    can bear. It begins at 1.

    A round evaluates the front, then, from the front on, what it can afford of: knots whose state has moved since they
    were evaluated, new knots where the next one lies further away than the spacing, and new ones beyond the last, up to
    ``reach`` nodes ahead; what is left then goes to skipped rows, from the front on. A knot is kept in place until it
    is accepted: a stale output blocks the front, and only a new evaluation mends it. Knots that have moved by less than
    ``settled`` times the largest gap accepted lately are not evaluated again. Rounds are dense until one was saved, and
    always at tolerance 0.

    The stopping rule does not see interpolation errors: the budget holds them down, in proportion to the tolerance.
    Trained networks are rough from node to node (on the digits, second differences of outputs are as large as first
    ones over most of the trajectory), so that the error of a skipped row depends little on the spacing.

    Attributes:
        widest: largest spacing; 0 is 4 for windows below 0.06 N, else 2. Windows wider than the reach skip no row.
        reach: nodes ahead of the front that may be evaluated; 0 is 0.22 N, at most four times the window; the window
            spans one row more (or as many as it evaluates). No spacing exceeds ``reach / window``, rounded up: knots
            further out settle too late.
        share: share of the tolerance for interpolation errors; 0 is 2 in stochastic schemes (their outputs are rough
            from node to node, so that a knot's neighbours predict it as badly as they will a skipped row), else 8.
        alpha: budgets above which the spacing narrows; greater than ``beta``.
        beta: budgets below which it widens.
        settled: gap, in units of the largest one accepted lately, below which a knot is not evaluated again.
        trend: how much of the slope is kept beyond the last knot (0 holds the output).
        target: relative error of the sample that is aimed at; 0: the composition's tolerance, right under
            ``error-target``.
    """

    widest: int = attrs.field(default=4, validator=integer(0))
    reach: int = attrs.field(default=0, validator=integer(0))
    share: float = attrs.field(default=0.0, validator=number(0.0))
    alpha: float = attrs.field(default=1.5, validator=number(0.0))
    beta: float = attrs.field(default=0.7, validator=number(0.0))
    settled: float = attrs.field(default=0.5, validator=number(0.0))
    trend: float = attrs.field(default=0.7, validator=number(0.0, 1.0))
    target: float = attrs.field(default=0.0, validator=number(0.0))

    reference = "this library, after ROPA, Section 3.1 and Eq. 13"

    def __attrs_post_init__(self) -> None:
        if self.alpha <= self.beta:
            raise ConfigurationError(
                f"ResidualSparsity: alpha is {self.alpha} and beta {self.beta}; alpha must be greater than beta, or "
                "the spacing would have to narrow and widen at once (1.5 and 0.7 by default)"
            )

    def span(self, width: int, steps: int) -> int:
        """``reach + 1`` rows, or ``width`` if that is more."""
        return max(width, self._ahead(width, steps) + 1) if self._widest(width, steps) > 1 else width

    def _widest(self, width: int, steps: int) -> int:
        return self.widest or (_WIDEST if width < _FEW * steps else 2)

    def _ahead(self, width: int, steps: int) -> int:
        return self.reach or max(1, min(round(0.22 * steps), _WIDEST * width))

    def _share(self, window: Window) -> float:
        return self.share or (_ROUGH if window.scheme.stochastic else _SMOOTH)

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """No knots, spacing 1."""
        scheme, batch = problem.scheme, problem.batch
        response = scheme.error_reach()
        tau = 1.0 - np.arange(scheme.steps) / scheme.steps
        if scheme.levels is not None:
            alpha, sigma = np.abs(scheme.levels.alpha[:-1]), scheme.levels.sigma[:-1]
            tau = np.divide(sigma, alpha + sigma, out=np.zeros_like(sigma), where=sigma > 0)
        return {
            "weight": response * np.exp(_GROWTH * tau),
            "front": np.zeros(batch, dtype=np.int64),
            "spacing": np.ones(batch, dtype=np.int64),
            "knots": np.zeros((rows, batch), dtype=np.bool_),
            "gap": np.zeros((rows, batch)),
            "accepted_gap": np.zeros(batch),
            "past": torch.zeros_like(problem.x0),
            "past_time": np.full(batch, np.nan),
        }

    def rows(self, window: Window, state: Any) -> Bools:
        """The front, knots that have moved, and new knots."""
        width = window.width
        dense = np.broadcast_to(np.arange(window.rows)[:, None] < width, window.nodes.shape)
        out = np.array(dense)
        if window.tolerance == 0:
            return out
        knots = window.realign(state["knots"], state["front"]) & window.valid
        gap = window.realign(state["gap"], state["front"], fill=np.inf)
        moved = gap > self.settled * self._accepted_gap(window.front, state)
        moved |= window.front - state["front"] < 2  # settled rows that are not accepted hold up all others
        ahead = self._ahead(width, window.scheme.steps)
        last = np.minimum(window.valid.sum(axis=0) - 1, max(ahead, width - 1)).tolist()
        spacing = np.minimum(state["spacing"], -(-ahead // width)).tolist()
        there, stale = knots.T.tolist(), moved.T.tolist()
        for b in np.flatnonzero(window.running & (window.front > window.rounds)).tolist():
            out[:, b] = False
            out[_place(there[b], stale[b], spacing[b], last[b], width), b] = True
        return out

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """Linear interpolation in time between knots, a part of the last slope beyond."""
        return interpolated(round, rows, self.trend)

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """Where the knots are, how far they have moved, and what skipping rows would have cost."""
        window = round.window
        cost = self._costs(round, state)
        seen = np.isfinite(cost)
        mean = np.where(seen, cost, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        target = self.target or round.tolerance
        budget = self._share(window) * target / window.scheme.steps**0.5
        narrow, widen = mean > self.alpha * budget, seen.any(axis=0) & (mean < self.beta * budget)
        time = clock(window)[0]
        widest = self._widest(window.width, window.scheme.steps)
        return {
            **state,
            "front": window.front.copy(),
            "spacing": np.clip(state["spacing"] - narrow + widen, 1, widest),
            "knots": known_rows(round),
            "gap": round.gap.copy(),
            "accepted_gap": self._accepted_gap(window.front, state),
            "past": round.form_output(0),
            "past_time": np.where(window.running, time, np.nan),
        }

    @staticmethod
    def _accepted_gap(front: Ints, state: Any) -> Floats:
        """``(B,)`` largest gap of the rows that were accepted last, where any had one."""
        gap = state["gap"]
        passed = np.arange(len(gap))[:, None] < (front - state["front"])[None, :]
        newest = np.where(passed & np.isfinite(gap), gap, 0.0).max(axis=0)
        return np.asarray(np.where(newest > 0, newest, state["accepted_gap"]))

    def _costs(self, round: Round, state: Any) -> Floats:
        """``(P, B)`` cost of each knot evaluated now, predicted from its neighbours; NaN where it has none."""
        window = round.window
        before = np.isfinite(state["past_time"])
        known = np.concatenate([before[None], known_rows(round)])
        time = clock(window)
        time = np.concatenate([np.where(before, state["past_time"], time[0])[None], time])
        left, right = neighbours(known, strict=True)
        inner = round.evaluated & (left[1:] >= 0) & (right[1:] <= window.rows)
        rows = np.flatnonzero(inner.any(axis=1)).tolist()
        error = np.full(window.nodes.shape, np.nan)
        if rows:
            outputs, norms = [state["past"], *form_outputs(round, known[1:])], RowNorms()
            predicted = between(outputs, time, [r + 1 for r in rows], left, right, 0.0)
            for r, row in zip(rows, predicted, strict=True):
                norms.add(outputs[r + 1] - row)
            error[rows] = np.where(inner[rows], norms.result(), np.nan)
        node = np.minimum(window.nodes, window.scheme.steps - 1)
        response = state["weight"][node] * np.abs(window.gain_rows[1])  # to an output in the composition's form
        return np.asarray(response * error / np.maximum(round.size, 1e-30))


def _place(knots: list[bool], moved: list[bool], spacing: int, last: int, width: int) -> list[int]:
    """Rows of one sample to evaluate: at most ``width``, the front first, none after ``last``; what the knots leave of
    the window goes to skipped rows, from the front on."""
    out, at = [0], 0
    while len(out) < width and at < last:
        target = min(at + spacing, last)
        at = next((row for row in range(at + 1, target) if knots[row]), target)
        if moved[at] or not knots[at]:
            out.append(at)
    taken = set(out)
    skipped = (row for row in range(1, last) if not knots[row] and row not in taken)
    return [*out, *itertools.islice(skipped, width - len(out))]
