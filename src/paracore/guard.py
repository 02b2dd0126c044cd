"""Calling strategies safely: what they return is checked, what they must not touch is watched."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch

from paracore.distributions import origin_of
from paracore.errors import StrategyError
from paracore.schemes.table import compute_dtype
from paracore.strategies import Strategy
from paracore.window import Bools, Floats, Round, Window, is_small

__all__ = ["calling", "finite_rows", "finite_samples", "mask_from", "named", "numbers_from", "rows_from"]


View = Window | Round | Sequence[torch.Tensor]

_VERSION = operator.attrgetter("_version")


def named(kind: str, part: Strategy) -> str:
    """A part in messages; with plugin, distribution and version if it is not one of ours."""
    origin = origin_of(type(part).__module__)
    return f"{kind} {part!r} of plugin {origin}" if origin else f"{kind} {part!r}"


class calling:  # noqa: N801 - a context manager
    """Name the part in whatever it raises, and notice if it writes into what it was shown.

    Raises:
        StrategyError: if a tensor, a list of tensors or an array of the views was changed.
    """

    def __init__(self, kind: str, part: Strategy, *views: View | None) -> None:
        self._kind, self._part = kind, part
        self._views = views
        self._quiet = np.errstate(over="ignore", invalid="ignore")  # wild iterates overflow, and are contained

    def __enter__(self) -> None:
        self._tensors, self._arrays = _shown(self._views)
        for array in self._arrays:
            array.flags.writeable = False
        self._versions = _versions(self._tensors)
        self._quiet.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet.__exit__(kind, error, trace)
        if error is None:
            tensors, arrays = _shown(self._views)
            same = _identical(tensors, self._tensors) and _identical(arrays, self._arrays)
            if not same or _versions(tensors) != self._versions:
                who = named(self._kind, self._part)
                raise StrategyError(f"{who} wrote into the engine's tensors; strategies must return new ones")
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):  # which ends a solve that asks
            who = named(self._kind, self._part)
            error.add_note(f"raised by the {who}")
            if "read-only" in str(error):
                raise StrategyError(f"{who} wrote into the engine's arrays: {error}") from error


def _shown(views: Sequence[View | None]) -> tuple[list[torch.Tensor], list[np.ndarray[Any, Any]]]:
    """All tensors and arrays of some views."""
    tensors: list[torch.Tensor] = []
    arrays: list[np.ndarray[Any, Any]] = []
    for view in views:
        if isinstance(view, Round):
            tensors += view.outputs
            tensors += view.anchors
            tensors += view.chain
            arrays += (view.evaluated, view.age, view.gap, view.size, view.damping)
            arrays += (view.anchor_change, view.output_change, view.output_growth, view.spare)
        window = view.window if isinstance(view, Round) else view
        if isinstance(window, Window):
            tensors += window.state_rows
            tensors += window.past_x
            tensors += window.past_f
            arrays += (window.front, window.rounds, window.running, window.nodes, window.valid)
        elif window is not None:
            tensors += window
    return tensors, arrays


def _versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    """The tensors' version counters; none under inference mode, which keeps no versions."""
    if tensors and tensors[0].is_inference():
        return []
    return list(map(_VERSION, tensors))


def _identical(left: Sequence[object], right: Sequence[object]) -> bool:
    return len(left) == len(right) and all(map(operator.is_, left, right))


def mask_from(kind: str, part: Strategy, value: Any, shape: tuple[int, ...]) -> Bools:
    """A ``(P, B)`` mask that a part returned.

    Raises:
        StrategyError: for another shape.
    """
    mask = _array(kind, part, value)
    if mask.shape != shape:
        raise StrategyError(f"{named(kind, part)} returned shape {mask.shape}; {shape} is needed")
    if mask.dtype != np.bool_:
        raise StrategyError(f"{named(kind, part)} returned dtype {mask.dtype}; bool is needed")
    return mask


def numbers_from(kind: str, part: Strategy, value: Any, shape: tuple[int, ...]) -> Floats:
    """``(P, B)`` non-negative numbers that a part returned; non-finite and negative ones count as 0.

    Raises:
        StrategyError: for another shape.
    """
    numbers = _array(kind, part, value)
    if numbers.shape != shape:
        raise StrategyError(f"{named(kind, part)} returned shape {numbers.shape}; {shape} is needed")
    if numbers.dtype.kind not in "fiub":
        raise StrategyError(f"{named(kind, part)} returned dtype {numbers.dtype}; numbers are needed")
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
        raise StrategyError(f"{named(kind, part)} returned {type(value).__name__}; an array is needed") from error


def rows_from(kind: str, part: Strategy, value: Any, count: int, like: torch.Tensor) -> list[torch.Tensor]:
    """``count`` rows ``(B, *event)`` that a part returned, as a list or one stacked tensor.

    Raises:
        StrategyError: for another count, shape or dtype.
    """
    try:
        rows = list(value)
    except TypeError:
        raise StrategyError(f"{named(kind, part)} returned {type(value).__name__}; {count} rows are needed") from None
    if len(rows) != count:
        raise StrategyError(f"{named(kind, part)} returned {len(rows)} rows; {count} are needed")
    shape, dtype, device = like.shape, like.dtype, like.device
    for r, row in enumerate(rows):
        if not isinstance(row, torch.Tensor):
            raise StrategyError(f"{named(kind, part)} returned {type(row).__name__} at row {r}; a tensor is needed")
        if row.shape != shape or row.dtype != dtype or row.device != device:
            raise StrategyError(
                f"{named(kind, part)} returned {tuple(row.shape)} {row.dtype} on {row.device} at row {r}; "
                f"{tuple(shape)} {dtype} on {device} is needed"
            )
    return rows


def finite_rows(rows: Sequence[torch.Tensor]) -> Bools:
    """``(len(rows), B)``: which samples of each row ``(B, *event)`` are finite. One read of each row."""
    if not rows:
        return np.zeros((0, 0), dtype=np.bool_)
    parts = [torch.cat(list(rows))] if is_small(rows[0]) else rows
    return _finite(parts).reshape(len(rows), -1)


def finite_samples(values: torch.Tensor) -> Bools:
    """``(B,)``: which samples of ``(B, *event)`` are finite."""
    return _finite([values])


def _finite(parts: Sequence[torch.Tensor]) -> Bools:
    """``(sum of M,)``: which samples of tensors ``(M, *event)`` are finite.

    A sum is finite only where its terms are. Where one is not, the largest number decides: sums overflow earlier.
    """
    finite = np.zeros(0, dtype=np.bool_)
    for measure in (_sum, _peak):
        numbers = torch.cat([measure(part.reshape(len(part), -1)) for part in parts])
        finite = np.isfinite(numbers.to("cpu", torch.float64).numpy())
        if finite.all():
            break
    return finite


def _sum(flat: torch.Tensor) -> torch.Tensor:
    return flat.sum(dim=1, dtype=compute_dtype(flat.dtype))


def _peak(flat: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(flat, ord=float("inf"), dim=1)  # many times slower than a sum
    return norm
