"""Samplers with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

import paracore
from kit.mutants_a.records import Mutant, correct
from kit.mutants_a.samplers import Glide, Steps, StepsState, gentle
from paracore import Outputs, Problem
from paracore.paced import Hit, Track, Turn
from paracore.window import Bools, Floats, Ints

__all__ = ["MUTANTS", "ORIGINALS"]


def zero_is_default(window: int = 4, tolerance: float = 0.01, guess: str = "copy") -> paracore.Engine:
    tolerance = tolerance or 0.01
    return paracore.compose(window=window, tolerance=tolerance, stopping="change", initializer=guess, name="gentle")


def undocumented(window: int = 4, tolerance: float = 0.01, guess: str = "copy") -> paracore.Engine:
    """Picard iteration that accepts a row by its distance from the state that was evaluated."""
    return paracore.compose(window=window, tolerance=tolerance, stopping="change", initializer=guess, name="gentle")


def half_window(window: int = 4, tolerance: float = 0.01, guess: str = "copy") -> paracore.Engine:
    window = window // 2
    return paracore.compose(window=window, tolerance=tolerance, stopping="change", initializer=guess, name="gentle")


for _preset in (zero_is_default, half_window):
    _preset.__doc__ = gentle.__doc__


@attrs.frozen
class InPlace(Steps):
    __doc__ = Steps.__doc__

    def _first(self, problem: Problem) -> torch.Tensor:
        return problem.x0

    def _placed(self, new: torch.Tensor, state: StepsState) -> torch.Tensor:
        return new if state.problem.scheme.memory else state.states[0].copy_(new)


class CountsItself(Steps):
    __doc__ = Steps.__doc__

    def start(
        self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> StepsState:
        """From node 0."""
        object.__setattr__(self, "_at", 0)
        return super().start(problem, trajectory=trajectory, trace=trace, preview=preview)

    def _node(self, state: StepsState) -> int:
        return min(getattr(self, "_at", 0), state.problem.scheme.steps - 1)

    def advance(self, state: StepsState, outputs: Outputs) -> StepsState:
        """One step."""
        new = super().advance(state, outputs)
        object.__setattr__(self, "_at", self._node(state) + 1)
        return new


@attrs.frozen
class CountsRequests(Steps):
    __doc__ = Steps.__doc__

    def _spent(self, state: StepsState, who: Ints) -> Ints:
        return np.full(state.problem.batch, len(who))


@attrs.frozen
class ForgetsThePast(Steps):
    __doc__ = Steps.__doc__

    def restore(self, problem: Problem, data: dict[str, Any]) -> StepsState:
        """The state that :meth:`plain` described."""
        state = super().restore(problem, data)
        return attrs.evolve(state, states=state.states[:1], outputs=())


@attrs.frozen
class AllFall(Steps):
    __doc__ = Steps.__doc__

    def _lost(self, lost: Bools, state: StepsState) -> Bools:
        return state.running & lost.any()


@attrs.frozen
class AsksOn(Steps):
    __doc__ = Steps.__doc__

    def _asked(self, state: StepsState) -> Ints:
        return np.arange(state.problem.batch)

    def _lost(self, lost: Bools, state: StepsState) -> Bools:
        return lost & state.running


@attrs.frozen
class SaysExact(Glide):
    __doc__ = Glide.__doc__

    def _hit(self, end: Track, turn: Turn) -> Hit:
        return Hit(end.states[0], end.alive, exact=bool(turn.exact.node * 2 > turn.problem.scheme.steps))


@attrs.frozen
class LargestChange(Glide):
    __doc__ = Glide.__doc__

    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """Small change since the last glide."""
        largest = np.nan_to_num(change, nan=np.inf).max()
        return np.full(change.shape, bool(largest * self.caution <= self.tolerance))


@attrs.frozen
class IgnoresTolerance(Glide):
    __doc__ = Glide.__doc__

    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """After three glides."""
        return np.asarray(hits >= 3)


ORIGINALS = [
    correct("sampler:gentle", "sampler", lambda: gentle),
    correct("sampler:steps", "sampler", lambda: Steps),
    correct("sampler:glide", "sampler", lambda: Glide),
]


def _wrong(name: str, part: Any, breaks: str, contract: str, original: str, runs: str = "yes") -> Mutant:
    return Mutant(f"sampler:{name}", "sampler", lambda: part, breaks, contract, f"sampler:{original}", runs)


MUTANTS = [
    _wrong("zero-is-default", zero_is_default, "exact", "tolerance 0 is not 'none given'", "gentle"),
    _wrong("undocumented", undocumented, "documented", "a preset describes its options and names its source", "gentle"),
    _wrong("half-window", half_window, "range", "a window of 1 works", "gentle", "stopped at window 1"),
    _wrong("in-place", InPlace, "read-only", "the problem's x0 is not written into", "steps"),
    _wrong("counts-itself", CountsItself, "stateless", "two runs of one sampler do not disturb each other", "steps"),
    _wrong("counts-requests", CountsRequests, "counts", "evaluations are counted for each sample", "steps"),
    _wrong("forgets-the-past", ForgetsThePast, "checkpoint", "restore brings back what multistep tables read", "steps"),
    _wrong("all-fall", AllFall, "nonfinite", "a sample that fails leaves its mates alone", "steps"),
    _wrong("asks-on", AsksOn, "nonfinite", "samples that have ended leave the request", "steps"),
    _wrong("says-exact", SaysExact, "exact", "exact is only what the sequential sampler gives", "glide"),
    _wrong("largest-change", LargestChange, "batch", "a sample ends by its own change", "glide"),
    _wrong("ignores-tolerance", IgnoresTolerance, "acceptance", "the sample ends by the tolerance", "glide"),
]
