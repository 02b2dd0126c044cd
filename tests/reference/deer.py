"""DEER and quasi-DEER in plain loops, from the papers: Lim et al. 2024 (arXiv:2309.12252), Gonzalez et al. 2024.

One sample, float64. Newton's method on ``x_{n+1} = sum_i a[n,i] x_{n-i} + sum_j b[n,j] f_{n-j}(x_{n-j}) + c[n]``: the
outputs are linearised at the last iterate, and the linear system is solved by forward substitution.
"""

from __future__ import annotations

import torch


def jacobian(network, node, x):
    """``(d, d)``, one reverse-mode pass per output."""
    return torch.autograd.functional.jacobian(lambda y: network(node, y), x)


def hutchinson(network, node, x, signs):
    """The diagonal matrix of ``z * (J z)``."""
    return torch.diag(signs * (jacobian(network, node, x) @ signs))


def clipped(matrix, a, b, clip):
    """The diagonal response whose step ``a + b g`` lies in ``[-clip, clip]``."""
    if clip is None or b == 0:
        return matrix
    factors = [min(max(a + b * float(g), -clip), clip) for g in torch.diag(matrix)]
    return torch.diag(torch.tensor([(factor - a) / b for factor in factors], dtype=torch.float64))


def linearisation(network, a, b, states, signs=None, clip=None):
    """``(outputs, jacobians)`` of all nodes at an iterate; ``signs (N, d)`` for quasi-DEER."""
    outputs, matrices = [], []
    for n in range(len(a)):
        outputs.append(network(n, states[n]))
        if signs is None:
            matrices.append(jacobian(network, n, states[n]))
        else:
            matrices.append(clipped(hutchinson(network, n, states[n], signs[n]), a[n, 0], b[n, 0], clip))
    return outputs, matrices


def predict(n, a, b, c, states, new, outputs, matrices):
    """The linearised step from node ``n`` of a new trajectory."""
    total = torch.zeros_like(states[0]) + c[n]
    for lag in range(min(a.shape[1], n + 1)):
        m = n - lag
        total = total + a[n, lag] * new[m]
        total = total + b[n, lag] * (outputs[m] + matrices[m] @ (new[m] - states[m]))
    return total


def iterate(network, a, b, c, states, signs=None, clip=None):
    """The next iterate ``(N + 1, d)`` of ``states``. The first row needs no switch: ``x_0`` does not move."""
    outputs, matrices = linearisation(network, a, b, states, signs, clip)
    new = [states[0]]
    for n in range(len(a)):
        new.append(predict(n, a, b, c, states, new, outputs, matrices))
    return torch.stack(new)
