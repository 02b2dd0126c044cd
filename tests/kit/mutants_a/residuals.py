"""Residual constructions: three correct ones, and wrong ones made of them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kit.mutants_a.records import Mutant, correct
from paracore import Problem, ResidualConstruction, Round, Window
from paracore.parts.options import integer, number
from paracore.schemes import RowWeights, look_ahead_weights
from paracore.window import Floats, Ints

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Unrolled(ResidualConstruction):
    """Every residual substitutes the same number of steps, fewer where the front is nearer.

    Attributes:
        width: steps that are substituted, at least 1.
    """

    width: int = attrs.field(default=3, validator=integer(1))

    reference = "Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Definition 2.1"

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` look-ahead of each row."""
        cut = np.minimum(np.arange(1, window.rows + 1), self.width)
        return np.repeat(cut[:, None], window.batch, axis=1)

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))


@attrs.frozen
class OneStep(ResidualConstruction):
    """The scheme's own step, row by row, its weights read off the table."""

    reference = "docs/mathematics.md, section 1"

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """All ones."""
        return np.ones(window.nodes.shape, dtype=np.int64)

    def weights(self, window: Window, state: Any) -> RowWeights:
        """One row of the table for each row of the window, none beyond N."""
        scheme, past, rows = window.scheme, window.scheme.memory, window.rows
        node = np.minimum(window.nodes, scheme.steps - 1)
        inside = (window.nodes < scheme.steps).astype(np.float64)
        x = np.zeros((rows, past + rows, window.batch))
        f = np.zeros_like(x)
        c = np.zeros((rows, rows, window.batch))
        for r in range(rows):
            for table, out in ((scheme.a, x), (scheme.b, f)):
                for lag in range(table.shape[1]):
                    out[r, past + r - lag] += inside[r] * table[node[r], lag]
            c[r, r] = inside[r]
        return RowWeights(x, f, c)


@attrs.frozen
class Patient(ResidualConstruction):
    """A look-ahead per row: one more where the row's residual is larger than the mean up to it, else one less.

    Attributes:
        first: look-ahead of entering rows, at least 1.
        most: largest look-ahead, at least 1.
        ratio: of the mean, above which a row grows.
    """

    first: int = attrs.field(default=1, validator=integer(1))
    most: int = attrs.field(default=4, validator=integer(1))
    ratio: float = attrs.field(default=1.0, validator=number(0.0))

    reference = "ROPA, Eq. 13, with a mean over the rows so far"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Every row at its first look-ahead."""
        width = np.full((rows, problem.batch), self.first, dtype=np.int64)
        return {"width": width, "front": np.zeros(problem.batch, dtype=np.int64)}

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` look-ahead of each row."""
        return window.realign(state["width"], state["front"], fill=self.first)

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))

    def adapt(self, round: Round, state: Any) -> dict[str, Any]:
        """Grow or shrink each row by one."""
        window, width = round.window, self.look_ahead(round.window, state)
        error = np.where(np.isfinite(round.one_step_rms), round.one_step_rms, 0.0)
        grown = width + np.where(error > self.ratio * self._mean(error), 1, -1)
        width = np.where(window.valid, np.clip(grown, 1, max(self.first, self.most)), width)
        return {"width": width, "front": window.front.copy()}

    def _mean(self, error: Floats) -> Floats:
        """``(P, B)`` mean over each row and those before it."""
        return np.asarray(np.cumsum(error, axis=0) / np.arange(1, len(error) + 1)[:, None])


# -- mutants ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Trapezoid(OneStep):
    __doc__ = OneStep.__doc__

    def weights(self, window: Window, state: Any) -> RowWeights:
        """Half of each output's weight goes to the output after it."""
        weights = super().weights(window, state)
        f = weights.f.copy()
        f[:-1] *= 0.5
        f[:-1, 1:] += 0.5 * weights.f[:-1, :-1]
        return RowWeights(weights.x, f, weights.c)


@attrs.frozen
class FirstColumns(OneStep):
    __doc__ = OneStep.__doc__

    def weights(self, window: Window, state: Any) -> RowWeights:
        """Only the newest state and output are read."""
        scheme, past, rows = window.scheme, window.scheme.memory, window.rows
        node = np.minimum(window.nodes, scheme.steps - 1)
        inside = (window.nodes < scheme.steps).astype(np.float64)
        x = np.zeros((rows, past + rows, window.batch))
        f = np.zeros_like(x)
        c = np.zeros((rows, rows, window.batch))
        for r in range(rows):
            x[r, past + r] = inside[r] * scheme.a[node[r], 0]
            f[r, past + r] = inside[r] * scheme.b[node[r], 0]
            c[r, r] = inside[r]
        return RowWeights(x, f, c)


@attrs.frozen
class Noiseless(OneStep):
    __doc__ = OneStep.__doc__

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The noise is left out."""
        weights = super().weights(window, state)
        return RowWeights(weights.x, weights.f, np.zeros_like(weights.c))


@attrs.frozen
class BatchMean(Patient):
    __doc__ = Patient.__doc__

    def _mean(self, error: Floats) -> Floats:
        return np.full_like(error, error.mean())


@attrs.frozen
class Unaligned(Patient):
    __doc__ = Patient.__doc__

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """The rows' look-ahead as they stood, wherever the front is now."""
        return np.asarray(state["width"][: window.rows])


_WEIGHTS: dict[tuple[int, ...], RowWeights] = {}


@attrs.frozen
class Cached(Unrolled):
    __doc__ = Unrolled.__doc__

    def weights(self, window: Window, state: Any) -> RowWeights:
        """Worked out once for each shape of the window."""
        key = (self.width, window.scheme.memory, *window.nodes.shape)
        if key not in _WEIGHTS:
            _WEIGHTS[key] = super().weights(window, state)
        return _WEIGHTS[key]


@attrs.frozen
class Undocumented(ResidualConstruction):
    width: int = attrs.field(default=3, validator=integer(1))

    def look_ahead(self, window: Window, state: Any) -> Ints:
        cut = np.minimum(np.arange(1, window.rows + 1), self.width)
        return np.repeat(cut[:, None], window.batch, axis=1)

    def weights(self, window: Window, state: Any) -> RowWeights:
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))


ORIGINALS = [
    correct("residual:unrolled", "residual", lambda: Unrolled),
    correct("residual:one-step", "residual", lambda: OneStep),
    correct("residual:patient", "residual", lambda: Patient),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str) -> Mutant:
    return Mutant(f"residual:{name}", "residual", lambda: part, breaks, contract, f"residual:{original}")


MUTANTS = [
    _wrong("trapezoid", Trapezoid, "causal", "a row's residual reads outputs up to its own node only", "one-step"),
    _wrong("first-columns", FirstColumns, "tables", "weights reach back as far as the table does", "one-step"),
    _wrong("noiseless", Noiseless, "tables", "the residual of a stochastic scheme counts its noise", "one-step"),
    _wrong("batch-mean", BatchMean, "batch", "a sample's look-ahead depends on its own residuals only", "patient"),
    _wrong("unaligned", Unaligned, "realign", "a row's look-ahead moves with its node when the front does", "patient"),
    _wrong(
        "cached", Cached, "stateless", "weights depend on the window and the state, not on earlier calls", "unrolled"
    ),
    _wrong(
        "undocumented", Undocumented, "documented", "a docstring names the options, and a source is given", "unrolled"
    ),
]
