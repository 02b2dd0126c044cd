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

_AGEING = 6.0
_OLDEST = 1.3
"""A window that is accepted whole shows no response, and what was seen before it counts for less: over ``n`` nodes the
response is taken to have grown by ``exp(6 n / N)``, at most ``exp(1.3)``, less where little noise is left (``tau``)."""

_CALMEST = 4.0
"""Smallest ``kappa`` that the growth of errors is estimated with: a network that responds little along the iterates'
differences may still amplify errors in other directions (unguided digits do)."""

_NONLINEAR = 6.0
"""Large errors grow by more than their linear part: a target ``e`` is worked to as ``e / (1 + 6 e)``."""

_COHERENT = 8
"""Errors of one window point the same way, those of different windows less so: beyond 8 evaluations a round, fewer
windows average out, and the target is scaled by ``(8 / window)^(1/4)``."""

_UNSEEN = 4.0
"""``kappa`` before anything was seen: about what guided networks show at their most sensitive."""


def _clipped(window_nodes: Ints, steps: int) -> Ints:
    return np.minimum(window_nodes, steps - 1)


@attrs.frozen
class ErrorTarget(StoppingRule):
    """Keeps the relative root-mean-square error of the sample, against the sequential sampler's, at the tolerance.

    A row whose output was evaluated a distance ``gap`` away moves the final sample, relative to its size, by about
    ``move = reach * L * gap / size * exp(growth * max(kappa, 4) * tau)``. ``reach`` is the scheme's own response to an
    output error. ``L = kappa * shape`` is the response of outputs to state changes: ``shape`` is what it would be for
    data of unit variance (math page, the error target), ``kappa`` what the rounds done have shown
    (``|df| / |shape dx|`` at nodes evaluated twice, a running mean). The exponential stands for what the steps to come
    make of an error; ``tau = sigma / (alpha + sigma)``. A row is accepted while its own move and the sum of all moves
    stay inside their shares of the target.

    The constants were chosen on the digits network and checked on the problems of ``benchmarks/calibration.py``. The
    rule is right on average over samples; past a bifurcation no local rule can promise anything.

    Attributes:
        growth: rate of the exponential.
        row: largest move of one row, in units of ``tolerance / N``.
        total: largest sum of moves up to node ``n``, in units of ``tolerance * n / N``.
    """

    growth: float = attrs.field(default=0.5, validator=number(0.0))
    row: float = attrs.field(default=6.8, validator=number(0.0))
    total: float = attrs.field(default=2.05, validator=number(0.0))

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
            "shape": None,
            "tau": tau,
        }

    def _look(self, round: Round, state: dict[str, Any]) -> tuple[Floats, Floats, Ints]:
        """What accepting each row would cost, ``(P, B)``, and what was learned: ``kappa`` and ``seen_at``, ``(B,)``."""
        window = round.window
        node = _clipped(window.nodes, window.scheme.steps)
        whole = _shape(round, state["reach"]) if state["shape"] is None else state["shape"]
        shape = whole[node]
        moved, changed = round.anchor_change[:_NEAR], round.output_change[:_NEAR]  # what the front will meet next
        seen = np.isfinite(moved) & np.isfinite(changed) & (moved > 0)
        expected = np.where(seen, moved * shape[:_NEAR], 0.0)
        total = (expected**2).sum(axis=0)
        fresh2 = np.divide((np.where(seen, changed, 0.0) ** 2).sum(axis=0), total, out=total * np.nan, where=total > 0)
        old2 = state["kappa"] ** 2
        mean2 = np.where(np.isnan(old2), fresh2, 0.5 * (fresh2 + old2))
        kappa = np.sqrt(np.where(np.isnan(fresh2), old2, mean2))
        seen_at = np.where(seen.any(axis=0), window.front, state["seen_at"])
        stale = _AGEING * (window.front - seen_at) / window.scheme.steps
        tau = state["tau"][node]
        aged = np.where(np.isnan(kappa), _UNSEEN, kappa) * np.exp(tau[0] * np.minimum(stale, _OLDEST))
        gap = np.where(np.isfinite(round.gap), round.gap, 1e30)
        grown = np.exp(np.minimum(self.growth * np.maximum(aged, _CALMEST) * tau, _LARGEST_EXPONENT))
        moves = grown * state["reach"][node] * aged * shape * gap / np.maximum(round.size, 1e-30)
        return moves, kappa, seen_at

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose own move, and whose accumulated move, stay inside their shares of the target."""
        steps = round.window.scheme.steps
        moves, _, _ = self._look(round, state)
        summed = state["spent"][None, :] + np.cumsum(moves, axis=0)
        share = np.minimum(round.window.nodes + 1, steps) / steps
        coherence = min(1.0, _COHERENT / round.window.width) ** 0.25
        target = coherence * round.tolerance / (1.0 + _NONLINEAR * round.tolerance)
        within = summed <= self.total * target * share
        return np.asarray(within & (moves <= self.row * target / steps), dtype=np.bool_)

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Book what was spent, and what was learned of the outputs' response."""
        moves, kappa, seen_at = self._look(round, state)
        inside = np.arange(round.window.rows)[:, None] < accepted[None, :]
        spent = state["spent"] + np.where(inside, moves, 0.0).sum(axis=0)
        shape = _shape(round, state["reach"]) if state["shape"] is None else state["shape"]
        return {**state, "spent": spent, "kappa": kappa, "seen_at": seen_at, "shape": shape}

    def estimate(self, state: Any) -> Floats:
        """The sum of the accepted rows' moves."""
        return np.asarray(state["spent"])


def _shape(round: Round, reach: Floats) -> Floats:
    """``(N,)`` expected response of the held output to a state change, for data of unit variance.

    With ``f = u x + v D`` and ``D`` the data prediction, ``dD/dx`` is ``s = alpha / (alpha^2 + sigma^2)`` along data
    of unit variance and 0 in directions without data: the response is ``u + v s`` in the former, ``u`` in the latter.
    Half of either part, at most 1, is added in quadrature, since data are neither. Without noise levels every step is
    taken to respond alike.
    """
    window = round.window
    scheme = window.scheme
    if scheme.levels is None or scheme.prediction is None:
        return 1.0 / (scheme.steps * np.maximum(reach, 1e-30))
    alpha, sigma = scheme.levels.alpha[:-1], scheme.levels.sigma[:-1]
    u, v = scheme.levels.conversion("data", scheme.prediction, slice(0, scheme.steps))
    slope = alpha / (alpha**2 + sigma**2)
    u = u - window.gain[0]
    held, moved = np.minimum(0.5 * np.abs(u), 1.0), np.minimum(0.5 * np.abs(v * slope), 1.0)
    return np.asarray(np.sqrt((u + v * slope) ** 2 + held**2 + moved**2))


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
        return np.asarray(window.nodes + 1 <= due)
