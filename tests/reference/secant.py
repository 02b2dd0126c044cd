"""Per-node multisecant iterations in plain loops, after Fang and Saad 2009 (doi:10.1002/nla.617), Section 3.

One sample, numpy float64. Every evaluation of a node is kept as a pair (state, output). With the differences of the
newest pair from the ``memory`` pairs before it as columns of ``S`` (states) and ``Y`` (outputs), a move ``v`` of the
node's state moves its output by ``G v = Y (S^T S + reg max diag(S^T S) I)^{-1} S^T v``. A node without differences
responds as the nearest node before it in the window that has some, up to ``nearest`` nodes away, or not at all.
"""

from __future__ import annotations

import numpy as np


def response(pairs, v, memory, reg):
    """``G v``; ``pairs`` are a node's (state, output), oldest first."""
    newest_x, newest_f = pairs[-1]
    earlier = pairs[:-1][-memory:]
    if not earlier:
        return np.zeros_like(v)
    s = np.stack([newest_x - x for x, _ in earlier], axis=1)
    y = np.stack([newest_f - f for _, f in earlier], axis=1)
    gram = s.T @ s
    largest = np.max(np.diag(gram))
    if largest == 0:
        return np.zeros_like(v)
    return y @ np.linalg.solve(gram + reg * largest * np.eye(len(earlier)), s.T @ v)


class Secants:
    """The iteration on a window of ``window`` nodes. ``x_{n+1} = sum_i a x_{n-i} + sum_j b f_{n-j} + c_n``."""

    def __init__(self, network, a, b, c, x0, window, memory, reg=1e-3, exact_first_row=True, nearest=1):
        self.network, self.a, self.b, self.c = network, a, b, c
        self.steps, self.window, self.memory, self.reg = len(a), window, memory, reg
        self.exact_first_row, self.nearest = exact_first_row, nearest
        self.x = [np.array(x0) for _ in range(window + 1)]  # entering states are copies of the newest known one
        self.pairs = [[] for _ in range(self.steps)]

    def pairs_of(self, node, front):
        """The pairs that a node of the window at ``front`` responds by."""
        seen = [n for n in range(front, node + 1) if len(self.pairs[n]) > 1]
        return self.pairs[seen[-1]] if seen and node - seen[-1] <= self.nearest else self.pairs[node]

    def round(self, front, following):
        """One round of the window at ``front``, then the window moves on to ``following``."""
        last = min(front + self.window, self.steps)
        for n in range(front, last):
            self.pairs[n].append((self.x[n].copy(), self.network(n, self.x[n])))
        new, used = list(self.x), {}
        for n in range(front):
            used[n] = self.pairs[n][-1][1]
        for n in range(front, last):
            x, f = self.pairs[n][-1]
            held = n == front and self.exact_first_row  # evaluated at the very state the step starts from
            used[n] = f if held else f + response(self.pairs_of(n, front), new[n] - x, self.memory, self.reg)
            total = np.array(self.c[n], dtype=np.float64)
            for lag in range(min(self.a.shape[1], n + 1)):
                total = total + self.a[n, lag] * new[n - lag]
            for lag in range(min(self.b.shape[1], n + 1)):
                total = total + self.b[n, lag] * used[n - lag]
            new[n + 1] = total
        while len(new) <= min(following + self.window, self.steps):
            new.append(new[-1].copy())
        self.x = new
