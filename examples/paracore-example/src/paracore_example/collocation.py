"""A selection that evaluates every k-th row, and reads the others off polynomials through them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.parts import EveryKth
from paracore.parts.options import integer, number
from paracore.window import Bools, Floats, Round, Window, where_rows
from paracore_example.past import Line, behind, empty, joined, recorded
from paracore_example.polynomials import interpolated

__all__ = ["Collocation"]


@attrs.frozen
class Collocation(paracore.Selection):
    """Evaluates every k-th row; the outputs between lie on polynomials in time through the nearest known ones.

    The scheme's own table then integrates the polynomials, as the integration matrix of spectral deferred correction
    does, and each round is one of its sweeps. ``every-kth`` is the case of degree 1, and what this falls back to where
    polynomials fail: beyond the last known row, between equal times, and where weights would amplify errors. At the
    left end the outputs that were accepted last are used too. The error that interpolation leaves is of a higher order
    in the stride; no tolerance removes it, and at tolerance 0 every row is evaluated before it is accepted.

    Attributes:
        stride: k; 0 chooses it as ``every-kth`` does.
        degree: of the polynomials.
        trend: how much of the last slope is kept beyond the last known row.
    """

    stride: int = attrs.field(default=0, validator=integer(0))
    degree: int = attrs.field(default=3, validator=integer(1))
    trend: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    causal = False
    reference = "Dutt, Greengard, Rokhlin 2000 (spectral deferred correction), doi:10.1023/A:1022338906936, Section 3"

    @property
    def _linear(self) -> EveryKth:
        return EveryKth(self.stride, self.trend)

    def start(self, problem: paracore.Problem, rows: int) -> dict[str, Any]:
        """Nothing accepted."""
        return empty(problem)

    def span(self, width: int, steps: int) -> int:
        """As many rows as ``every-kth`` spans."""
        return self._linear.span(width, steps)

    def rows(self, window: Window, state: Any) -> Bools:
        """The rows that ``every-kth`` evaluates."""
        return self._linear.rows(window, None)

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        """Polynomials where both sides are known, else ``every-kth``'s lines."""
        window = round.window
        out = self._linear.fill(round, rows, None)
        known = (round.age >= 0) & window.valid
        line = joined(behind(state, window, self.degree), round.outputs, known)
        offset = len(line.outputs) - window.rows
        for r in range(1, window.rows):
            if not rows[r].any():
                continue
            weights = self._weights(window, line, offset + r, rows[r])
            made = np.asarray(weights.any(axis=0))
            if made.any():
                out[r] = where_rows(made, line.combined(weights), out[r])
        return out

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """Record the outputs."""
        return recorded(state, round.window, round.outputs, round.age >= 0, self.degree)

    def _weights(self, window: Window, line: Line, at: int, who: Bools) -> Floats:
        """``(L, B)`` weights for the entry ``at``; all zero for samples that no polynomial serves."""
        time, end = window.scheme.time, window.scheme.steps - 1
        out = np.zeros((len(line.outputs), window.batch))
        made: dict[tuple[bytes, bytes, int], tuple[Floats, Floats] | None] = {}  # samples in step share theirs
        for b in np.flatnonzero(who).tolist():
            there = np.flatnonzero(line.known[:, b])
            left, right = there[there < at][::-1], there[there > at]
            if not len(left) or not len(right):
                continue
            first = int(line.first[b])
            key = left.tobytes(), right.tobytes(), first
            if key not in made:
                times = time[np.clip(first + np.arange(len(out)), 0, end)]
                made[key] = interpolated(times[left], times[right], float(times[at]), self.degree)
            found = made[key]
            if found is not None:
                out[left, b], out[right, b] = found
        return out
