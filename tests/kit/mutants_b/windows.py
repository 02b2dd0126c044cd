"""Initializers and selections: three correct ones, and seven with one mistake each."""

from __future__ import annotations

import random
from typing import Any

import attrs
import numpy as np
import torch

from kit.mutants_b.record import Mutant
from paracore import Problem
from paracore.parts.options import integer, number
from paracore.slide import pick
from paracore.strategies import Initializer, Selection
from paracore.window import Bools, Floats, Round, Window, per_sample, where_rows

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Onward(Initializer):
    """Entering states go on as the two before them did, a little less each time.

    Attributes:
        keep: how much of the last difference the next one keeps, between 0 (copies) and 1.
    """

    keep: float = attrs.field(default=0.7, validator=number(0.0, 1.0))

    reference = "Gardner and McKenzie 1985 (forecasting trends): a damped trend"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """From the newest two known states."""
        out = list(window.state_rows)
        for r in range(2, window.rows + 1):
            if rows[r].any():
                guess = out[r - 1] + self._difference(out[r - 2], out[r - 1])
                out[r] = where_rows(rows[r], guess.to(out[r].dtype), out[r])
        return out

    def _difference(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return self.keep * (after - before)


@attrs.frozen
class OnwardShaken(Onward):
    __doc__ = Onward.__doc__

    def _difference(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        step = self.keep * (after - before)
        return step + 1e-3 * torch.randn_like(step) * step.abs()  # breaks ties between equal guesses


@attrs.frozen
class OnwardBack(Onward):
    __doc__ = Onward.__doc__

    def _difference(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return self.keep * (before - after)


@attrs.frozen
class Carried(Initializer):
    """Outputs of the last round where a node has one, the newest beyond, carried through the scheme's own steps.

    Attributes:
        fade: how much of the newest output is kept beyond the known ones, between 0 and 1 (all of it).
    """

    fade: float = attrs.field(default=1.0, validator=number(0.0, 1.0))

    reference = "Lu et al. 2025 (ParaSolver): points extrapolated with a frozen prediction"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep from the front; known states stay."""
        if last is None:
            return list(window.state_rows)
        known, work = window.state_rows, window.moved(window.state_rows)
        predicted, outputs = self._predicted(window, last), list[torch.Tensor]()
        for row in range(window.rows):
            self._advance(work, row, predicted[row], outputs)
            work.state_rows[row + 1] = where_rows(rows[row + 1], work.state_rows[row + 1], known[row + 1])
        return work.state_rows

    def _advance(self, work: Window, row: int, predicted: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        work.sweep_row(row, predicted, outputs)

    def _predicted(self, window: Window, last: Round) -> list[torch.Tensor]:
        """P outputs in the composition's form."""
        source = window.nodes - last.window.front[None, :]
        index = np.clip(source, 0, last.window.rows - 1)
        held = pick([last.form_output(r) for r in range(last.window.rows)], index)
        weight = np.where(source < last.window.rows, 1.0, self.fade)
        return [(held[r] * per_sample(weight[r], held[r])).to(held[r].dtype) for r in range(window.rows)]


@attrs.frozen
class CarriedOneStep(Carried):
    __doc__ = Carried.__doc__

    def _advance(self, work: Window, row: int, predicted: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        scheme, state = work.scheme, work.state_rows[row]
        node = np.minimum(work.nodes[row], scheme.steps - 1)
        u, v, _ = work.gain_rows
        newest = state * per_sample(u[row], state) + predicted * per_sample(v[row], predicted)
        moved = state * per_sample(scheme.a[node, 0], state) + newest * per_sample(scheme.b[node, 0], newest)
        work.state_rows[row + 1] = moved.to(state.dtype)


@attrs.frozen
class CarriedWindow(Carried):
    __doc__ = Carried.__doc__

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """No round before the first."""
        return {"before": None}

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep from the front; known states stay."""
        return Carried.enter(self, window, rows, last if last is not None else state["before"], state)

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """The round, for the next entry."""
        return {"before": round}


@attrs.frozen
class Thinned(Selection):
    """The first rows are evaluated all, every ``stride``-th of those behind; dense until a sample has saved a round.

    Outputs between are interpolated linearly in the scheme's time, beyond the last they are held. At tolerance 0 all
    rows are dense.

    Attributes:
        near: rows from the front that are always evaluated, at least 1.
        stride: distance of evaluated rows behind these, at least 1.
    """

    near: int = attrs.field(default=3, validator=integer(1))
    stride: int = attrs.field(default=2, validator=integer(1))

    causal = True
    reference = "this file; thinning as in multirate methods, Gear and Wells 1984"

    def span(self, width: int, steps: int) -> int:
        """``near + (width - near) * stride`` rows."""
        near = min(self.near, width)
        return near + (width - near) * self.stride

    def _dense(self, window: Window) -> Bools:
        """``(B,)`` samples that evaluate their first rows one by one."""
        return np.asarray((window.front == window.rounds) | (window.tolerance == 0), dtype=np.bool_)

    def _far(self, window: Window) -> Bools:
        """``(P, 1)`` rows that are evaluated when a sample is not dense."""
        row = np.arange(window.rows)[:, None]
        near = min(self.near, window.width)
        return (row < near) | ((row - near + 1) % self.stride == 0)

    def rows(self, window: Window, state: Any) -> Bools:
        """Dense or thinned, by sample."""
        dense = np.arange(window.rows)[:, None] < window.width
        return np.asarray(np.where(self._dense(window)[None, :], dense, self._far(window)), dtype=np.bool_)

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """Between neighbours by time, beyond them held."""
        known, count = ~rows & round.window.valid, len(rows)
        known[0] = True
        index = np.arange(count)[:, None]
        left = np.maximum.accumulate(np.where(known, index, 0), axis=0)
        right = np.minimum.accumulate(np.where(known, index, count)[::-1], axis=0)[::-1]
        right = np.where(right < count, right, left)
        below, above = pick(round.outputs, left), pick(round.outputs, right)
        fraction = self._fractions(round.window, left, right)
        out = list(round.outputs)
        for r in range(1, count):
            if rows[r].any():
                a, b = below[r], above[r]
                out[r] = where_rows(rows[r], (a + (b - a) * per_sample(fraction[r], a)).to(a.dtype), out[r])
        return out

    def _fractions(self, window: Window, left: Any, right: Any) -> Floats:
        """``(P, B)`` how far each row lies from its left neighbour to its right one."""
        time = window.scheme.time[np.minimum(window.nodes, window.scheme.steps - 1)]
        begin, end = np.take_along_axis(time, left, axis=0), np.take_along_axis(time, right, axis=0)
        span = end - begin
        return np.divide(time - begin, span, out=np.zeros(span.shape), where=span != 0)


@attrs.frozen
class ThinnedTogether(Thinned):
    __doc__ = Thinned.__doc__

    def _dense(self, window: Window) -> Bools:
        """``(B,)`` samples that evaluate their first rows one by one."""
        dense = np.asarray((window.front == window.rounds) | (window.tolerance == 0), dtype=np.bool_)
        return np.full_like(dense, dense[window.running].any())


@attrs.frozen
class ThinnedByLot(Thinned):
    __doc__ = Thinned.__doc__

    def _far(self, window: Window) -> Bools:
        """``(P, 1)`` rows that are evaluated when a sample is not dense."""
        near = min(self.near, window.width)
        chosen = np.arange(window.rows)[:, None] < near
        behind = range(near, window.rows)
        for row in random.sample(behind, min(len(behind) // self.stride, window.width - near)):
            chosen[row] = True
        return chosen


@attrs.frozen
class ThinnedUnsaid(Thinned):
    __doc__ = Thinned.__doc__

    reference = ""


ORIGINALS = [
    Mutant("initializer:onward", "initializer", lambda: Onward, "", "Keeps the contract."),
    Mutant("initializer:carried", "initializer", lambda: Carried, "", "Keeps the contract."),
    Mutant("selection:thinned", "selection", lambda: Thinned, "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "initializer:shaken by the global generator",
        "initializer",
        lambda: OnwardShaken,
        "random",
        "The same inputs give the same bits; the global generator is not drawn from.",
    ),
    Mutant(
        "initializer:trend backwards",
        "initializer",
        lambda: OnwardBack,
        "sign",
        "A guess leads along the trajectory, not back.",
    ),
    Mutant(
        "initializer:first column of the table alone",
        "initializer",
        lambda: CarriedOneStep,
        "schemes",
        "On tables with memory or noise a guess goes through the scheme's own step.",
    ),
    Mutant(
        "initializer:the round itself in the state",
        "initializer",
        lambda: CarriedWindow,
        "not-plain",
        "The state is plain data.",
    ),
    Mutant(
        "selection:dense while any sample is",
        "selection",
        lambda: ThinnedTogether,
        "batch-coupled",
        "A choice depends on what the sample has seen, not on its batch mates.",
    ),
    Mutant(
        "selection:rows by lot",
        "selection",
        lambda: ThinnedByLot,
        "random",
        "A part that draws keeps its generator's state in its own state, from a seed among its options.",
    ),
    Mutant(
        "selection:no source",
        "selection",
        lambda: ThinnedUnsaid,
        "undocumented",
        "Each part says where it is from; what has no source says that.",
    ),
]
