"""The default stopping rule: an accepted error of the final sample."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore.parts.options import number
from paracore.problem import Problem
from paracore.strategies import StoppingRule
from paracore.window import Bools, Floats, Round

__all__ = ["ErrorTarget"]

_LARGEST_EXPONENT = 6.0
"""Beyond a four-hundredfold growth the estimate says nothing; without a bound one stiff node would stop all
progress."""


_NEAR = 8
"""Rows from the front whose responses count: far ahead in a long window networks respond differently."""

_AGEING = 7.5
_OLDEST = 1.5
"""A window that is accepted whole shows no response, and what was seen before it counts for less: over ``n`` nodes the
response is taken to have grown by ``exp(7.5 n / N)``, at most ``exp(1.5)``, less where little noise is left."""

_CALMEST = 4.0
"""Smallest ``kappa`` that the growth of errors is estimated with: a network that responds little along the iterates'
differences may still amplify errors in other directions (unguided digits do)."""

_DRAWN = -1.3
_SLOPES = -2.0, 4.0
"""The slope of responses that changes nothing, taken before any was seen: what guided networks show; and its bounds."""

_NONLINEAR = 6.0
"""Large errors grow by more than their linear part: a target ``e`` is worked to as ``e / (1 + 6 e)``."""

_COHERENT = 8
"""Errors of one window point the same way, those of different windows less so: the fewer windows there are, the less
averages out, and the target is scaled by ``(8 / window)^coherence``, below window 8 by no higher power than 0.5."""

_APART = 0.5
_TIGHT, _CAUTION, _LEAST = 0.01, 0.25, 0.64
"""Targets below 1 % are worked to as ``e (e / 0.01)^0.25``, at least ``0.64 e``: errors obtained shrink more slowly
than the target."""

_UNSEEN = 4.0
"""``kappa`` before anything was seen: about what guided networks show at their most sensitive."""

_USUAL = 3.0
"""The ``kappa`` that observations are drawn towards where they are not trusted: what guided networks show."""

_LEVEL = 0.8
"""``tau`` at which ``tilt`` changes nothing."""

_QUIET = 10.0
_LOUD = 0.4
_LOUDEST = -0.1
"""Outputs that respond little to the iterates' differences mean that these lie along the data, where errors do not die
out. ``quiet`` is 1 where the output does not respond at all, ``sqrt(1/2)``
where the data prediction does not; guided networks show 0.3 to 0.5. ``10 (quiet - 0.4)``, at least -1, adds to the
growth's exponent."""


@attrs.frozen
class ErrorTarget(StoppingRule):
    """Keeps the relative root-mean-square error of the sample, against the sequential sampler's, at the tolerance.

    A row whose output was evaluated a distance ``gap`` away moves the final sample, relative to its size, by about
    ``move = reach * L * gap / size * exp((growth * max(kappa, 4) + 10 (quiet - 0.4)) * tau)``. ``reach`` is the
    scheme's own response to an output error. ``L = kappa * shape`` is the response of outputs to state changes:
    ``shape`` is what it would be for data of unit variance (math page, the error target), ``kappa`` what the rounds
    done have shown (``|df| / |shape dx|`` at nodes evaluated twice, a running mean; ``df`` is what a Jacobian part's
    forecast missed, if there is one; before anything was seen, outputs of another form than the network's are taken to
    miss all that their form implies). The exponential stands for what
    the steps to come make of an error; ``tau = sigma / (alpha + sigma)``, and ``quiet`` (between 0 and 1) tells how
    little the outputs answered to the moves seen so far. A row is accepted while its own move and the sum of all moves
    stay inside their shares of the target.

    The constants were chosen on the digits network and checked on the problems of ``benchmarks/calibration.py``. The
    rule is right on average over samples; past a bifurcation no local rule can promise anything.

    Attributes:
        growth: rate of the exponential.
        row: largest move of one row, in units of ``tolerance / N``.
        total: largest sum of moves up to node ``n``, in units of ``tolerance * n / N``.
        coherence: power of ``8 / window`` that the target is scaled by, since errors of one window do not average out;
            at most 0.5 counts below window 8.
        trust: how far an observed ``kappa`` is believed: ``3 (kappa / 3)^trust``, at most 4. Above 1 samples whose
            outputs respond strongly are held to smaller gaps (docs); a ``kappa`` below 3 is believed as it is.
        early: what a sample's first moves lack of the exponent: in its k-th round, counted from 0, it is multiplied by
            ``1 - early^k``, and ``kappa`` is taken as 3 before anything was seen. The first iterates differ from each
            other by what the guess before any output lacked, and such differences weigh less (docs). 0 counts the
            exponent whole from the first round on.
        tilt: adds ``tilt * (tau - 0.8)`` to the exponent: the steps to come damp more of late errors than of early
            ones (docs).
        clean: least ``reach * L`` of a step that takes nine tenths of the noise away, or all of it. The state after it
            is the data prediction, nearly, and takes over the part of a gap that lies along the data, which no later
            step mends (docs). 0: as of other steps.
        directed: how much the direction of responses counts. Outputs that answer a move of their state along it widen
            differences of states, those that answer against it draw them together, and so the exponent becomes
            ``(4 growth + directed (slope + 1.3) + 10 (quiet - 0.4)) tau`` with ``slope = <df, dx> / (shape dx^2)``,
            between -2 and 4, with the sign of ``round.output_growth``, and seen as ``kappa`` is; -1.3 is what guided
            networks show. 0, and in stochastic schemes, where responses are strong in all directions: the exponent
            goes by ``kappa``.
    """

    growth: float = attrs.field(default=0.65, validator=number(0.0))
    row: float = attrs.field(default=8.3, validator=number(0.0))
    total: float = attrs.field(default=2.5, validator=number(0.0))
    coherence: float = attrs.field(default=1.0, validator=number(0.0))
    trust: float = attrs.field(default=1.0, validator=number(0.0, 4.0))
    early: float = attrs.field(default=0.0, validator=number(0.0, 1.0))
    tilt: float = attrs.field(default=0.0, validator=number(0.0))
    clean: float = attrs.field(default=0.0, validator=number(0.0))
    directed: float = attrs.field(default=0.0, validator=number(0.0))

    unit = "relative root-mean-square error of the sample against the sequential sampler's"
    reads_changes = True
    causal = False  # what later rows showed of the network's response counts too
    reference = "this library: docs/mathematics.md, the error target"

    @property
    def reads_growth(self) -> bool:  # type: ignore[override]
        """Where directions count."""
        return self.directed > 0

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing spent, no response seen."""
        scheme = problem.scheme
        reach = scheme.error_reach()
        tau = 1.0 - np.arange(scheme.steps) / scheme.steps
        if scheme.levels is not None:
            alpha, sigma = scheme.levels.alpha[:-1], scheme.levels.sigma[:-1]
            tau = np.divide(sigma, np.abs(alpha) + sigma, out=np.zeros_like(sigma), where=sigma > 0)
        return {
            "spent": np.zeros(problem.batch),
            "kappa": np.full(problem.batch, np.nan),
            "slope": np.full(problem.batch, np.nan),
            "quiet": np.full(problem.batch, np.nan),
            "seen_at": np.zeros(problem.batch, dtype=np.int64),
            "reach": reach,
            "shape": None,
            "held": None,
            "tau": tau,
        }

    def _look(self, round: Round, state: dict[str, Any]) -> tuple[Floats, dict[str, Any]]:
        """What accepting each row would cost, ``(P, B)``, and what was learned: worked out once a round."""
        known = round.memo.get(self)
        if known is None or known[0] is not state:
            known = round.memo[self] = state, self._measure(round, state)
        look: tuple[Floats, dict[str, Any]] = known[1]
        return look

    def _measure(self, round: Round, state: dict[str, Any]) -> tuple[Floats, dict[str, Any]]:
        window = round.window
        node = np.minimum(window.nodes, window.scheme.steps - 1)
        whole = state["shape"], state["held"]
        if whole[0] is None:
            whole = _responses(round, state["reach"])
        shape, held = whole[0][node], whole[1][node]
        near = slice(None, _NEAR)  # what the front will meet next
        moved, changed = round.anchor_change[near], round.output_change[near]
        seen = np.isfinite(moved) & np.isfinite(changed) & (moved > 0)
        moved, changed = np.where(seen, moved, 0.0), np.where(seen, changed, 0.0)
        expected = ((moved * shape[near]) ** 2).sum(axis=0)
        fresh = np.divide((changed**2).sum(axis=0), expected, out=expected * np.nan, where=expected > 0)
        kappa = np.sqrt(_running(state["kappa"] ** 2, fresh))
        answered = seen & np.isfinite(round.output_growth[near])
        along = (np.where(answered, round.output_growth[near], 0.0) * moved**2 * shape[near]).sum(axis=0)
        whole_move = (np.where(answered, moved * shape[near], 0.0) ** 2).sum(axis=0)
        slope = np.divide(along, whole_move, out=along * np.nan, where=whole_move > 0)
        slope = _running(state["slope"], slope)
        still = held[near] * moved  # the output's change if the data prediction stayed where it is
        both = np.hypot(still, changed)
        count = (both > 0).sum(axis=0)
        share = np.divide(still, both, out=np.zeros_like(both), where=both > 0).sum(axis=0)
        usable = (count > 0) & (still.sum(axis=0) > 0)
        quiet = _running(state["quiet"], np.divide(share, count, out=share * np.nan, where=usable))
        seen_at = np.where(seen.any(axis=0), window.front, state["seen_at"])
        stale = _AGEING * (window.front - seen_at) / window.scheme.steps
        tau = state["tau"][node]
        unseen = _USUAL if self.early else _UNSEEN
        aged = np.where(np.isnan(kappa), unseen, kappa) * np.exp(tau[0] * np.minimum(stale, _OLDEST))
        calm = _QUIET * np.maximum(np.where(np.isnan(quiet), 0.0, quiet - _LOUD), _LOUDEST)
        aged = _USUAL * (aged / _USUAL) ** np.where(aged > _USUAL, self.trust, min(self.trust, 1.0))
        gap = np.where(np.isfinite(round.gap), round.gap, 1e30)
        if self.directed and not window.scheme.stochastic:
            bounded = np.clip(np.where(np.isnan(slope), _DRAWN, slope), *_SLOPES)
            grows = self.growth * _CALMEST + self.directed * (bounded - _DRAWN)
        else:
            grows = self.growth * np.maximum(aged, _CALMEST)
        exponent = (grows + calm) * tau
        if self.early:
            exponent *= 1.0 - self.early ** np.maximum(window.rounds - 1.0, 0.0)
        if self.tilt:
            exponent = exponent + self.tilt * (tau - _LEVEL)
        grown = np.exp(np.minimum(exponent, _LARGEST_EXPONENT))
        implied = np.abs(window.gain[0])[node] * np.isnan(kappa)  # the network may not follow the held form at all
        carried = state["reach"][node] * np.maximum(aged * shape, implied)
        if self.clean:
            carried = np.where(window.scheme.clean[node], np.maximum(carried, self.clean), carried)
        moves = grown * carried * gap / np.maximum(round.size, 1e-30)
        return moves, {
            "kappa": kappa,
            "slope": slope,
            "quiet": quiet,
            "seen_at": seen_at,
            "shape": whole[0],
            "held": whole[1],
        }

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose own move, and whose accumulated move, stay inside their shares of the target."""
        steps = round.window.scheme.steps
        moves, _ = self._look(round, state)
        summed = state["spent"][None, :] + np.cumsum(moves, axis=0)
        share = np.minimum(round.window.nodes + 1, steps) / steps
        width = round.window.width
        coherence = (_COHERENT / width) ** (self.coherence if width > _COHERENT else min(self.coherence, _APART))
        target = coherence * round.tolerance / (1.0 + _NONLINEAR * round.tolerance)
        target *= min(1.0, max((round.tolerance / _TIGHT) ** _CAUTION, _LEAST))
        within = summed <= self.total * target * share
        return np.asarray(within & (moves <= self.row * target / steps), dtype=np.bool_)

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Book what was spent, and what was learned of the outputs' response."""
        moves, learned = self._look(round, state)
        inside = np.arange(round.window.rows)[:, None] < accepted[None, :]
        spent = state["spent"] + np.where(inside, moves, 0.0).sum(axis=0)
        return {**state, **learned, "spent": spent}

    def estimate(self, state: Any) -> Floats:
        """The accepted rows' moves, summed, in shares of the target: all of ``total`` spent is the target itself."""
        return np.asarray(state["spent"] / self.total if self.total > 0 else state["spent"])


def _responses(round: Round, reach: Floats) -> tuple[Floats, Floats]:
    """``(N,)`` responses of the held output to a state change: expected, and while the data prediction stays.

    With ``f = u x + v D`` and ``D`` the data prediction, ``dD/dx`` is ``s = alpha / (alpha^2 + sigma^2)`` along data
    of unit variance and 0 in directions without data: the response is ``u + v s`` in the former, ``u`` in the latter.
    Half of either part, at most 1, is added in quadrature, since data are neither. Without noise levels every step is
    taken to respond alike.
    """
    window = round.window
    scheme = window.scheme
    if scheme.levels is None or scheme.prediction is None:
        return 1.0 / (scheme.steps * np.maximum(reach, 1e-30)), np.zeros(scheme.steps)
    alpha, sigma = scheme.levels.alpha[:-1], scheme.levels.sigma[:-1]
    u, v = scheme.levels.conversion("data", scheme.prediction, slice(0, scheme.steps))
    slope = alpha / (alpha**2 + sigma**2)
    u = u - window.gain[0]
    held, moved = np.minimum(0.5 * np.abs(u), 1.0), np.minimum(0.5 * np.abs(v * slope), 1.0)
    return np.sqrt((u + v * slope) ** 2 + held**2 + moved**2), np.abs(u)


def _running(old: Floats, fresh: Floats) -> Floats:
    """The mean of what was known and what was seen; whichever there is where the other is NaN."""
    mean = np.where(np.isnan(old), fresh, 0.5 * (fresh + old))
    return np.where(np.isnan(fresh), old, mean)
