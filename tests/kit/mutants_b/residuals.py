"""Residual constructions: two correct ones, and four with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kit.mutants_b.record import Mutant
from paracore import Problem
from paracore.parts.options import integer, number
from paracore.schemes import RowWeights, look_ahead_weights
from paracore.strategies import ResidualConstruction
from paracore.window import Floats, Ints, Round, RowNorms, Window

__all__ = ["MUTANTS", "ORIGINALS"]


def row_errors(round: Round) -> Floats:
    """``(P, B)`` root mean squares of the look-ahead residuals, 0 where there is no row."""
    norms = RowNorms()
    for row in round.residual:
        norms.add(row)
    error = norms.result()
    return np.where(round.window.valid & np.isfinite(error), error, 0.0)


@attrs.frozen
class Settling(ResidualConstruction):
    """A row looks one node further back while its residual is larger than its neighbour's before it, one less else.

    The row in front of the window has no neighbour and keeps its look-ahead. Rows that enter look back ``first`` nodes.

    Attributes:
        first: look-ahead of entering rows, at least 1.
        most: bound of the look-ahead, at least 1.
        keep: a row counts as settled below ``keep`` times its neighbour's residual.
    """

    first: int = attrs.field(default=4, validator=integer(1))
    most: int = attrs.field(default=8, validator=integer(1))
    keep: float = attrs.field(default=1.0, validator=number(0.0))

    reference = "this file; after Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Definition 2.1"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Every row at its first look-ahead."""
        width = np.full((rows, problem.batch), min(self.first, self.most), dtype=np.int64)
        return {"width": width, "front": np.zeros(problem.batch, dtype=np.int64)}

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` look-ahead of each row."""
        return window.realign(state["width"], state["front"], fill=min(self.first, self.most))

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))

    def adapt(self, round: Round, state: Any) -> dict[str, Any]:
        """One more where the neighbour before is better, one less where it is not."""
        error = row_errors(round)
        before = np.concatenate([error[:1], error[:-1]])
        width = self.look_ahead(round.window, state)
        grown = width + (error > before) - (error < self.keep * before)
        return {"width": np.clip(grown, 1, self.most), "front": round.window.front.copy()}


@attrs.frozen
class SettlingOnward(Settling):
    __doc__ = Settling.__doc__

    def adapt(self, round: Round, state: Any) -> dict[str, Any]:
        """One more where the neighbour is better, one less where it is not."""
        error = row_errors(round)
        beside = np.concatenate([error[1:], error[-1:]])
        width = self.look_ahead(round.window, state)
        grown = width + (error > beside) - (error < self.keep * beside)
        return {"width": np.clip(grown, 1, self.most), "front": round.window.front.copy()}


@attrs.frozen
class SettlingInPlace(Settling):
    __doc__ = Settling.__doc__

    def adapt(self, round: Round, state: Any) -> dict[str, Any]:
        """One more where the neighbour before is better, one less where it is not."""
        error = row_errors(round)
        before = np.concatenate([error[:1], error[:-1]])
        width = self.look_ahead(round.window, state)
        grown = width + (error > before) - (error < self.keep * before)
        state["width"] = np.clip(grown, 1, self.most)
        state["front"] = round.window.front.copy()
        return state


@attrs.frozen
class Tapered(ResidualConstruction):
    """Rows far from the front look back over a smaller part of the window.

    Row ``r`` of ``P`` looks back ``1 + share * (P - r)`` nodes, rounded down.

    Attributes:
        share: of the rows that are left behind a row, between 0 (one-step residuals) and 1.
    """

    share: float = attrs.field(default=0.75, validator=number(0.0, 1.0))

    reference = "this file; after Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Definition 2.1"

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` look-ahead of each row."""
        left = window.rows - np.arange(window.rows)
        width = 1 + np.floor(self.share * left).astype(np.int64)
        return np.broadcast_to(np.minimum(width, window.rows)[:, None], window.nodes.shape).copy()

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))


@attrs.frozen
class TaperedLate(Tapered):
    __doc__ = Tapered.__doc__

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        last = window.scheme.steps - 1
        nodes = np.where(window.nodes < last, window.nodes + 1, window.nodes)  # the node that the row's state stands at
        return look_ahead_weights(window.scheme, nodes, self.look_ahead(window, state))


@attrs.frozen
class TaperedQuiet(Tapered):
    __doc__ = Tapered.__doc__

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights; fresh noise is no function of the states and is left out."""
        whole = look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))
        return RowWeights(x=whole.x, f=whole.f, c=np.zeros_like(whole.c))


ORIGINALS = [
    Mutant("residual:settling", "residual", lambda: Settling, "", "Keeps the contract."),
    Mutant("residual:tapered", "residual", lambda: Tapered, "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "residual:reads the neighbour after",
        "residual",
        lambda: SettlingOnward,
        "acausal",
        "A row's look-ahead comes from its own and earlier rows' residuals, not from the row after it.",
    ),
    Mutant(
        "residual:adapts its state in place",
        "residual",
        lambda: SettlingInPlace,
        "mutating",
        "The state is replaced, never changed in place: a round may be made twice from it.",
    ),
    Mutant(
        "residual:weights of the next node",
        "residual",
        lambda: TaperedLate,
        "off-by-one",
        "Where every one-step residual is zero the look-ahead residual is too: its table is the row's own node's.",
    ),
    Mutant(
        "residual:no weight on the noise",
        "residual",
        lambda: TaperedQuiet,
        "schemes",
        "On a stochastic scheme the residual subtracts the noise too, or its root moves.",
    ),
]
