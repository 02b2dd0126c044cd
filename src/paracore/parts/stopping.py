"""Stopping rules."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore.errors import ConfigurationError
from paracore.parts.options import integer, number, one_of
from paracore.problem import Problem
from paracore.status import Status
from paracore.strategies import StoppingRule
from paracore.window import Bools, Floats, Ints, Round

__all__ = ["AbsoluteChange", "ErrorTarget", "FixedRounds", "NoiseScaledChange", "ScaledResidual"]


_LARGEST_EXPONENT = 3.0
"""Beyond a twentyfold growth the estimate says nothing; without a bound one stiff node would stop all progress."""


_NEAR = 8
"""Rows from the front whose responses count: far ahead in a long window networks respond differently."""

_AGEING = 8.0
_OLDEST = 1.3
"""A window that is accepted whole shows no response, and what was seen before it counts for less: over ``n`` nodes the
response is taken to have grown by ``exp(8 n / N)``, at most by ``exp(1.3)``, less where little noise is left (``tau``)."""

_UNSEEN = 2.0
"""``kappa`` before anything was seen: above what unguided networks show."""


def _clipped(window_nodes: Ints, steps: int) -> Ints:
    return np.minimum(window_nodes, steps - 1)


@attrs.frozen
class ErrorTarget(StoppingRule):
    """Keeps the relative root-mean-square error of the sample, against the sequential sampler's, at the tolerance.

    A row whose output was evaluated a distance ``gap`` away moves the final sample, relative to its size, by about
    ``move = reach * L * gap / size * exp(growth * kappa * tau)``. ``reach`` is the scheme's own response to an output
    error. ``L = kappa * shape`` is the response of outputs to state changes: ``shape`` is what it would be for data of
    unit variance (math page, the error target), ``kappa`` what the rounds done have shown (``|df| / |shape dx|`` at
    nodes evaluated twice, a running mean). The exponential stands for what the steps to come make of an error;
    ``tau = sigma / (alpha + sigma)``. A row is accepted while its own move and the sum of all moves stay inside their
    shares of the target.

    The constants were chosen on the digits network and checked on the problems of ``benchmarks/calibration.py``. The
    rule is right on average over samples; past a bifurcation no local rule can promise anything.

    Attributes:
        growth: rate of the exponential.
        row: largest move of one row, in units of ``tolerance / N``.
        total: largest sum of moves up to node ``n``, in units of ``tolerance * n / N``.
    """

    growth: float = attrs.field(default=0.5, validator=number(0.0))
    row: float = attrs.field(default=6.5, validator=number(0.0))
    total: float = attrs.field(default=2.2, validator=number(0.0))

    unit = "relative root-mean-square error of the sample against the sequential sampler's"
    reads_changes = True
    reference = "this library: docs/mathematics.md, the error target"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing spent, no response seen."""
        scheme = problem.scheme
        reach, _ = scheme.output_reach()
        tau = 1.0 - np.arange(scheme.steps) / scheme.steps
        if scheme.levels is not None:
            alpha, sigma = scheme.levels.alpha[:-1], scheme.levels.sigma[:-1]
            tau = np.divide(sigma, np.abs(alpha) + sigma, out=np.zeros_like(sigma), where=sigma > 0)
        return {
            "spent": np.zeros(problem.batch),
            "kappa": np.full(problem.batch, np.nan),
            "seen_at": np.zeros(problem.batch, dtype=np.int64),
            "reach": reach,
            "tau": tau,
        }

    def _kappa(self, round: Round, state: dict[str, Any]) -> Floats:
        """``(B,)`` running response in units of the shape; NaN before any row was evaluated twice."""
        moved, changed = round.anchor_change, round.output_change
        seen = np.isfinite(moved) & np.isfinite(changed) & (moved > 0)
        near = np.arange(len(moved))[:, None] < _NEAR  # what the front will meet next
        expected = np.where(seen, moved, 0.0) * _shape(round, state)
        total = (near * expected**2).sum(axis=0)
        changed2 = (near * np.where(seen, changed, 0.0) ** 2).sum(axis=0)
        fresh = np.sqrt(np.divide(changed2, total, out=np.full(len(total), np.nan), where=total > 0))
        old = state["kappa"]
        return np.where(np.isnan(fresh), old, np.where(np.isnan(old), fresh, np.sqrt(0.5 * (fresh**2 + old**2))))

    def _seen_at(self, round: Round, state: dict[str, Any]) -> Ints:
        """``(B,)`` front at which the response was last seen."""
        seen = (round.anchor_change[:_NEAR] > 0) & np.isfinite(round.output_change[:_NEAR])
        return np.where(seen.any(axis=0), round.window.front, state["seen_at"])

    def _moves(self, round: Round, state: dict[str, Any]) -> Floats:
        """``(P, B)`` estimated relative move of the sample by accepting each row."""
        window = round.window
        node = _clipped(window.nodes, window.scheme.steps)
        kappa = self._kappa(round, state)
        stale = (window.front - self._seen_at(round, state)) / window.scheme.steps
        ahead = state["tau"][_clipped(window.front, window.scheme.steps)]
        aged = np.exp(ahead * np.minimum(_AGEING * stale, _OLDEST))
        kappa = (np.where(np.isnan(kappa), _UNSEEN, kappa) * aged)[None, :]
        gap = np.where(np.isfinite(round.gap), round.gap, 1e30)
        grown = np.exp(np.minimum(self.growth * kappa * state["tau"][node], _LARGEST_EXPONENT))
        moves = grown * state["reach"][node] * kappa * _shape(round, state) * gap / np.maximum(round.size, 1e-30)
        return np.where(gap == 0, 0.0, moves)  # an exact row moves nothing, however wild the response

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose own move, and whose accumulated move, stay inside their shares of the target."""
        steps = round.window.scheme.steps
        moves = self._moves(round, state)
        summed = state["spent"][None, :] + np.cumsum(moves, axis=0)
        share = np.minimum(round.window.nodes + 1, steps) / steps
        within = summed <= self.total * round.tolerance * share
        return within & (moves <= self.row * round.tolerance / steps)

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Book what was spent, and what was learned of the outputs' response."""
        inside = np.arange(round.window.rows)[:, None] < accepted[None, :]
        spent = state["spent"] + np.where(inside, self._moves(round, state), 0.0).sum(axis=0)
        return {**state, "spent": spent, "kappa": self._kappa(round, state), "seen_at": self._seen_at(round, state)}

    def estimate(self, state: Any) -> Floats:
        """The sum of the accepted rows' moves."""
        return np.asarray(state["spent"])


def _shape(round: Round, state: dict[str, Any]) -> Floats:
    """``(P, B)`` expected response of the held output to a state change, for data of unit variance.

    With ``f = u x + v D`` and ``D`` the data prediction, ``dD/dx`` is ``s = alpha / (alpha^2 + sigma^2)`` along data
    of unit variance and 0 in directions without data: the response is ``u + v s`` in the former, ``u`` in the latter.
    Half of either part, at most 1, is added in quadrature, since data are neither. Without noise levels every step is
    taken to respond alike.
    """
    window = round.window
    scheme = window.scheme
    node = _clipped(window.nodes, scheme.steps)
    if scheme.levels is None or scheme.prediction is None:
        return 1.0 / (scheme.steps * np.maximum(state["reach"][node], 1e-30))
    alpha, sigma = scheme.levels.alpha[:-1], scheme.levels.sigma[:-1]
    u, v = scheme.levels.conversion("data", scheme.prediction, slice(0, scheme.steps))
    slope = alpha / (alpha**2 + sigma**2)
    u = u - window.gain[0]
    held, moved = np.minimum(0.5 * np.abs(u), 1.0), np.minimum(0.5 * np.abs(v * slope), 1.0)
    return np.sqrt((u + v * slope) ** 2 + held**2 + moved**2)[node]


@attrs.frozen
class ScaledResidual(StoppingRule):
    """``|R_n|^2 <= tolerance^2 g_n^2 d`` on the one-step residual: the rule of ROPA and ParaTAA.

    Accepts states of the *chain*, whose distance from the tested iterate the rule does not see.

    Attributes:
        g: ``"diffusion"`` (the SDE's coefficient) or ``"step"`` (the standard deviation of one ancestral step).
    """

    g: str = attrs.field(default="diffusion", validator=one_of("diffusion", "step"))

    needs = frozenset({"levels"})
    unit = "residual in units of g(t)"
    reference = "Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Section 3; ROPA, Section 4.1"

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose one-step residual is small against the scheme's noise."""
        levels = round.window.scheme.levels
        assert levels is not None
        scale = levels.g if self.g == "diffusion" else np.sqrt(levels.posterior_variance)
        node = _clipped(round.window.nodes, round.window.scheme.steps)
        return round.one_step_rms <= round.tolerance * scale[node]


@attrs.frozen
class NoiseScaledChange(StoppingRule):
    """ParaDIGMS: a state is done when its mean squared change is at most ``tolerance^2`` times the step's variance.

    The first failing state, just recomputed from converged ones, is accepted too, as in the published method.
    The variance is the scheduler's posterior variance; where that is zero for all nodes, ``g^2 |dt|``.
    """

    needs = frozenset({"levels"})
    unit = "root-mean-square change of a state in units of the step's noise"
    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Algorithm 1"

    def converged(self, round: Round, state: Any) -> Bools:
        """All rows up to and including the first whose state still changes."""
        levels = round.window.scheme.levels
        assert levels is not None
        variance = levels.posterior_variance
        if not variance[:-1].any():
            variance = levels.g**2 * levels.span
        # the published code indexes the variance one step late; its last entry is infinite, so the end always passes
        variance = np.concatenate([variance[1:], [np.inf]])
        node = _clipped(round.window.nodes, round.window.scheme.steps)
        passes = round.change**2 <= round.tolerance**2 * variance[node]
        before = np.concatenate([np.ones((1, passes.shape[1]), dtype=np.bool_), passes[:-1]])
        return np.logical_and.accumulate(before, axis=0)


@attrs.frozen
class AbsoluteChange(StoppingRule):
    """A state is done when it moves by at most ``tolerance * (absolute + relative * its size)`` (root mean square).

    Attributes:
        absolute: weight of an absolute change, in state units.
        relative: weight of a change relative to the state's root mean square.
    """

    absolute: float = attrs.field(default=1.0, validator=number(0.0))
    relative: float = attrs.field(default=0.0, validator=number(0.0))

    unit = "root-mean-square distance between an accepted state and the state that was evaluated"
    reference = "Lim et al. 2024 (DEER), arXiv:2309.12252: |dy| <= atol + rtol |y|"

    def __attrs_post_init__(self) -> None:
        if self.absolute == 0 and self.relative == 0:
            raise ConfigurationError("AbsoluteChange: absolute and relative are both 0; at least one must be positive")

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose output was evaluated close enough to the accepted state."""
        size = np.concatenate([round.size[:1], round.size[:-1]])
        return round.gap <= round.tolerance * (self.absolute + self.relative * size)


@attrs.frozen
class FixedRounds(StoppingRule):
    """Ends after a given number of rounds, whatever the error: the budget is completed, nothing has converged.

    The front moves evenly; where the window holds all nodes it waits until the last round, so that every row is
    refined as often as the budget allows.

    Attributes:
        rounds: rounds to end after (earlier where exact progress ends the sample first).
    """

    rounds: int = attrs.field(default=10, validator=integer(1))

    unit = "not used (any positive number)"
    outcome = Status.BUDGET_COMPLETED

    def check(self, problem: Problem, width: int, tolerance: float) -> None:
        """The window must be able to reach the end in that many rounds."""
        steps = problem.scheme.steps
        if tolerance > 0 and self.rounds * width < steps:
            raise ConfigurationError(
                f"FixedRounds: {self.rounds} rounds of {width} evaluations cannot cover {steps} steps; use at least "
                f"{-(-steps // width)} rounds, or a window of {-(-steps // self.rounds)}"
            )

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows that the schedule says are due."""
        window = round.window
        steps = window.scheme.steps
        done = window.rounds[None, :]
        due = np.ceil(steps * np.minimum(done / self.rounds, 1.0))
        if window.width >= steps:
            due = np.where(done >= self.rounds, steps, 0)
        return window.nodes + 1 <= due
