"""Selections: two correct ones, and wrong ones made of them."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from kit.mutants_a.records import Mutant, correct
from paracore import Problem, Round, Selection, Window
from paracore.parts.options import integer
from paracore.slide import pick
from paracore.window import Bools, Floats, Ints, per_sample, where_rows

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Comb(Selection):
    """Evaluates the front and the nodes that are multiples of a stride; outputs between are interpolated.

    At tolerance 0 the first ``window`` rows are evaluated.

    Attributes:
        stride: distance of the nodes, at least 1.
    """

    stride: int = attrs.field(default=2, validator=integer(1))

    reference = "docs/mathematics.md, section 6, with nodes that stay where they are"

    def span(self, width: int, steps: int) -> int:
        """As many rows as hold ``width`` nodes."""
        return (width - 1) * self.stride + 1

    def rows(self, window: Window, state: Any) -> Bools:
        """``(P, B)``."""
        row = np.arange(window.rows)[:, None]
        if window.tolerance == 0:
            return np.repeat(row < window.width, window.batch, axis=1)
        return np.asarray((self._nodes(window) % self.stride == 0) | (row == 0))

    def _nodes(self, window: Window) -> Ints:
        """``(P, B)`` what is compared with the stride."""
        return window.nodes

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """Linear between the nearest rows that have an output, held beyond the last of them."""
        known = (round.age >= 0) & round.window.valid
        known[0] = True
        index, count = np.arange(len(known))[:, None], len(known)
        left = np.maximum.accumulate(np.where(known, index, 0), axis=0)
        right = np.minimum.accumulate(np.where(known, index, count)[::-1], axis=0)[::-1]
        right = np.where(right < count, right, left)
        share = (index - left) / np.maximum(right - left, 1)
        low, high, out = pick(round.outputs, left), pick(round.outputs, right), list(round.outputs)
        for r in np.flatnonzero(rows.any(axis=1)).tolist():
            out[r] = where_rows(rows[r], self._between(low[r], high[r], share[r]), out[r])
        return out

    def _between(self, low: torch.Tensor, high: torch.Tensor, share: Floats) -> torch.Tensor:
        return (low + (high - low) * per_sample(share, low)).to(low.dtype)


@attrs.frozen
class Oldest(Selection):
    """Evaluates the front and the rows whose outputs are oldest, of a window that is longer than its evaluations.

    At tolerance 0 the first ``window`` rows are evaluated.

    Attributes:
        factor: length of the window, in evaluations.
    """

    factor: int = attrs.field(default=2, validator=integer(1))

    reference = "Chazan and Miranker 1969 (chaotic relaxation), doi:10.1016/0024-3795(69)90028-7"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """No row was evaluated."""
        return {"age": self._new((rows, problem.batch)), "front": np.zeros(problem.batch, dtype=np.int64)}

    def span(self, width: int, steps: int) -> int:
        """``factor * width``."""
        return self.factor * width

    def rows(self, window: Window, state: Any) -> Bools:
        """``(P, B)``."""
        row = np.arange(window.rows)[:, None]
        if window.tolerance == 0:
            return np.repeat(row < window.width, window.batch, axis=1)
        age = np.where(window.valid, self._age(window, state), -1)
        age[0] = np.iinfo(np.int64).max
        order = np.argsort(-age, axis=0, kind="stable")
        chosen = np.zeros(window.nodes.shape, dtype=np.bool_)
        np.put_along_axis(chosen, order[: window.width], True, axis=0)
        return chosen

    def observe(self, round: Round, state: Any) -> Any:
        """One round older, unless evaluated."""
        age = np.where(round.evaluated, 0, np.minimum(self._age(round.window, state) + 1, 1000))
        return {"age": age, "front": round.window.front.copy()}

    def _age(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` rounds since each row was evaluated, 1000 where that never happened."""
        return window.realign(state["age"], state["front"], fill=1000)

    def _new(self, shape: tuple[int, int]) -> Ints:
        return np.full(shape, 1000, dtype=np.int64)


# -- mutants ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class FromTheSlowest(Comb):
    __doc__ = Comb.__doc__

    def _nodes(self, window: Window) -> Ints:
        return np.asarray(window.nodes - window.front.min())


@attrs.frozen
class WhileAllRun(Comb):
    __doc__ = Comb.__doc__

    def rows(self, window: Window, state: Any) -> Bools:
        """Dense as soon as one sample has ended."""
        if not window.running.all():
            return np.repeat((np.arange(window.rows) < window.width)[:, None], window.batch, axis=1)
        return super().rows(window, state)


@attrs.frozen
class ByChance(Comb):
    __doc__ = Comb.__doc__

    def _nodes(self, window: Window) -> Ints:
        return window.nodes + random.randrange(self.stride)


@attrs.frozen
class TooMuch(Comb):
    __doc__ = Comb.__doc__

    def _between(self, low: torch.Tensor, high: torch.Tensor, share: Floats) -> torch.Tensor:
        return (low + high * per_sample(share, low)).to(low.dtype)


@attrs.frozen
class Greedy(Comb):
    __doc__ = Comb.__doc__

    def rows(self, window: Window, state: Any) -> Bools:
        """All of them."""
        return np.ones(window.nodes.shape, dtype=np.bool_)


@attrs.define(eq=True, unsafe_hash=True)
class Adjusting(Selection):
    """Evaluates the front and the nodes that are multiples of a stride; outputs between are held.

    At tolerance 0 the first ``window`` rows are evaluated.

    Attributes:
        stride: distance of the nodes, at least 1.
    """

    stride: int = attrs.field(default=2, validator=integer(1))

    reference = "docs/mathematics.md, section 6, with nodes that stay where they are"

    def start(self, problem: Problem, rows: int) -> None:
        """A stride is at most a tenth of the steps."""
        self.stride = max(1, min(self.stride, problem.scheme.steps // 10))

    def span(self, width: int, steps: int) -> int:
        """As many rows as hold ``width`` nodes."""
        return (width - 1) * self.stride + 1

    def rows(self, window: Window, state: Any) -> Bools:
        """``(P, B)``."""
        row = np.arange(window.rows)[:, None]
        if window.tolerance == 0:
            return np.repeat(row < window.width, window.batch, axis=1)
        return np.asarray((window.nodes % self.stride == 0) | (row == 0))


class TakesTurns(Comb):
    __doc__ = Comb.__doc__

    turn: ClassVar[int] = 0

    def _nodes(self, window: Window) -> Ints:
        TakesTurns.turn += 1
        return window.nodes + TakesTurns.turn


@attrs.frozen
class Numbers(Comb):
    __doc__ = Comb.__doc__

    def rows(self, window: Window, state: Any) -> Any:
        """Ones and zeros."""
        return super().rows(window, state).astype(np.int64)


@attrs.frozen
class Unaligned(Oldest):
    __doc__ = Oldest.__doc__

    def _age(self, window: Window, state: Any) -> Ints:
        return np.asarray(state["age"][: window.rows])


ORIGINALS = [
    correct("selection:comb", "selection", lambda: Comb),
    correct("selection:oldest", "selection", lambda: Oldest),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str, runs: str = "yes") -> Mutant:
    return Mutant(f"selection:{name}", "selection", lambda: part, breaks, contract, f"selection:{original}", runs)


MUTANTS = [
    _wrong("from-the-slowest", FromTheSlowest, "batch", "a sample's rows do not depend on its mates' fronts", "comb"),
    _wrong("while-all-run", WhileAllRun, "batch", "a sample's rows do not depend on whether its mates ended", "comb"),
    _wrong("by-chance", ByChance, "deterministic", "no number comes from Python's global generator", "comb"),
    _wrong("too-much", TooMuch, "scale", "between equal outputs the filled one is equal to them", "comb"),
    _wrong("greedy", Greedy, "range", "at most window rows of a sample are chosen", "comb"),
    _wrong("adjusting", Adjusting, "record", "start does not change the part's options", "comb"),
    _wrong("takes-turns", TakesTurns, "stateless", "a counter of the class does not survive a checkpoint", "comb"),
    _wrong("numbers", Numbers, "shape", "rows are bool", "comb", "no"),
    _wrong("unaligned", Unaligned, "realign", "a row's age moves with its node when the front does", "oldest"),
]
