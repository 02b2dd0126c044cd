"""ROPA's Algorithm 1, one sample, plain loops over numpy: written from the formulas alone.

States run from the noise (node 0) to the sample (node N); the paper counts backwards. Residuals are
``R_{n+1} = x_{n+1} - [A x_s + sum_j A b_j f_j]`` with the linear part unrolled over the look-ahead (Eq. 9 and 11), the
Jacobian keeps the unrolled linear part (Eq. 10 with the network's derivatives left out), damped and solved by forward
substitution (Algorithm 1, line 31).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Rows = dict[int, Array]
Network = Callable[[Array, int], Array]


def unrolled(a: Array, n: int, width: int, front: int) -> tuple[int, float, list[tuple[int, float]]]:
    """``x_{n+1}`` from state ``s`` and outputs ``s .. n``: ``(s, factor of x_s, [(j, factor before b_j f_j)])``."""
    s = max(front, n + 1 - width)
    factor, factors = 1.0, []
    for j in range(n, s - 1, -1):
        factors.append((j, factor))
        factor *= a[j]
    return s, factor, factors


def residual(x: Array, f: Array, a: Array, b: Array, n: int, width: int, front: int) -> Array:
    """``R_{n+1}`` at look-ahead ``width``."""
    s, factor, factors = unrolled(a, n, width, front)
    predicted = factor * x[s]
    for j, weight in factors:
        predicted = predicted + weight * b[j] * f[j]
    return x[n + 1] - predicted


def corrected(r: Array, score: Array, g: float, factor: float, gamma: float, scaling: str) -> Array:
    """Eq. 14 and 15."""
    if np.linalg.norm(r) == 0 or np.linalg.norm(score) == 0:
        return r
    if abs(r @ score) / (np.linalg.norm(r) * np.linalg.norm(score)) <= gamma:
        return r
    square = score @ score
    bracket = r - score * (score @ r) / (factor + square)
    if scaling == "paper":
        return bracket / (factor * g**2 * square)
    if scaling == "unit":
        return bracket
    return bracket * np.linalg.norm(r) / np.linalg.norm(bracket)


def solve(
    rhs: dict[int, Array], a: Array, width: dict[int, int], factor: dict[int, float], front: int, nodes: list[int]
) -> dict[int, Array]:
    """``(J + Lambda) dx = R``: ``dx`` of the states ``n + 1`` for each node of the window."""
    moves: dict[int, Array] = {}
    for n in nodes:
        total = rhs[n]
        s, linear, _ = unrolled(a, n, width[n], front)
        if s > front:  # the front is known and does not move
            total = total + linear * moves[s - 1]
        moves[n] = total / (1.0 + factor[n])
    return moves


def bend(points: list[tuple[float, float]]) -> int:
    """Index of the largest curvature of a polygon (through three points: four areas over the product of sides)."""
    best, where = -1.0, 1
    for i in range(1, len(points) - 1):
        p, q, r = (np.array(points[i + k]) for k in (-1, 0, 1))
        u, v = q - p, r - q
        area = abs(u[0] * v[1] - u[1] * v[0])
        sides = np.linalg.norm(u) * np.linalg.norm(v) * np.linalg.norm(u + v)
        value = 2 * area / sides if sides > 0 else 0.0
        if value > best:
            best, where = value, i
    return where


def ropa(
    network: Network,
    a: Array,
    b: Array,
    x0: Array,
    guess: Callable[[int], Array],
    *,
    window: int,
    alpha: float = 1.5,
    beta: float = 0.7,
    start: int = 1,
    largest: int = 8,
    gamma: float | None = 0.3,
    scaling: str = "paper",
    score: Callable[[Array, Array, int], Array] | None = None,
    g: Array | None = None,
    damping: str = "step-ratio",
    warmup: int = 0,
    exact_first_row: bool = True,
) -> list[tuple[int, Array]]:
    """The iterates ``(front, x (N + 1, d))`` after each round.

    Args:
        network: ``(x, n) -> f``.
        a, b: scalars of the scheme, ``(N,)``.
        x0: the noise.
        guess: node -> state of a row that enters the window.
        window: rows.
        gamma: ``None`` leaves the correction out.
        score: ``(x, f, n) -> score``.
        g: diffusion coefficients.
        damping: ``"step-ratio"``, ``"gain-ratio"``, ``"takeaway"``, ``"l-curve"``, ``"none"``.
        warmup: rounds that evaluate the front alone; other rows hold the output before them.
        exact_first_row: the front's own step replaces what the solve made of it, and the front moves on by one.
    """
    count = len(a)
    x = np.zeros((count + 1, len(x0)))
    x[0] = x0
    entered = 0
    width: dict[int, int] = {}
    factor: dict[int, float] = {}
    before: dict[int, float] = {}
    expected: dict[int, float] = {}
    top = min(largest, window, count) if largest else min(window, count)
    out = []
    for k in range(count):
        front = k  # every round makes the front's row exact, and no other
        nodes = list(range(front, min(front + window, count)))
        for n in nodes:
            if n + 1 > entered:
                x[n + 1] = guess(n + 1)
                entered = n + 1
            width.setdefault(n, min(start, top) if start else top)
            factor.setdefault(n, 1e-3)
        f = np.zeros_like(x)
        for n in nodes:
            f[n] = network(x[n], n) if n == front or k >= warmup else f[n - 1]
        # residuals at the last look-ahead, and the next one (lines 3 to 19)
        r = {n: residual(x, f, a, b, n, width[n], front) for n in nodes}
        e = {n: np.linalg.norm(r[n]) for n in nodes}
        mean = sum(e.values()) / len(nodes)
        for n in nodes:
            if e[n] > alpha * mean:
                width[n] = min(width[n] + 1, top)
            elif e[n] < beta * mean:
                width[n] = max(width[n] - 1, 1)
        one = {n: residual(x, f, a, b, n, 1, front) for n in nodes}

        scores = {} if gamma is None or score is None else {n: score(x[n], f[n], n) for n in nodes}

        def step(
            trial: dict[int, float], r: Rows = r, scores: Rows = scores, front: int = front, nodes: list[int] = nodes
        ) -> Rows:
            rhs = dict(r)
            for n in scores:
                assert gamma is not None
                assert g is not None
                rhs[n] = corrected(r[n], scores[n], g[n], max(trial[n], 1e-4), gamma, scaling)
            return solve(rhs, a, width, trial, front, nodes)

        # damping and the solve (lines 20 to 33)
        if damping == "none":
            moves = step(dict.fromkeys(nodes, 0.0))
        elif damping == "step-ratio":
            trial = dict.fromkeys(nodes, 1e-3)
            moves = step(trial)
            for _ in range(20):
                long = [n for n in nodes if e[n] > 0 and np.linalg.norm(moves[n]) >= 0.3 * e[n]]
                if not long:
                    break
                for n in long:
                    trial[n] *= 2.0
                moves = step(trial)
        elif damping == "l-curve":
            grid = np.geomspace(1e-4, 1e2, 13)
            sizes = [np.sqrt(sum(m @ m for m in step(dict.fromkeys(nodes, v)).values())) for v in grid]
            best = bend([(np.log(v * s), np.log(s)) for v, s in zip(grid, sizes, strict=True)])
            moves = step(dict.fromkeys(nodes, float(grid[best])))
        else:
            now = {n: np.linalg.norm(one[n]) for n in nodes}
            for n in nodes:
                below = before.get(n) if damping == "gain-ratio" else expected.get(n)
                if n in before and before[n] > 0 and below:
                    gain = (before[n] - now[n]) / below
                    if gain < 0.1:
                        factor[n] *= 2.0
                    elif gain > 0.5:
                        factor[n] /= 2.0
                factor[n] = min(max(factor[n], 1e-4), 1e2)
            moves = step(factor)
            before = now
            expected = {n: -moves[n] @ (factor[n] * -moves[n] - one[n]) for n in nodes}
        exact = a[front] * x[front] + b[front] * f[front]
        for n in nodes:
            x[n + 1] = x[n + 1] - moves[n]
        if exact_first_row:
            x[front + 1] = exact
        out.append((front + 1, x.copy()))
    return out
