"""Moving rows when fronts move: by slicing where all samples move alike, by one gather where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from paracore.window import Ints, where_rows

__all__ = ["pick", "pick_numbers", "slide_past"]


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
    if index.shape[1] == 1 or (index == index[:, :1]).all():
        return [rows[i] for i in index[:, 0].tolist()]
    low, high = int(index.min()), int(index.max())
    stacked = torch.stack(list(rows[low : high + 1])).flatten(0, 1)
    batch = index.shape[1]
    flat = (index - low) * batch + np.arange(batch)[None, :]
    moved = stacked[torch.from_numpy(flat.reshape(-1)).to(stacked.device)]
    return list(moved.reshape(len(index), batch, *rows[0].shape[1:]).unbind())


def pick_numbers(values: npt.NDArray[Any], index: Ints) -> npt.NDArray[Any]:
    """``out[r, b] = values[index[r, b], b]``."""
    if index.shape[1] == 1:
        return values[index[:, 0]]
    return np.take_along_axis(values, index, axis=0)


def slide_past(
    past: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], shift: Ints, memory: int
) -> list[torch.Tensor]:
    """The newest ``memory`` rows before the new front, newest first; ``rows[0]`` stands at the old front."""
    if memory == 0:
        return []
    line = [*reversed(past), *rows]
    index = memory + shift[None, :] - 1 - np.arange(memory)[:, None]
    return pick(line, index)
