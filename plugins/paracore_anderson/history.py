"""What a window's rows were in earlier rounds, and which of it still belongs to the equation that they solve now."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore.schemes import RowWeights
from paracore.slide import pick
from paracore.window import Round, Window, where_rows

__all__ = ["Differences", "counts", "differences", "empty", "record"]

Ints = npt.NDArray[np.int64]
Rows = list[torch.Tensor]

ENDLESS = np.iinfo(np.int64).max
"""Upper bound of a look-ahead that reaches back to the front: how much further it would go cannot be seen."""


@attrs.frozen(eq=False)
class Differences:
    """Differences between consecutive rounds, oldest first.

    Attributes:
        states: D lists of P rows ``(B, *event)``: how the unknown of each row moved.
        residuals: D lists of P rows: how its look-ahead residual changed.
        known: ``(D, P, B)`` which of them lie between two rounds in which the row was there, under one look-ahead.
    """

    states: list[Rows]
    residuals: list[Rows]
    known: npt.NDArray[np.bool_]


def empty() -> dict[str, Any]:
    """Nothing remembered."""
    return {"rounds": [], "front": None, "low": None, "high": None, "count": None}


def counts(window: Window, weights: RowWeights, state: dict[str, Any]) -> tuple[Ints, Ints, Ints]:
    """How many rounds in a row, this one included, each row has been solving the same equation.

    The look-ahead that was asked for shows only where the front does not cut it off: a cut-off row says no more than
    a lower bound. A row starts anew when what it shows now contradicts what it has shown before, and not when its
    look-ahead is merely cut off elsewhere because the front moved.

    Args:
        window: this round's.
        weights: those of this round's residual.
        state: from :func:`empty` or :func:`record`.

    Returns:
        ``(count, low, high)``, each ``(P, B)``; ``low`` and ``high`` bound the row's look-ahead.
    """
    depth = _unrolled(weights)
    cut = depth == np.arange(1, len(depth) + 1)[:, None]
    low, high = depth, np.where(cut, ENDLESS, depth)
    one = np.ones_like(depth)
    if state["count"] is None:
        return one, low, high
    before = window.realign(state["count"], state["front"])
    old_low = window.realign(state["low"], state["front"])
    old_high = window.realign(state["high"], state["front"], ENDLESS)
    both_low, both_high = np.maximum(low, old_low), np.minimum(high, old_high)
    same = (before > 0) & (both_low <= both_high)
    return np.where(same, before + 1, one), np.where(same, both_low, low), np.where(same, both_high, high)


def _unrolled(weights: RowWeights) -> Ints:
    """``(P, B)`` how many steps each row's residual substitutes. The noise columns show it, drawn or not."""
    rows = len(weights.c)
    depth = np.zeros((rows, weights.c.shape[2]), dtype=np.int64)
    for r in range(rows):
        depth[r] = np.logical_and.accumulate(weights.c[r, r::-1] != 0, axis=0).sum(axis=0)
    return depth


def record(round: Round, state: dict[str, Any], memory: int) -> dict[str, Any]:
    """The state after a round: its iterate and residual, and those of up to ``memory - 2`` rounds before it."""
    if memory < 2:
        return state
    window = round.window
    count, low, high = counts(window, round.weights, state)
    entry = {"front": window.front.copy(), "x": window.state_rows[1:], "r": round.residual}
    return {
        "rounds": [entry, *state["rounds"]][: memory - 1],
        "front": window.front.copy(),
        "low": low,
        "high": high,
        "count": np.minimum(count, memory),
    }


def differences(round: Round, state: dict[str, Any]) -> Differences:
    """All differences that the remembered rounds allow; a row that was not in the window then counts as zero."""
    window = round.window
    count, _, _ = counts(window, round.weights, state)
    states: list[Rows] = [window.state_rows[1:]]
    residuals: list[Rows] = [list(round.residual)]
    for entry in state["rounds"]:
        source = window.nodes - entry["front"][None, :]
        inside = (source >= 0) & (source < len(entry["x"]))
        index = np.clip(source, 0, len(entry["x"]) - 1)
        states.append(_zeroed(pick(entry["x"], index), inside))
        residuals.append(_zeroed(pick(list(entry["r"]), index), inside))
    total = len(states) - 1
    known = np.arange(total, 0, -1)[:, None, None] < count[None]  # the oldest difference needs the longest past
    return Differences(_steps(states), _steps(residuals), known)


def _zeroed(rows: Rows, inside: npt.NDArray[np.bool_]) -> Rows:
    return [where_rows(inside[r], row, torch.zeros_like(row)) for r, row in enumerate(rows)]


def _steps(newest_first: list[Rows]) -> list[Rows]:
    """Differences of consecutive entries, oldest first, at least in float32."""
    pairs = list(pairwise(newest_first))[::-1]
    return [[_wide(a) - _wide(b) for a, b in zip(new, old, strict=True)] for new, old in pairs]


def _wide(row: torch.Tensor) -> torch.Tensor:
    return row if row.dtype == torch.float64 else row.float()
