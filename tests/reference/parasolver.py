"""ParaSolver written out in loops over numpy arrays, one sample, node 0 the noise. Nothing of paracore is used.

From Lu, Zhu and Hou 2025 (ICLR 2025): subintervals solved sequentially and all at once, a cumulative sum of what they
moved by as the update, points extrapolated with the data prediction frozen. Preconditioned points are kept, not
solved again.
"""

from __future__ import annotations

import numpy as np


def parasolver(network, a, b, c, to_data, from_data, x0, variance, *, window, tolerance, starts, preconditioning):
    """Yield ``(rounds, k, points)`` after each update: rounds so far, first unfinished subinterval, ``(K + 1, d)``.

    ``network(x, node)``; ``to_data, from_data``: ``(u, v)`` arrays, target = u x + v source; ``c (N, d)`` weighted
    noise; ``variance (K,)`` what the change of each subinterval's end is measured in; ``starts (K + 1,)``. The first
    point after a sweep equals the exact one, so there is no switch for an exact first row.
    """
    count = len(starts) - 1
    points = np.zeros((count + 1, len(x0)))
    points[0] = x0

    def extrapolate(first, last, data):
        """Points ``first + 1 .. last`` from point ``first`` with a frozen data prediction."""
        x = points[first].copy()
        for k in range(first, last):
            for n in range(starts[k], starts[k + 1]):
                f = from_data[0][n] * x + from_data[1][n] * data
                x = a[n] * x + b[n] * f + c[n]
            points[k + 1] = x

    def solve(k):
        """A subinterval, step by step: its end, and the last data prediction."""
        x = points[k].copy()
        for n in range(starts[k], starts[k + 1]):
            f = network(x, n)
            data = to_data[0][n] * x + to_data[1][n] * f
            x = a[n] * x + b[n] * f + c[n]
        return x, data

    extrapolate(0, count, np.zeros_like(x0))
    rounds, begin = 0, 0
    while begin < preconditioning and begin < count:
        points[begin + 1], data = solve(begin)
        rounds += starts[begin + 1] - starts[begin]
        begin += 1
        extrapolate(begin, count, data)
        yield rounds, begin, points.copy()
    while begin < count:
        end = min(begin + window, count)
        moved = np.zeros_like(x0)
        new = {}
        for k in range(begin, end):
            solved, data = solve(k)
            moved = moved + solved - points[k]
            new[k + 1] = points[begin] + moved
        errors = [np.mean((new[k + 1] - points[k + 1]) ** 2) for k in range(begin, end)]
        for k, x in new.items():
            points[k] = x
        extrapolate(end, count, data)
        rounds += max(starts[k + 1] - starts[k] for k in range(begin, end))
        stride = 0
        while stride < end - begin and errors[stride] <= tolerance**2 * variance[begin + stride]:
            stride += 1
        begin += min(stride + 1, end - begin)
        yield rounds, begin, points.copy()
