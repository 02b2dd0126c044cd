"""Weights of polynomials through outputs at some times: small numbers, worked out in float64 on the CPU."""

from __future__ import annotations

import numpy as np

from paracore.window import Floats

__all__ = ["fitted", "interpolated"]

MOST_WEIGHT = 4.0
"""Weights whose absolute values sum to more amplify the outputs' errors rather than smooth them."""


def fitted(times: Floats, targets: Floats, order: int) -> Floats:
    """``(K, m)`` weights of ``m`` outputs that predict the outputs at ``K`` times.

    A polynomial of degree ``order`` in time, by least squares through all of them; order 0 holds the newest. Where
    fewer distinct times are known the degree is lower.

    Args:
        times: ``(m,)`` of the known outputs, the newest last; at least one.
        targets: ``(K,)``.
        order: degree.
    """
    degree = min(order, len(np.unique(times)) - 1)
    if degree == 0:
        held = np.zeros((len(targets), len(times)))
        held[:, -1] = 1.0
        return held
    span = np.abs(times - times[-1]).max()  # time counts from the newest, in units of the oldest
    coefficients = np.linalg.pinv(np.vander((times - times[-1]) / span, degree + 1))
    wanted = np.vander((targets - times[-1]) / span, degree + 1)
    total = np.zeros((len(targets), len(times)))
    for k, coefficient in enumerate(coefficients):  # no matrix product: its bits may depend on how many targets
        total += wanted[:, k : k + 1] * coefficient
    return total


def interpolated(left: Floats, right: Floats, target: float, degree: int) -> tuple[Floats, Floats] | None:
    """Weights of the polynomial through the nearest outputs at both sides (Lagrange).

    Args:
        left: ``(l,)`` times of known outputs before the target, nearest first.
        right: ``(r,)`` times behind it, nearest first.
        target: the time.
        degree: at most; ``degree + 1`` times are used, as evenly from both sides as they are known.

    Returns:
        ``(l,)`` and ``(r,)`` weights; ``None`` if two of the times are equal or the weights are large.
    """
    half = (degree + 1) // 2
    after = min(len(right), half)
    before = min(len(left), degree + 1 - after)
    after = min(len(right), degree + 1 - before)
    times = np.concatenate([left[:before], right[:after]])
    gaps = times[:, None] - times[None, :]
    np.fill_diagonal(gaps, 1.0)
    if (gaps == 0.0).any():
        return None
    ratios = (target - times)[None, :] / gaps
    np.fill_diagonal(ratios, 1.0)
    weights = ratios.prod(axis=1)
    if np.abs(weights).sum() > MOST_WEIGHT:
        return None
    first, second = np.zeros(len(left)), np.zeros(len(right))
    first[:before], second[:after] = weights[:before], weights[before:]
    return first, second
