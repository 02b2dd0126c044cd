"""From a dense table over all earlier states and outputs to the equivalent table with the shortest memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paracore.errors import SchemeError

__all__ = ["banded"]

Array = npt.NDArray[np.float64]


def banded(
    a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike | None = None, *, tolerance: float = 1e-10
) -> tuple[Array, Array, Array]:
    """Rewrite ``x_{n+1} = sum_j a[n,j] x_j + sum_j b[n,j] f_j + sum_k c[n,k] z_k`` with the shortest memory.

    Predictor-corrector schedulers (UniPC, SA-Solver) read every earlier state when written directly, yet the same
    trajectory satisfies a recursion over the newest few. Each state is written in the coordinates
    ``(x_0, f_0 .. f_n, z_0 ..)``; for each node the smallest ``w`` is found for which ``x_{n+1}`` lies in the span of
    the newest ``w`` states and outputs and this node's own noise.

    Args:
        a: ``(N, N)`` lower triangular weights of states 0 .. n.
        b: ``(N, N)`` lower triangular weights of outputs 0 .. n.
        c: ``(N, K)`` weights of noise draws, or ``None``.
        tolerance: largest relative misfit accepted.

    Returns:
        ``(a, b, c)`` with ``a, b`` of shape ``(N, w)``, newest first (the layout of
        :class:`~paracore.schemes.Scheme`), and ``c`` of shape ``(N, K)``. Off the solution the two forms have
        different residuals with the same root: use one form throughout.

    Raises:
        SchemeError: for tables of wrong shape or with non-finite numbers.
    """
    dense_a, dense_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(dense_a)
    dense_c = np.zeros((n, 0)) if c is None else np.asarray(c, dtype=np.float64)
    if dense_a.shape != (n, n) or dense_b.shape != (n, n) or len(dense_c) != n:
        raise SchemeError(f"a dense table needs two (N, N) arrays; got {dense_a.shape} and {dense_b.shape}")
    if not all(np.all(np.isfinite(t)) for t in (dense_a, dense_b, dense_c)):
        raise SchemeError("a dense table has non-finite weights")
    draws = dense_c.shape[1]
    coordinates = np.zeros((n + 1, 1 + n + draws))
    coordinates[0, 0] = 1.0
    for m in range(n):
        coordinates[m + 1] = dense_a[m, : m + 1] @ coordinates[: m + 1]
        coordinates[m + 1, 1 : m + 2] += dense_b[m, : m + 1]
        coordinates[m + 1, 1 + n :] += dense_c[m]
    fits = [
        _shortest(coordinates, m, n, dense_c[m], tolerance)
        or (dense_a[m, m::-1], dense_b[m, m::-1], dense_c[m])  # nothing shorter: the row as it is
        for m in range(n)
    ]
    width = max(len(states) for states, _, _ in fits)
    out_a, out_b, out_c = np.zeros((n, width)), np.zeros((n, width)), np.zeros((n, draws))
    for m, (states, outputs, noise) in enumerate(fits):
        out_a[m, : len(states)], out_b[m, : len(outputs)], out_c[m] = states, outputs, noise
    while out_a.shape[1] > 1 and not out_a[:, -1].any() and not out_b[:, -1].any():
        out_a, out_b = out_a[:, :-1], out_b[:, :-1]
    return out_a, out_b, out_c


def _shortest(
    coordinates: Array, node: int, steps: int, own_noise: Array, tolerance: float
) -> tuple[Array, Array, Array] | None:
    """Weights of the newest states, outputs and this node's noise, fewest states and outputs; ``None``: all needed."""
    target = coordinates[node + 1]
    scale = max(float(np.abs(target).max()), 1e-300)
    noisy = np.flatnonzero(own_noise)
    for width in range(1, node + 1):
        first = node - width + 1
        outputs = np.zeros((width, coordinates.shape[1]))
        outputs[np.arange(width), 1 + first + np.arange(width)] = 1.0
        draws = np.zeros((len(noisy), coordinates.shape[1]))
        draws[np.arange(len(noisy)), 1 + steps + noisy] = 1.0
        basis = np.concatenate([coordinates[first : node + 1], outputs, draws])
        norms = np.maximum(np.linalg.norm(basis, axis=1), 1e-300)
        weights = np.linalg.lstsq((basis / norms[:, None]).T, target, rcond=1e-13)[0] / norms
        misfit = float(np.abs(basis.T @ weights - target).max())
        if misfit <= tolerance * scale:
            noise = np.zeros(len(own_noise))
            noise[noisy] = weights[2 * width :]
            return weights[:width][::-1], weights[width : 2 * width][::-1], noise
    return None
