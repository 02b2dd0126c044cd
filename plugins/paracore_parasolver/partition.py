"""Which nodes form a subinterval."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from paracore.errors import ConfigurationError
from paracore.window import Window

__all__ = ["Places", "check", "places", "starts"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def starts(steps: int, length: int, count: int) -> Ints:
    """``(K + 1,)`` first node of each subinterval, and N. Lengths differ by one at most, the longer ones first.

    So the front's subinterval is the longest of any window, and a sweep over the window's subintervals takes no more
    rounds than the front advances by: N rounds in all are never exceeded.

    Args:
        steps: N.
        length: steps in the longest subinterval.
        count: K; 0 stands for as many as ``length`` asks for.
    """
    parts = count or -(-steps // length)
    short, longer = divmod(steps, parts)
    lengths = np.full(parts, short, dtype=np.int64)
    lengths[:longer] += 1
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def check(owner: object, steps: int, length: int, count: int) -> Ints:
    """The subintervals, or a refusal.

    Raises:
        ConfigurationError: for more subintervals than steps, or subintervals longer than ``length``.
    """
    name = type(owner).__name__
    if count > steps:
        raise ConfigurationError(
            f"{name}: {count} subintervals for {steps} steps; use at most {steps} (0: one step each)"
        )
    first = starts(steps, length, count)
    longest = int(np.diff(first).max())
    if longest > length:
        raise ConfigurationError(
            f"{name}: {count} subintervals of {steps} steps have up to {longest} steps, length is {length}; "
            f"use length={longest}"
        )
    return first


@attrs.frozen(eq=False)
class Places:
    """Where a window's rows stand in their subintervals.

    Attributes:
        index: ``(P, B)`` subinterval of each row, counted from the front's.
        number: ``(P, B)`` subinterval of each row, counted from node 0; at most K - 1.
        phase: ``(P, B)`` steps from the subinterval's start to the row.
        last: ``(P, B)`` rows that end their subinterval.
        swept: ``(B,)`` samples whose front ends its subinterval: every subinterval of the sweep has been solved.
    """

    index: Ints
    number: Ints
    phase: Ints
    last: Bools
    swept: Bools


def places(window: Window, length: int, count: int) -> Places:
    """Where the rows of a window stand."""
    first = starts(window.scheme.steps, length, count)
    node = np.minimum(window.nodes, window.scheme.steps - 1)
    number = np.searchsorted(first, node, side="right") - 1
    last = node + 1 == first[number + 1]
    return Places(number - number[0], number, node - first[number], last, last[0])
