"""Initial guesses: three correct ones, and wrong ones made of them."""

from __future__ import annotations

import time
from typing import Any

import attrs
import numpy as np
import torch

from kit.mutants_a.records import Mutant, correct
from paracore import Initializer, Problem, Round, Window
from paracore.parts.options import integer, number
from paracore.slide import pick
from paracore.window import Bools, Ints, per_sample, where_rows

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Drift(Initializer):
    """Entering states go on from the newest known one by a part of its distance from the one before.

    Attributes:
        trend: the part, between 0 (a copy) and 1.
    """

    trend: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    reference = "linear extrapolation; Hairer, Norsett and Wanner, Solving ODEs I, Section III.1"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[Any]:
        """One guess for all entering rows of a sample."""
        move = self._move(window, (~rows).sum(axis=0))
        out = list(window.state_rows)
        for r in np.flatnonzero(rows.any(axis=1)).tolist():  # entering rows hold copies of the newest known state
            out[r] = where_rows(rows[r], out[r] + move, out[r])
        return out

    def _move(self, window: Window, known: Ints) -> torch.Tensor:
        """``(B, *event)``, from the newest two of ``known (B,)`` states."""
        newest, before = (pick(window.state_rows, np.maximum(known - k, 0)[None, :])[0] for k in (1, 2))
        return (newest - before) * self.trend


@attrs.frozen
class Jitter(Initializer):
    """Entering states are copies with a little noise of the node's level, the same noise for all samples.

    Attributes:
        strength: of the noise, in units of the node's ``sigma``.
        seed: of the draws.
    """

    strength: float = attrs.field(default=0.01, validator=number(0.0, 1.0))
    seed: int = attrs.field(default=0, validator=integer(0))

    needs = frozenset({"levels"})
    reference = "ROPA, Algorithm 1, line 1, with a small strength"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[Any]:
        """A draw for each node that enters."""
        levels, out = window.scheme.levels, list(window.state_rows)
        assert levels is not None
        for r in np.flatnonzero(rows.any(axis=1)).tolist():
            node = np.minimum(window.front + r, window.scheme.steps)
            guess = out[r] + self._draws(node, out[r]) * per_sample(self.strength * levels.sigma[node], out[r])
            out[r] = where_rows(rows[r], guess.to(out[r].dtype), out[r])
        return out

    def _draws(self, node: Ints, like: torch.Tensor) -> torch.Tensor:
        """``(B, *event)`` standard normal noise by each sample's node."""
        return torch.stack([self._draw(n, like[0]) for n in node.tolist()])

    def _draw(self, node: int, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10_007 * self.seed + node)
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


@attrs.frozen
class Momentum(Initializer):
    """Entering states go on from the newest known one by a running mean of the steps at the window's end.

    Attributes:
        decay: what a round leaves of the mean, between 0 and 1.
    """

    decay: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    reference = "Polyak 1964, doi:10.1016/0041-5553(64)90137-5, for the running mean"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """At rest."""
        return {"velocity": torch.zeros_like(problem.x0)}

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[Any]:
        """The same step for all entering rows of a sample."""
        out = list(window.state_rows)
        for r in np.flatnonzero(rows.any(axis=1)).tolist():
            out[r] = where_rows(rows[r], out[r] + state["velocity"], out[r])
        return out

    def observe(self, round: Round, state: Any) -> Any:
        """Learn the chain's last step."""
        step = round.chain[-1] - round.chain[-2]
        return {"velocity": state["velocity"] * self.decay + step * (1.0 - self.decay)}


# -- mutants ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class OnTheSpot(Drift):
    __doc__ = Drift.__doc__

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[Any]:
        """The rows are moved where they lie."""
        move = self._move(window, (~rows).sum(axis=0))
        out = list(window.state_rows)
        for r in np.flatnonzero(rows.any(axis=1)).tolist():
            out[r].data.add_(move)
        return out


@attrs.frozen
class MeanMove(Drift):
    __doc__ = Drift.__doc__

    def _move(self, window: Window, known: Ints) -> torch.Tensor:
        return super()._move(window, known).mean(dim=0, keepdim=True)


@attrs.frozen
class SecondRow(Drift):
    __doc__ = Drift.__doc__

    def _move(self, window: Window, known: Ints) -> torch.Tensor:
        return (window.state_rows[2] - window.state_rows[1]) * self.trend


@attrs.frozen
class ManyTrends(Drift):
    """Entering states go on from the newest known one by a part of its distance from the one before.

    Attributes:
        trends: parts, between 0 (a copy) and 1, of which the mean is taken.
    """

    trend: float = attrs.field(default=0.5, init=False, repr=False)
    trends: list[float] = attrs.field(default=[0.4, 0.6])

    def _move(self, window: Window, known: Ints) -> torch.Tensor:
        return super()._move(window, known) * (sum(self.trends) / len(self.trends) / self.trend)


@attrs.frozen
class WideGuess(Drift):
    __doc__ = Drift.__doc__

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[Any]:
        """In double precision."""
        return [row.double() for row in super().enter(window, rows, last, state)]


@attrs.frozen
class AnyNoise(Jitter):
    __doc__ = Jitter.__doc__

    def _draw(self, node: int, like: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(like)


@attrs.frozen
class ClockSeed(Jitter):
    __doc__ = Jitter.__doc__

    def _draw(self, node: int, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(time.time_ns() % 2**31 + self.seed)
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


@attrs.frozen
class BatchDraw(Jitter):
    __doc__ = Jitter.__doc__

    def _draws(self, node: Ints, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10_007 * self.seed + int(node[0]))
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


@attrs.frozen
class MisspeltNeed(Jitter):
    __doc__ = Jitter.__doc__

    needs = frozenset({"level"})


@attrs.frozen
class SameVelocity(Momentum):
    __doc__ = Momentum.__doc__

    def observe(self, round: Round, state: Any) -> Any:
        """Learn the chain's last step, in the same tensor."""
        step = round.chain[-1] - round.chain[-2]
        state["velocity"].mul_(self.decay).add_(step, alpha=1.0 - self.decay)
        return state


ORIGINALS = [
    correct("initializer:drift", "initializer", lambda: Drift),
    correct("initializer:jitter", "initializer", lambda: Jitter),
    correct("initializer:momentum", "initializer", lambda: Momentum),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str, runs: str = "yes") -> Mutant:
    return Mutant(f"initializer:{name}", "initializer", lambda: part, breaks, contract, f"initializer:{original}", runs)


MUTANTS = [
    _wrong(
        "on-the-spot", OnTheSpot, "read-only", "the window's states are not written into, not through .data", "drift"
    ),
    _wrong("mean-move", MeanMove, "batch", "a sample's guess is made of its own states", "drift"),
    _wrong("second-row", SecondRow, "range", "a window may have one row only", "drift", "stopped at window 1"),
    _wrong("many-trends", ManyTrends, "record", "options are immutable and hashable, their defaults too", "drift"),
    _wrong("wide-guess", WideGuess, "dtype", "guesses have the states' dtype", "drift", "stopped but in float64"),
    _wrong("any-noise", AnyNoise, "deterministic", "no draw comes from the global generator", "jitter"),
    _wrong("clock-seed", ClockSeed, "deterministic", "a seed is an option, not the time", "jitter"),
    _wrong("batch-draw", BatchDraw, "batch", "a sample's noise does not depend on its place in the batch", "jitter"),
    _wrong("misspelt-need", MisspeltNeed, "capability", "needs are among 'levels', 'score' and 'jvp'", "jitter"),
    _wrong("same-velocity", SameVelocity, "read-only", "observe returns a new state, tensors too", "momentum"),
]
