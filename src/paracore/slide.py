"""Moving rows when fronts move: by slicing where all samples move alike, by one gather where they do not.

Large rows are never joined: each new one is put together from its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from paracore.window import Bools, Ints, is_small, where_rows

__all__ = ["lay_over", "pick", "pick_numbers", "pick_stacked", "slide_past"]


def pick(
    rows: Sequence[torch.Tensor],
    index: Ints,
    *,
    fixed: Sequence[torch.Tensor] | None = None,
    until: Ints | None = None,
) -> list[torch.Tensor]:
    """New rows by source row: ``out[r][b] = rows[index[r, b]][b]``.

    Args:
        rows: tensors ``(B, *event)``.
        index: ``(R, B)`` source row of each new row and sample.
        fixed: rows to take instead where the source lies at or before ``until`` (accepted states).
        until: ``(B,)``.
    """
    if fixed is not None and until is not None and fixed is not rows:
        low, high = int(until.min()), int(until.max())
        rows = [
            fixed[r] if r <= low else row if r > high else where_rows(until >= r, fixed[r], row)
            for r, row in enumerate(rows)
        ]
    if _alike(index):
        return [rows[i] for i in index[:, 0].tolist()]
    if is_small(rows[0]):
        joined, source = _joined(rows, index)
        return [joined.index_select(0, samples) for samples in source.unbind()]  # each in its own memory
    return [
        rows[source[0]] if _alike(source[None]) else torch.stack([rows[i][b] for b, i in enumerate(source.tolist())])
        for source in index
    ]


def pick_stacked(rows: Sequence[torch.Tensor], index: Ints) -> torch.Tensor:
    """The same as one new tensor ``(R, B, *event)``; for small rows."""
    if _alike(index):
        return torch.stack([rows[i] for i in index[:, 0].tolist()])
    joined, source = _joined(rows, index)
    return joined.index_select(0, source.flatten()).reshape(*index.shape, *joined.shape[1:])


def _alike(index: Ints) -> bool:
    """Whether all samples take the same rows."""
    return index.shape[1] == 1 or bool(np.count_nonzero(index == index[:, :1]) == index.size)


def _joined(rows: Sequence[torch.Tensor], index: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that are needed in one tensor ``(M, *event)``, and where each new row finds its samples, ``(R, B)``."""
    low, high, batch = int(index.min()), int(index.max()), index.shape[1]
    joined = torch.cat(list(rows[low : high + 1]))
    source = (index - low) * batch + np.arange(batch)
    return joined, torch.from_numpy(source).to(joined.device)


def lay_over(mask: Bools, new: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Samples of ``new`` where ``mask (R, B)``, of ``old`` elsewhere, in R rows ``(B, *event)``.

    As :func:`~paracore.window.where_rows` for each row; small rows take one gather.
    """
    taken = np.count_nonzero(mask, axis=1)
    mixed = np.flatnonzero((taken > 0) & (taken < mask.shape[1])).tolist()
    if not mixed or not is_small(old[0]):
        return [where_rows(m, n, o) for m, n, o in zip(mask, new, old, strict=True)]
    out = [n if some else o for some, n, o in zip(taken.tolist(), new, old, strict=True)]
    index = np.arange(len(mixed))[:, None] + len(mixed) * mask[mixed]
    for r, row in zip(mixed, pick([*(old[r] for r in mixed), *(new[r] for r in mixed)], index), strict=True):
        out[r] = row
    return out


def pick_numbers(values: npt.NDArray[Any], index: Ints) -> npt.NDArray[Any]:
    """``out[r, b] = values[index[r, b], b]``."""
    return values[index, np.arange(index.shape[1])]


def slide_past(
    past: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], shift: Ints, memory: int
) -> list[torch.Tensor]:
    """The newest ``memory`` rows before the new front, newest first; ``rows[0]`` stands at the old front."""
    if memory == 0:
        return []
    line = [*reversed(past), *rows]
    index = memory + shift[None, :] - 1 - np.arange(memory)[:, None]
    return pick(line, index)
