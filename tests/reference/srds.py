"""Parareal from its formula, in plain loops over numpy arrays, for one sample.

``U_{k+1}^{i+1} = F(U_k^i) + G(U_{k+1}^i) - G(U_k^i)`` (Selvam et al. 2024, arXiv:2412.08292, Algorithm 1; Lions, Maday,
Turinici 2001). A state is a pair of lists, newest first: the states and the outputs that the next step reads.
"""

import itertools

import numpy as np


def advance(a, b, noise, node, xs, fs):
    """One step of ``x_{n+1} = sum a x_{n-i} + sum b f_{n-j} + z_n``; ``fs`` begins with the output at ``node``."""
    new = noise[node].copy()
    for i in range(min(a.shape[1], len(xs))):
        new = new + a[node, i] * xs[i]
    for j in range(min(b.shape[1], len(fs))):
        new = new + b[node, j] * fs[j]
    return new


def keep(a, b, xs, fs):
    memory = max(a.shape[1], b.shape[1]) - 1
    return list(xs[: memory + 1]), list(fs[:memory])


def sweep(a, b, noise, network, start, stop, state):
    """F: every step of the scheme."""
    xs, fs = state
    for node in range(start, stop):
        f = network(xs[0], node)
        xs, fs = keep(a, b, [advance(a, b, noise, node, xs, [f, *fs]), *xs], [f, *fs])
    return xs, fs


def jumps(a, b, noise, network, cuts, state):
    """G: the output is evaluated at the nodes ``cuts`` only, and held in between."""
    xs, fs = state
    for begin, end in itertools.pairwise(cuts):
        f = network(xs[0], begin)
        for node in range(begin, end):
            xs, fs = keep(a, b, [advance(a, b, noise, node, xs, [f, *fs]), *xs], [f, *fs])
    return xs, fs


def combine(fine, new, old):
    return tuple([f + n - o for f, n, o in zip(*lists, strict=True)] for lists in zip(fine, new, old, strict=True))


def parareal(a, b, noise, network, x0, cuts, iterations, by_index=True):
    """Iterates ``U[k][i]``: the newest state at boundary ``i``.

    ``cuts[i]`` are the coarse nodes of block ``i``. With ``by_index`` the coarse terms are dropped where both are one
    evaluation, so that block ``i`` is the sequential sampler's from iteration ``i + 1`` on.
    """
    start = ([x0], [])
    before = [start]
    for cut in cuts:
        before.append(jumps(a, b, noise, network, cut, before[-1]))
    found = [[u[0][0] for u in before]]
    for k in range(iterations):
        now = [start]
        for i, cut in enumerate(cuts):
            fine = sweep(a, b, noise, network, cut[0], cut[-1], before[i])
            if by_index and i <= k:
                now.append(fine)
            else:
                new, old = (jumps(a, b, noise, network, cut, u) for u in (now[i], before[i]))
                now.append(combine(fine, new, old))
        before = now
        found.append([u[0][0] for u in before])
    return found


def arrivals(cuts):
    """The round after which each iterate of the sample exists, if tasks start as soon as their start states do."""
    blocks = len(cuts)
    begin, ready = {(0, 0): 1}, {}
    for k in range(blocks + 1):
        for i in range(blocks):
            if k > i:
                continue
            if (i, k) not in begin:
                begin[i, k] = ready[i, k] + 1
            jump = begin[i, k] + len(cuts[i]) - 2
            end = begin[i, k] + cuts[i][-1] - cuts[i][0] - 1
            if k == 0:
                ready[i + 1, 0] = jump
            else:
                ready[i + 1, k] = max(jump, begin[i, k - 1] + cuts[i][-1] - cuts[i][0] - 1)
            if k == i:
                ready[i + 1, k + 1] = end
    return [ready[blocks, k] for k in range(blocks + 1)]


def norms(x):
    """The measures of a change, by name."""
    x = np.asarray(x).ravel()
    return {
        "l1": np.abs(x).mean(),
        "rms": np.sqrt((x**2).mean()),
        "max": np.abs(x).max(),
        "l2-over-size": np.sqrt((x**2).sum()) / x.size,
    }
