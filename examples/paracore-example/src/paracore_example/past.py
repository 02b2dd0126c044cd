"""Outputs by node: what the window shows, and what it left behind its front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from paracore import Problem, Window
from paracore.slide import pick
from paracore.window import Bools, Floats, Ints, per_sample, where_rows

__all__ = ["Line", "behind", "empty", "joined", "recorded"]


@attrs.frozen(eq=False)
class Line:
    """Outputs at consecutive nodes, each sample from a node of its own.

    Attributes:
        first: ``(B,)`` int64 node of the first entry, maybe before 0.
        outputs: L tensors ``(B, *event)``.
        known: ``(L, B)`` bool, which of them are there.
    """

    first: Ints
    outputs: list[torch.Tensor]
    known: Bools

    def combined(self, weights: Floats) -> torch.Tensor:
        """``(B, *event)`` sum of the outputs with weights ``(L, B)``; those that are not known count as zero."""
        total: torch.Tensor | None = None
        for output, known, weight in zip(self.outputs, self.known, weights, strict=True):
            if not weight.any():
                continue
            term = where_rows(known, output, torch.zeros_like(output)) * per_sample(weight, output)
            total = term if total is None else total.add_(term)
        newest = self.outputs[-1]
        return torch.zeros_like(newest) if total is None else total.to(newest.dtype)


def empty(problem: Problem) -> dict[str, Any]:
    """The state of a part that has seen nothing."""
    none = np.zeros(problem.batch, dtype=np.int64)
    return {"first": none, "outputs": [], "known": np.zeros((0, problem.batch), dtype=np.bool_)}


def behind(state: dict[str, Any], window: Window, depth: int) -> Line:
    """The outputs at the ``depth`` nodes before each sample's front, oldest first; shorter before there are any."""
    count = len(state["outputs"])
    if count == 0:
        return Line(window.front.copy(), [], state["known"])
    first = window.front - depth
    index = first[None, :] + np.arange(depth)[:, None] - state["first"][None, :]
    inside = (index >= 0) & (index < count)
    index = np.clip(index, 0, count - 1)
    known = inside & np.take_along_axis(state["known"], index, axis=0)
    return Line(first, pick(state["outputs"], index), known)


def recorded(
    state: dict[str, Any], window: Window, outputs: Sequence[torch.Tensor], known: Bools, depth: int
) -> dict[str, Any]:
    """The state after a round: ``depth`` outputs behind the front, and the window's.

    Args:
        state: what was recorded before.
        window: the round's.
        outputs: P tensors ``(B, *event)``.
        known: ``(P, B)`` which of them were evaluated.
        depth: how many are kept behind the front.
    """
    line = joined(behind(state, window, depth), outputs, known & window.valid)
    return {"first": line.first, "outputs": line.outputs, "known": line.known}


def joined(line: Line, outputs: Sequence[torch.Tensor], known: Bools) -> Line:
    """A line that goes on with the window's rows."""
    return Line(line.first, [*line.outputs, *outputs], np.concatenate([line.known, known]))
