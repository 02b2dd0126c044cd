"""Outputs between and beyond the rows that have one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from paracore.slide import pick
from paracore.window import Bools, Floats, Ints, Window, per_sample

__all__ = ["between", "clock", "neighbours"]


def clock(window: Window) -> Floats:
    """``(P, B)`` the scheme's time of each row."""
    return np.asarray(window.scheme.time[np.minimum(window.nodes, window.scheme.steps - 1)])


def neighbours(known: Bools, *, strict: bool = False) -> tuple[Ints, Ints]:
    """``(P, B)`` nearest known row at or before each row (-1: none), and at or after it (P: none).

    Args:
        known: ``(P, B)``.
        strict: leave the row itself out.
    """
    count = len(known)
    index = np.arange(count)[:, None]
    left = np.maximum.accumulate(np.where(known, index, -1), axis=0)
    right = np.minimum.accumulate(np.where(known, index, count)[::-1], axis=0)[::-1]
    if strict:
        none = np.full((1, known.shape[1]), -1)
        left = np.concatenate([none, left[:-1]])
        right = np.concatenate([right[1:], none + count + 1])
    return left, right


def between(
    rows: Sequence[torch.Tensor], time: Floats, row: int, left: Ints, right: Ints, trend: float
) -> torch.Tensor:
    """``(B, *event)``: a row from its neighbours, linear in time; beyond the last, it and a part of the last slope."""
    count = len(rows)
    low, high = np.maximum(left[row], 0), right[row]
    beyond = high >= count
    before = np.maximum(left[np.maximum(low - 1, 0), np.arange(len(low))], 0)
    first, second = np.where(beyond, before, low), np.where(beyond, low, np.minimum(high, count - 1))
    column = np.arange(len(low))
    span = time[second, column] - time[first, column]
    reach = time[row] - np.where(beyond, time[second, column], time[first, column])
    fraction = np.divide(reach, span, out=np.zeros(len(span)), where=(span != 0) & (second != first))
    fraction = np.where(beyond, 1.0 + trend * np.minimum(fraction, 1.0), fraction)
    a, b = pick(rows, first[None, :])[0], pick(rows, second[None, :])[0]
    return (a + (b - a) * per_sample(fraction, a)).to(a.dtype)
