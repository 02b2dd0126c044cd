"""Calling strategies safely: what they return is checked, what they must not touch is watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from paracore.errors import StrategyError
from paracore.strategies import Strategy
from paracore.window import Bools, Floats, Round, Window

__all__ = ["calling", "finite_rows", "mask_from", "numbers_from", "rows_from"]


View = Window | Round | Sequence[torch.Tensor]


@contextmanager
def calling(kind: str, part: Strategy, *views: View | None) -> Iterator[None]:
    """Name the part in whatever it raises, and notice if it writes into what it was shown.

    Raises:
        StrategyError: if a tensor, a list of tensors or an array of the views was changed.
    """
    shown, before = _freeze(views)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # wild iterates overflow, and are contained
            yield
    except Exception as error:
        error.add_note(f"raised by the {kind} {part!r}")
        if "read-only" in str(error):
            raise StrategyError(f"{kind} {part!r} wrote into the engine's arrays: {error}") from error
        raise
    after, now = _freeze(views)
    if now != before or len(after) != len(shown) or any(a is not b for a, b in zip(after, shown, strict=True)):
        raise StrategyError(f"{kind} {part!r} wrote into the engine's tensors; strategies must return new ones")


def _freeze(views: Sequence[View | None]) -> tuple[list[Any], list[int]]:
    """All tensors and arrays of some views, and the tensors' version counters; the arrays become read-only."""
    tensors: list[torch.Tensor] = []
    arrays: list[np.ndarray[Any, Any]] = []
    for view in views:
        if isinstance(view, Round):
            tensors += view.outputs
            tensors += view.anchors
            tensors += view.chain
            arrays += [view.evaluated, view.age, view.gap, view.size, view.damping]
            arrays += [view.anchor_change, view.output_change, view.spare]
        window = view.window if isinstance(view, Round) else view
        if isinstance(window, Window):
            tensors += window.state_rows
            tensors += window.past_x
            tensors += window.past_f
            arrays += [window.front, window.rounds, window.running, window.nodes, window.valid]
        elif window is not None:
            tensors += list(window)
    for array in arrays:
        array.flags.writeable = False
    shown = [id(array) for array in arrays]
    if tensors and tensors[0].is_inference():  # keeps no versions
        return tensors, shown
    return tensors, [*(t._version for t in tensors), *shown]


def mask_from(kind: str, part: Strategy, value: Any, shape: tuple[int, ...]) -> Bools:
    """A ``(P, B)`` mask that a part returned.

    Raises:
        StrategyError: for another shape.
    """
    mask = _array(kind, part, value)
    if mask.shape != shape:
        raise StrategyError(f"{kind} {part!r} returned shape {mask.shape}; {shape} is needed")
    if mask.dtype != np.bool_:
        raise StrategyError(f"{kind} {part!r} returned dtype {mask.dtype}; bool is needed")
    return mask


def numbers_from(kind: str, part: Strategy, value: Any, shape: tuple[int, ...]) -> Floats:
    """``(P, B)`` non-negative numbers that a part returned; non-finite and negative ones count as 0.

    Raises:
        StrategyError: for another shape.
    """
    numbers = _array(kind, part, value)
    if numbers.shape != shape:
        raise StrategyError(f"{kind} {part!r} returned shape {numbers.shape}; {shape} is needed")
    if numbers.dtype.kind not in "fiub":
        raise StrategyError(f"{kind} {part!r} returned dtype {numbers.dtype}; numbers are needed")
    numbers = numbers.astype(np.float64)
    return np.where(np.isfinite(numbers) & (numbers > 0), numbers, 0.0)


def _array(kind: str, part: Strategy, value: Any) -> np.ndarray[Any, Any]:
    """A copy as an array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        return np.array(value)
    except (ValueError, TypeError) as error:
        raise StrategyError(f"{kind} {part!r} returned {type(value).__name__}; an array is needed") from error


def rows_from(kind: str, part: Strategy, value: Any, count: int, like: torch.Tensor) -> list[torch.Tensor]:
    """``count`` rows ``(B, *event)`` that a part returned, as a list or one stacked tensor.

    Raises:
        StrategyError: for another count, shape or dtype.
    """
    try:
        rows = list(value)
    except TypeError:
        raise StrategyError(f"{kind} {part!r} returned {type(value).__name__}; {count} rows are needed") from None
    if len(rows) != count:
        raise StrategyError(f"{kind} {part!r} returned {len(rows)} rows; {count} are needed")
    for r, row in enumerate(rows):
        if not isinstance(row, torch.Tensor):
            raise StrategyError(f"{kind} {part!r} returned {type(row).__name__} at row {r}; a tensor is needed")
        if row.shape != like.shape or row.dtype != like.dtype or row.device != like.device:
            raise StrategyError(
                f"{kind} {part!r} returned {tuple(row.shape)} {row.dtype} on {row.device} at row {r}; "
                f"{tuple(like.shape)} {like.dtype} on {like.device} is needed"
            )
    return rows


def finite_rows(rows: Sequence[torch.Tensor]) -> Bools:
    """``(len(rows), B)``: which samples of each row are finite. One read of each row."""
    if not rows:
        return np.zeros((0, 0), dtype=np.bool_)
    peaks = [torch.linalg.vector_norm(row.reshape(len(row), -1), ord=float("inf"), dim=1) for row in rows]
    return np.asarray(torch.isfinite(torch.stack(peaks)).cpu().numpy(), dtype=np.bool_)
