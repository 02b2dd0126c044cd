"""Outputs between and beyond the rows that have one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from paracore.schemes import compute_dtype
from paracore.slide import pick, pick_stacked
from paracore.window import Bools, Floats, Ints, Round, Window, is_small

__all__ = ["between", "clock", "form_outputs", "interpolated", "known_rows", "neighbours"]

_BASE = 3
"""Nodes that a slope spans at least, where knots are there: trained networks are rough from node to node, and the
difference of two neighbours says little about the trend (docs/samplers/ropa.md)."""


def interpolated(round: Round, rows: Bools, trend: float) -> list[torch.Tensor]:
    """The round's outputs; those of ``rows (P, B)`` linear in time between their neighbours, with a part of the last
    slope beyond the last one (over three nodes at least). What :meth:`~paracore.Selection.fill` gives.

    Outputs are interpolated in the composition's form, taken at the states that they belong to and taken back at the
    states of the rows that are filled. A stochastic scheme shows why: each of its states has noise of its own, which a
    prediction of the noise contains, and one of the data does not.
    """
    window, known = round.window, known_rows(round)
    left, right = neighbours(known)
    out, wanted = list(round.outputs), np.flatnonzero(rows.any(axis=1)).tolist()
    made = between(form_outputs(round, known), clock(window), wanted, left, right, trend)
    for r, row in zip(wanted, made, strict=True):
        out[r] = window.network_output(r, row)
    return out


def known_rows(round: Round) -> Bools:
    """``(P, B)`` rows with an output of their own."""
    known = (round.age >= 0) & round.window.valid
    known[0] = True
    return np.asarray(known)


def form_outputs(round: Round, rows: Bools) -> list[torch.Tensor]:
    """P outputs in the composition's form; a row that no sample of ``rows (P, B)`` asks for stays."""
    return [round.form_output(r) if asked.any() else round.outputs[r] for r, asked in enumerate(rows)]


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
    rows: Sequence[torch.Tensor], time: Floats, wanted: Sequence[int], left: Ints, right: Ints, trend: float
) -> Iterator[torch.Tensor]:
    """Rows from their neighbours, linear in time; beyond the last one, it and a part of the slope there.

    That slope goes from the nearest known row at least three nodes before it, or from the first, and is followed no
    further than it spans.

    Small rows are made together: for them a call costs more than the numbers.

    Args:
        rows: P rows ``(B, *event)``.
        time: ``(P, B)`` of each row.
        wanted: the rows to make.
        left, right: ``(P, B)`` each row's neighbours.
        trend: how much of the slope is kept beyond the last known row.

    Yields:
        One row ``(B, *event)`` for each one wanted.
    """
    first, second, fraction = _line(time, np.asarray(wanted), left, right, trend)
    if is_small(rows[0]):
        yield from _blend(pick_stacked(rows, first), pick_stacked(rows, second), fraction).unbind()
        return
    for a, b, part in zip(first, second, fraction, strict=True):
        yield _blend(pick(rows, a[None])[0], pick(rows, b[None])[0], part)


def _line(time: Floats, row: Ints, left: Ints, right: Ints, trend: float) -> tuple[Ints, Ints, Floats]:
    """Which two rows each wanted one lies on a line with, and how far along it, ``(R, B)`` each."""
    count, column = len(time), np.arange(time.shape[1])
    low, high = np.maximum(left[row], 0), right[row]
    beyond = high >= count
    before = np.maximum(left[np.maximum(low - _BASE, 0), column], 0)
    first, second = np.where(beyond, before, low), np.where(beyond, low, np.minimum(high, count - 1))
    start, end = time[first, column], time[second, column]
    span = end - start
    reach = time[row] - np.where(beyond, end, start)
    fraction = np.divide(reach, span, out=np.zeros(span.shape), where=(span != 0) & (second != first))
    return first, second, np.where(beyond, 1.0 + trend * np.minimum(fraction, 1.0), fraction)


def _blend(a: torch.Tensor, b: torch.Tensor, fraction: Floats) -> torch.Tensor:
    """``a + (b - a) fraction`` for rows ``(..., B, *event)`` and fractions ``(..., B)``."""
    weight = torch.from_numpy(fraction).to(a.device, compute_dtype(a.dtype))
    return (a + (b - a) * weight.reshape(*fraction.shape, *[1] * (a.ndim - fraction.ndim))).to(a.dtype)
