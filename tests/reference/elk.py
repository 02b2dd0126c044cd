"""ELK and quasi-ELK in plain loops, from Gonzalez et al. 2024 (arXiv:2407.19115), Section 4.2, and the authors' code.

One sample, float64. A Kalman filter over the nodes: the linearised step predicts with noise of covariance 1, the last
iterate is a measurement with noise of variance ``sigma^2 = 1 / lambda``. Filtered means only.
"""

from __future__ import annotations

import numpy as np
import torch

from reference.deer import linearisation, predict


def iterate(network, a, b, c, states, variance, *, signs=None, clip=None, exact_first_row=True, front=0):
    """The next iterate ``(N + 1, d)`` of ``states``.

    Args:
        variance: ``sigma^2``.
        signs, clip: quasi-ELK's diagonals.
        exact_first_row: the state after ``front`` is one exact step, without uncertainty (paracore's engine); else
            it is filtered like all others, with a prior covariance of 1 (the authors' code).
        front: the last state that is known exactly.
    """
    outputs, matrices = linearisation(network, a, b, states, signs, clip)
    size = len(states[0])
    eye = np.eye(size)
    new = [states[n] for n in range(front + 1)]
    covariance = np.zeros((size, size))
    for n in range(front, len(a)):
        prediction = predict(n, a, b, c, states, new, outputs, matrices)
        if n == front and exact_first_row:
            new.append(prediction)
            continue
        factor = a[n, 0] * eye + b[n, 0] * matrices[n].numpy()
        prior = eye if n == front else factor @ covariance @ factor.T + eye
        gain = prior @ np.linalg.inv(prior + variance * eye)
        new.append(prediction + torch.from_numpy(gain @ (states[n + 1] - prediction).numpy()))
        covariance = (eye - gain) @ prior
    return torch.stack(new)


def scan_elements(factor, bias, measurement, variance):
    """The authors' scalar scan elements ``(A, b, C, J, eta)`` of one node."""
    gain = 1.0 / (1.0 + variance)
    miss = measurement - bias
    return (1 - gain) * factor, bias + gain * miss, 1 - gain, factor**2 * gain, factor * gain * miss


def combine(left, right):
    """Two neighbouring scan elements as one (Saerkkae and Garcia-Fernandez 2021, Lemma 8, for scalars)."""
    a1, b1, c1, j1, e1 = left
    a2, b2, c2, j2, e2 = right
    share = 1.0 / (1.0 + c1 * j2)
    return (
        a2 * share * a1,
        a2 * share * (b1 + c1 * e2) + b2,
        a2 * share * c1 * a2 + c2,
        a1 * share * j2 * a1 + j1,
        a1 * share * (e2 - j2 * b1) + e1,
    )
