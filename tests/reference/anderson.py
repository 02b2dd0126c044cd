"""ParaTAA and plain Anderson acceleration of the sampling equations, written out in loops over numpy arrays.

From Tang et al. 2024, arXiv:2402.09970: the order-k equations (Definition 2.1) and Algorithm 1, one sample, node 0 the
noise. Nothing of paracore is used. The history of a state is kept by its node.
"""

from __future__ import annotations

import numpy as np


def look_ahead(x, f, a, b, c, node, order, front):
    """Right-hand side of the order-k equation for the state at ``node``."""
    value, weight = 0.0, 1.0
    m = node
    while m > front and node - m < order:
        value = value + weight * (b[m - 1] * f[m - 1] + c[m - 1])
        weight = weight * a[m - 1]
        m -= 1
    return value + weight * x[m]


def triangular_anderson(
    network,
    a,
    b,
    c,
    x0,
    bound,
    *,
    window,
    order,
    memory,
    regularisation,
    gram="triangular",
    history="newest",
    successor=True,
    exact=True,
):
    """Yield ``(front, states)`` after each round; ``states`` is ``(N + 1, d)`` with NaN where nothing entered yet.

    ``network(x, node)``; ``c (N, d)`` weighted noise; ``bound (N,)`` largest root-mean-square one-step residual of the
    state that follows node n. ``exact``: accepted states come from the scheme's own steps with the outputs of this
    round, as paracore's engine does it; else from the update itself, as the authors' code does it.
    """
    steps, dim = len(a), len(x0)
    x = np.full((steps + 1, dim), np.nan)
    x[0] = x0
    front, end = 0, min(window, steps)
    x[1 : end + 1] = x0
    records = []  # newest last: {node: (state, residual)}
    while front < steps:
        rows = list(range(front + 1, end + 1))  # nodes of the unknowns
        f = {n: network(x[n], n) for n in range(front, end)}
        first = {n: x[n] - (a[n - 1] * x[n - 1] + b[n - 1] * f[n - 1] + c[n - 1]) for n in rows}
        high = {n: x[n] - look_ahead(x, f, a, b, c, n, order or window, front) for n in rows}
        passing = 0
        while passing < len(rows) and np.sqrt(np.mean(first[rows[passing]] ** 2)) <= bound[rows[passing] - 1]:
            passing += 1
        accepted = max(1, min(passing + 1 if successor else passing, len(rows)))
        records = [*records, {n: (x[n].copy(), high[n]) for n in rows}][-memory:]
        new = x.copy()
        for n in rows:
            new[n] = x[n] - high[n]
            if n >= front + 1 + (0 if exact and n > front + 1 else accepted):
                new[n] -= correction(records, rows, n, regularisation, gram, history, high, memory)
        if exact:
            for n in rows[:accepted]:
                new[n] = a[n - 1] * new[n - 1] + b[n - 1] * f[n - 1] + c[n - 1]
        x = new
        front += accepted
        old_end, end = end, min(front + window, steps)
        x[old_end + 1 : end + 1] = x[old_end]
        yield front, x


def correction(records, rows, node, regularisation, gram, history, residual, memory):
    """``(dX - dR) gamma`` for one state."""
    total = len(records) - 1
    if total == 0:
        return 0.0
    zero = np.zeros_like(residual[node])

    def entry(k, n):
        return records[k].get(n, (zero, zero))

    def age(n):
        """In how many rounds up to now the state has been in the window."""
        count = 0
        while count < len(records) and n in records[-1 - count]:
            count += 1
        return count

    def own(n):
        return set(range(total - (age(n) - 1), total))

    chosen = sorted(own(node)) if history == "newest" else list(range(age(node) - 1))
    if not chosen:
        return 0.0
    d_state = {(k, n): entry(k + 1, n)[0] - entry(k, n)[0] for k in range(total) for n in rows}
    d_residual = {(k, n): entry(k + 1, n)[1] - entry(k, n)[1] for k in range(total) for n in rows}
    summed = rows if gram == "window" else [n for n in rows if n <= node]
    size = len(chosen)
    matrix, right = np.zeros((size, size)), np.zeros(size)
    for n in summed:
        for i, k in enumerate(chosen):
            if history == "newest" and k not in own(n):
                continue
            right[i] += d_residual[k, n] @ residual[n]
            for j, m in enumerate(chosen):
                if history == "newest" and m not in own(n):
                    continue
                matrix[i, j] += d_residual[k, n] @ d_residual[m, n]
    gamma = np.linalg.solve(matrix + regularisation * np.eye(size), right)
    return sum(g * (d_state[k, node] - d_residual[k, node]) for g, k in zip(gamma, chosen, strict=True))
