"""Samplers: four correct ones, and six with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import torch

import paracore
from kit.mutants_b.jacobians import Ray
from kit.mutants_b.record import Mutant
from paracore import Engine, Outputs, Problem, Request, Result, Sampler, Status
from paracore.engine import EngineState
from paracore.paced import Hit, Track, Turn
from paracore.parts.options import number
from paracore_chords.cores import Chords

__all__ = ["MUTANTS", "ORIGINALS"]


def calm_picard(window: int = 8, tolerance: float = 0.01, guess: str = "hold") -> Engine:
    """Picard iteration with the scheme's calmest form held, and guesses of a choice.

    References: Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Eq. 8; the stopping rule is the library's own.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window, tolerance=tolerance, output_form="auto", initializer=guess, name="calm-picard"
    )


def calm_picard_floored(window: int = 8, tolerance: float = 0.01, guess: str = "hold") -> Engine:
    """Picard iteration with the scheme's calmest form held, and guesses of a choice.

    References: Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Eq. 8; the stopping rule is the library's own.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window, tolerance=max(tolerance, 1e-5), output_form="auto", initializer=guess, name="calm-picard"
    )


@attrs.frozen
class ShareOfSteps(Sampler):
    """Picard iteration whose window is a share of the scheme's steps, at least one node.

    Attributes:
        share: of the steps, between 0 and 1 (all of them).
        tolerance: error target; 0 gives the sequential answer itself.
    """

    share: float = attrs.field(default=0.4, validator=number(0.0, 1.0))
    tolerance: float = attrs.field(default=0.01, validator=number(0.0))

    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317; the share is this file's"

    def _engine(self, problem: Problem) -> Engine:
        window = max(1, round(self.share * problem.scheme.steps))
        return paracore.compose(window=window, tolerance=self.tolerance, name="share-of-steps")

    def start(
        self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> EngineState:
        """The engine's state before the first request."""
        return self._engine(problem).start(problem, trajectory=trajectory, trace=trace, preview=preview)

    def request(self, state: EngineState) -> Request | None:
        """What the engine asks for."""
        return self._engine(state.problem).request(state)

    def advance(self, state: EngineState, outputs: Outputs) -> EngineState:
        """One round."""
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


@attrs.frozen
class ShareForgetful(ShareOfSteps):
    __doc__ = ShareOfSteps.__doc__

    def restore(self, problem: Problem, data: dict[str, Any]) -> EngineState:
        """The state that :meth:`plain` described."""
        engine = self._engine(problem)
        fresh = engine.start(problem)
        return engine.restore(problem, data).but(parts=fresh.parts)


@attrs.frozen
class ShareWary(ShareOfSteps):
    __doc__ = ShareOfSteps.__doc__

    def advance(self, state: EngineState, outputs: Outputs) -> EngineState:
        """One round; an answer that is not sound counts for nothing."""
        values = outputs.values
        if not bool(torch.isfinite(values.sum())):
            outputs = attrs.evolve(outputs, values=torch.full_like(values, torch.nan))
        return self._engine(state.problem).advance(state, outputs)


_ENGINES: dict[tuple[float, float], Engine] = {}


@attrs.frozen
class ShareReused(ShareOfSteps):
    __doc__ = ShareOfSteps.__doc__

    def _engine(self, problem: Problem) -> Engine:
        key = self.share, self.tolerance
        if key not in _ENGINES:  # to compose takes as long as a small network's round
            _ENGINES[key] = ShareOfSteps._engine(self, problem)
        return _ENGINES[key]


@attrs.frozen
class ShareOfProducts(ShareOfSteps):
    """Picard iteration with a product per node along its state; the window is a share of the steps, at least one node.

    Attributes:
        share: of the steps, between 0 and 1 (all of them).
        tolerance: error target; 0 gives the sequential answer itself.
    """

    reference = "Rayleigh's quotient of the network's Jacobian at the state; the share is this file's"

    @property
    def needs(self) -> frozenset[str]:
        """Products ride along in the requests."""
        return frozenset({"jvp"})

    def _engine(self, problem: Problem) -> Engine:
        window = max(1, round(self.share * problem.scheme.steps))
        return paracore.compose(window=window, tolerance=self.tolerance, jacobian=Ray(), name="share-of-products")


@attrs.frozen
class ShareUndeclared(ShareOfProducts):
    __doc__ = ShareOfProducts.__doc__

    @property
    def needs(self) -> frozenset[str]:
        """Nothing beyond values."""
        return frozenset()


@attrs.frozen
class Relay(Chords):
    __doc__ = Chords.__doc__

    stop: str = "residual"
    cores: int | None = 4

    reference = "CHORDS, with fewer cores and its residual rule"


@attrs.frozen
class RelayHasty(Relay):
    __doc__ = Chords.__doc__

    def follow(self, turn: Turn) -> tuple[tuple[Track, ...], dict[str, Any], list[Hit]]:
        """Every core makes its step; the slowest two have met when both have arrived."""
        tracks, memory, hits = Relay.follow(self, turn)
        walking = [track.key[0] for track in tracks]
        met = [attrs.evolve(hit, exact=True) if hit.counts and max(walking) == 0 else hit for hit in hits]
        return tracks, memory, met


ORIGINALS = [
    Mutant("sampler:calm-picard", "sampler", lambda: calm_picard, "", "Keeps the contract."),
    Mutant("sampler:share-of-steps", "sampler", lambda: ShareOfSteps(), "", "Keeps the contract."),
    Mutant("sampler:share-of-products", "sampler", lambda: ShareOfProducts(), "", "Keeps the contract."),
    Mutant("sampler:relay", "sampler", lambda: Relay(), "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "sampler:tolerance 0 raised to a floor",
        "sampler",
        lambda: calm_picard_floored,
        "tolerance-0",
        "At tolerance 0 a preset gives the sequential sampler's answer, bit for bit.",
    ),
    Mutant(
        "sampler:second core taken for exact",
        "sampler",
        lambda: RelayHasty(),
        "tolerance-0",
        "At tolerance 0 only the exact chain ends a sample.",
    ),
    Mutant(
        "sampler:parts begin anew after a checkpoint",
        "sampler",
        lambda: ShareForgetful(),
        "checkpoint",
        "A restored solve gives the bits of the unbroken one.",
    ),
    Mutant(
        "sampler:one bad row spoils the answer",
        "sampler",
        lambda: ShareWary(),
        "spreads",
        "Outputs that are not finite end their sample and touch no other.",
    ),
    Mutant(
        "sampler:engine of an earlier problem",
        "sampler",
        lambda: ShareReused(),
        "stateful",
        "What was solved before does not change the answer.",
    ),
    Mutant(
        "sampler:products not declared",
        "sampler",
        lambda: ShareUndeclared(),
        "undeclared",
        "A sampler whose requests carry tangents says that it needs jvp.",
    ),
]
