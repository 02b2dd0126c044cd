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
from paracore.window import Bools, Ints, Round

__all__ = ["AbsoluteChange", "FixedRounds", "NoiseScaledChange", "ScaledResidual"]


def _clipped(window_nodes: Ints, steps: int) -> Ints:
    return np.minimum(window_nodes, steps - 1)


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
    reference = "this library: a budget of rounds, as every published table of fixed rounds implies"
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
