"""Damping at the corner of the L-curve."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from paracore import Problem
from paracore.errors import ConfigurationError
from paracore.parts.options import integer, number
from paracore.strategies import DampingPolicy
from paracore.window import Bools, Floats, Round
from paracore_ropa.damping import move_norms

__all__ = ["LCurve", "corner"]

MOST_POINTS = 64


def corner(remaining: Floats, moves: Floats) -> Floats:
    """``(B,)`` index of the corner: the point of an L-curve where the logarithmic curve bends most.

    Args:
        remaining: ``(G, B)`` norms of what the linear system leaves.
        moves: ``(G, B)`` norms of its solutions.
    """
    tiny = np.finfo(np.float64).tiny
    x, y = np.log(np.maximum(remaining, tiny)), np.log(np.maximum(moves, tiny))
    left = np.stack([x[1:-1] - x[:-2], y[1:-1] - y[:-2]])
    right = np.stack([x[2:] - x[1:-1], y[2:] - y[1:-1]])
    area = np.abs(left[0] * right[1] - left[1] * right[0])
    sides = np.hypot(*left) * np.hypot(*right) * np.hypot(*(left + right))
    bend = np.divide(2.0 * area, sides, out=np.zeros_like(area), where=np.isfinite(sides) & (sides > 0))
    return np.asarray(1 + np.argmax(np.nan_to_num(bend), axis=0), dtype=np.float64)


@attrs.frozen
class LCurve(DampingPolicy):
    """One factor per sample and round, at the corner of ``log |R - J dX|`` against ``log |dX|`` over a grid.

    Every factor of the grid is tried (a substitution each, no network call). No product with J is needed: the solution
    of ``(J + lambda) dX = R`` leaves ``R - J dX = lambda dX``. The text names the rule and then describes another one
    (``step-ratio``). For rows that follow no other the curve is the same whatever the data,
    ``(lambda / (1 + lambda), 1 / (1 + lambda))``, with its corner at ``lambda = 1``: half steps.

    Where a round has one trial only (``gmres``) the last round's corner cannot be looked for, and the first factor of
    the grid is used.

    Attributes:
        lowest, highest: ends of the grid, which is logarithmic.
        points: factors in it, 3 to 63.
    """

    lowest: float = attrs.field(default=1e-4, validator=number(0.0))
    highest: float = attrs.field(default=1e2, validator=number(0.0))
    points: int = attrs.field(default=13, validator=integer(3))

    retries: ClassVar[int] = MOST_POINTS
    causal = False  # one factor for all rows
    reference = "ROPA, Section 4.1; Hansen 1992, Analysis of discrete ill-posed problems by means of the L-curve"

    def __attrs_post_init__(self) -> None:
        if not 0 < self.lowest < self.highest:
            raise ConfigurationError(
                f"LCurve: lowest is {self.lowest} and highest {self.highest}; 0 < lowest < highest is needed"
            )
        if self.points >= MOST_POINTS:
            raise ConfigurationError(f"LCurve: points is {self.points}; at most {MOST_POINTS - 1} are tried")

    @property
    def grid(self) -> Floats:
        """The factors."""
        return np.asarray(np.geomspace(self.lowest, self.highest, self.points))

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing tried."""
        none = np.zeros(problem.batch, dtype=np.int64)
        return {"rounds": none - 1, "tries": none, "moves": np.zeros((self.points, problem.batch))}

    def _tries(self, round: Round, state: Any) -> Any:
        """``(B,)`` trials judged in this round."""
        return np.where(round.window.rounds == state["rounds"], state["tries"], 0)

    def factors(self, round: Round, state: Any) -> Floats:
        """The next factor of the grid; after the last one, the corner's."""
        tries, grid = self._tries(round, state), self.grid
        best = corner(grid[:, None] * state["moves"], state["moves"]).astype(np.int64)
        chosen = grid[np.where(tries < self.points, np.minimum(tries, self.points - 1), best)]
        return np.broadcast_to(chosen, round.age.shape).copy()

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools, Any]:
        """Book the length of the step; go on while the grid lasts."""
        tries = self._tries(round, state)
        size = np.sqrt((move_norms(round, trial) ** 2).sum(axis=0))
        here = np.arange(self.points)[:, None] == tries[None, :]
        moves = np.where(here, size[None, :], state["moves"])
        retry = (tries < self.points)[None, :] & round.window.valid
        return retry, {
            "rounds": round.window.rounds.copy(),
            "tries": np.minimum(tries + 1, self.points + 1),
            "moves": moves,
        }
