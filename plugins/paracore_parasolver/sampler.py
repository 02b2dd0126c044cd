"""ParaSolver with a given number of subintervals: a composition that depends on the number of steps."""

from __future__ import annotations

from typing import Any

import attrs

from paracore import Composition, Engine, Outputs, Problem, Request, Result, Sampler, Status
from paracore.engine import EngineState
from paracore.parts import LookAhead, NoiseScaledChange
from paracore_parasolver.fine import FineSteps
from paracore_parasolver.frozen import FrozenData
from paracore_parasolver.partition import check
from paracore_parasolver.selection import Subintervals
from paracore_parasolver.stopping import SubintervalChange

__all__ = ["ParaSolver", "composition"]


def composition(window: int, tolerance: float, length: int, count: int, preconditioning: int) -> Composition:
    """ParaSolver over subintervals of up to ``length`` steps; with ``length = 1`` only the initial points are new."""
    several: dict[str, Any] = {"stopping": NoiseScaledChange()}
    if length > 1:
        several = {"jacobian": FineSteps(length, count), "stopping": SubintervalChange(length, count)}
    return Composition(
        window=window,
        tolerance=tolerance,
        output_form="drift",
        residual=LookAhead(),
        initializer=FrozenData(),
        selection=Subintervals(length, count, preconditioning),
        name="parasolver",
        **several,
    )


@attrs.frozen
class ParaSolver(Sampler):
    """Runs, for each problem, the composition whose subintervals fit its number of steps.

    Attributes:
        window: subintervals in the window: evaluations per round and sample.
        tolerance: root-mean-square change in units of the noise; 0 gives the sequential answer itself.
        subintervals: how many.
        preconditioning: subintervals at the start that are solved alone.
    """

    window: int
    tolerance: float
    subintervals: int
    preconditioning: int

    def composition(self, problem: Problem) -> Composition:
        """The composition for a problem.

        Raises:
            ConfigurationError: for more subintervals than steps.
        """
        steps = problem.scheme.steps
        length = -(-steps // self.subintervals)
        check(self, steps, length, self.subintervals)
        return composition(self.window, self.tolerance, length, self.subintervals, self.preconditioning)

    def start(
        self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> EngineState:
        """The engine's state before the first request."""
        return self._engine(problem).start(problem, trajectory=trajectory, trace=trace, preview=preview)

    def request(self, state: EngineState) -> Request | None:
        """What the engine asks for."""
        return self._engine(state.problem).request(state)

    def advance(self, state: EngineState, outputs: Outputs) -> EngineState:
        """One round: a fine step in every subinterval of the window."""
        return self._engine(state.problem).advance(state, outputs)

    def result(self, state: EngineState, *, unfinished: Status = Status.INTERRUPTED) -> Result:
        """The result so far."""
        return self._engine(state.problem).result(state, unfinished=unfinished)

    def plain(self, state: EngineState) -> dict[str, Any]:
        """The engine's state as plain data."""
        return self._engine(state.problem).plain(state)

    def restore(self, problem: Problem, data: dict[str, Any]) -> EngineState:
        """The state that :meth:`plain` described."""
        return self._engine(problem).restore(problem, data)

    def _engine(self, problem: Problem) -> Engine:
        return Engine(self.composition(problem))
