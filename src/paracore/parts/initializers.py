"""Initial guesses for the states of rows that enter the window."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import ConfigurationError
from paracore.parts.options import number
from paracore.problem import Problem
from paracore.slide import pick
from paracore.strategies import Initializer
from paracore.window import Bools, Floats, Round, Window, per_sample, where_rows

__all__ = ["Copy", "DampedLinear", "Hold", "Linear", "WarmStart"]


def prior(window: Window, rows: Bools) -> list[torch.Tensor]:
    """Before any output is known: the front scaled to each node's noise level (data prediction zero), or copied."""
    out, levels = list(window.state_rows), window.scheme.levels
    if levels is None:
        return out
    sigma = levels.sigma[np.minimum(np.arange(window.rows + 1)[:, None] + window.front, window.scheme.steps)]
    for r in range(1, window.rows + 1):
        if rows[r].any():
            scale = np.divide(sigma[r], sigma[0], out=np.ones(window.batch), where=sigma[0] > 0)
            guess = (out[0] * per_sample(scale, out[0])).to(out[0].dtype)
            out[r] = where_rows(rows[r], guess, out[r])
    return out


def _extrapolate(window: Window, rows: Bools, last: Round | None, trend: float) -> list[torch.Tensor]:
    """Sweep predicted outputs through the scheme from the newest known state of each sample."""
    if last is None:
        return prior(window, rows)
    old = last.window
    newest = last.form_output(old.rows - 1)
    slope: torch.Tensor | None = None
    if trend and old.rows > 1:
        slope = newest - last.form_output(old.rows - 2)
        if trend != 1:
            slope = slope.mul_(trend)
    first = int(np.argmax(rows.any(axis=1)))
    known = window.state_rows
    work = window.moved(known)
    shift = window.front - old.front
    memory = window.scheme.memory
    outputs = _known_outputs(last, first, shift) if memory else []
    factors = _slopes_ahead(window, old, 1.0 if trend < 1 else np.inf) if slope is not None else None
    made: dict[bytes, torch.Tensor] = {}

    def predicted(row: int) -> torch.Tensor:
        if slope is None or factors is None:
            return newest
        factor = factors[row]
        key = factor.tobytes()
        if key not in made:  # the same for all rows, usually
            made.clear()
            step = slope if (factor == 1).all() else slope * per_sample(factor, slope)
            made[key] = (newest + step).to(newest.dtype)
        return made[key]

    for row in range(first - 1, window.rows):
        work.sweep_row(row, predicted(row), outputs)
        work.state_rows[row + 1] = where_rows(rows[row + 1], work.state_rows[row + 1], known[row + 1])
        if memory:  # samples that enter later still know their output here
            source = np.clip(row + shift, 0, old.rows - 1)
            outputs[-1] = where_rows(row + shift < old.rows, pick(last.outputs, source[None, :])[0], outputs[-1])
    return work.state_rows


def _slopes_ahead(window: Window, old: Window, most: float) -> Floats:
    """``(P, B)`` how many slopes each row's node lies ahead of the newest output's, at most ``most``: a trend must not
    run away over many rows.
    """
    time, end = window.scheme.time, window.scheme.steps - 1
    at, before = (time[np.minimum(old.front + old.rows - back, end)] for back in (1, 2))
    ahead = time[np.minimum(window.nodes, end)] - at
    span = at - before
    return np.clip(np.divide(ahead, span, out=np.zeros(ahead.shape), where=span != 0), -1.0, most)


def _known_outputs(last: Round, first: int, shift: Any) -> list[torch.Tensor]:
    """Outputs of the rows before the first entering state, at the new window's rows (read by multistep tables)."""
    if first < 2:
        return []
    index = np.clip(np.arange(first - 1)[:, None] + shift[None, :], 0, last.window.rows - 1)
    return pick(last.outputs, index)


@attrs.frozen
class Copy(Initializer):
    """Entering states are copies of the newest known state (ParaDIGMS, ParaTAA)."""

    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Algorithm 1"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """The rows as they are: the engine enters copies."""
        return list(window.state_rows)


@attrs.frozen
class Hold(Initializer):
    """The newest output, held in the composition's form, carried on through the scheme.

    Before any output is known the data prediction is taken as zero: states scale with the noise level.
    """

    reference = "Lu et al. 2025 (ParaSolver): points extrapolated with a frozen prediction"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep with the newest output."""
        return _extrapolate(window, rows, last, 0.0)


@attrs.frozen
class Linear(Initializer):
    """Outputs extrapolated linearly in the scheme's time from the newest two, carried through the scheme."""

    reference = "Adams-Bashforth extrapolation of order 2, in the scheme's own time"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep with the extrapolated outputs."""
        return _extrapolate(window, rows, last, 1.0)


@attrs.frozen
class DampedLinear(Initializer):
    """Like linear extrapolation, with a part of the slope, over at most one node.

    Attributes:
        trend: how much of the newest slope is kept, between 0 (hold) and 1.
    """

    trend: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    reference = "this library: docs/mathematics.md; Gardner and McKenzie 1985 damp a trend for the same reason"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep with the extrapolated outputs."""
        return _extrapolate(window, rows, last, self.trend)


@attrs.frozen(eq=False, repr=False)
class WarmStart(Initializer):
    """Entering states are taken from a given trajectory: an earlier solve with the same noise, say.

    Attributes:
        trajectory: ``(N + 1, B, *event)``, as ``Result.trajectory`` has it; or ``B = 1`` for all samples.
    """

    trajectory: torch.Tensor

    reference = "Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Section 4.3"

    def __repr__(self) -> str:
        return f"WarmStart(trajectory={tuple(self.trajectory.shape)})"

    def start(self, problem: Problem, rows: int) -> Any:
        """Check that the trajectory fits the problem."""
        expected = (problem.scheme.steps + 1, problem.batch, *problem.x0.shape[1:])
        got = tuple(self.trajectory.shape)
        if got not in (expected, (expected[0], 1, *expected[2:])):
            raise ConfigurationError(f"warm start: the trajectory has shape {got}; {expected} is needed")
        return None

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Look the states up by node."""
        out = list(window.state_rows)
        steps = window.scheme.steps
        for r in range(1, window.rows + 1):
            if rows[r].any():
                node = torch.from_numpy(np.minimum(window.front + r, steps)).to(self.trajectory.device)
                sample = torch.arange(window.batch, device=self.trajectory.device) % self.trajectory.shape[1]
                out[r] = self.trajectory[node, sample].to(out[r])
        return out
