"""Quasi-DEER's Jacobian: its diagonal, estimated from one random-sign product per node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

import paracore
from paracore.parts.options import integer, number
from paracore.window import Local, per_sample

__all__ = ["Diagonal", "clip_option", "estimated_diagonal", "held", "probe_signs", "signs"]

Ints = npt.NDArray[np.int64]

_MASK = 2**64 - 1


def _signed(value: int) -> int:
    """An unsigned 64-bit constant as torch's int64 holds it."""
    value &= _MASK
    return value - 2**64 if value >= 2**63 else value


_GOLDEN, _FIRST, _SECOND = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mixed(value: torch.Tensor) -> torch.Tensor:
    """Splitmix64's finaliser on int64, wrapping around; right shifts are made logical with a mask."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        value = (value ^ ((value >> shift) & (2 ** (64 - shift) - 1))) * factor
    return value ^ ((value >> 31) & (2**33 - 1))


def signs(seed: int, node: int, like: torch.Tensor) -> torch.Tensor:
    """Rademacher signs of a node, ``(*event)`` like one sample: the same in every round and for every sample.

    Counter-based: they depend on the seed, the node and the position alone, on any device.
    """
    index = torch.arange(like.numel(), dtype=torch.int64, device=like.device)
    key = _mixed(torch.tensor(_signed(_GOLDEN * (seed + 1)), dtype=torch.int64, device=like.device) ^ (node + 1))
    bits = _mixed(index * _GOLDEN + key)
    return torch.where(bits < 0, -1.0, 1.0).to(like.dtype).reshape(like.shape)


def probe_signs(seed: int, window: paracore.Window) -> list[torch.Tensor]:
    """P rows ``(B, *event)`` of signs, by each sample's own node."""
    known: dict[int, torch.Tensor] = {}
    for node in np.unique(window.nodes).tolist():
        known[node] = signs(seed, node, window.state_rows[0][0])
    return [torch.stack([known[int(n)] for n in nodes]) for nodes in window.nodes]


def estimated_diagonal(round: paracore.Round, row: int, clip: float | None) -> torch.Tensor:
    """``(B, *event)`` Hutchinson's estimate ``z * (J z)`` of the diagonal of ``df/dx`` at a row.

    Products that overflowed count as 0. With ``clip``, the diagonal ``a + b g`` of the step's own Jacobian is kept in
    ``[-clip, clip]``.
    """
    assert round.jvps is not None
    assert round.tangents is not None
    product = round.jvps[row]
    # The engine makes products finite: an infinity arrives as the largest number.
    g = round.tangents[row] * torch.where(product.abs() >= torch.finfo(product.dtype).max, 0.0, product)
    if clip is None:
        return g
    window = round.window
    node = np.minimum(window.nodes[row], window.scheme.steps - 1)
    a, b = window.scheme.a[node, 0], window.scheme.b[node, 0]
    safe = np.where(b == 0, 1.0, b)  # where b is 0 the step does not read the output
    factor = g * per_sample(b, g) + per_sample(a, g)
    bounded = (factor.clamp(-clip, clip) - per_sample(a, g)) / per_sample(safe, g)
    outside = (factor.abs() > clip) & torch.tensor(b != 0, device=g.device).reshape((-1,) + (1,) * (g.ndim - 1))
    return torch.where(outside, bounded.to(g.dtype), g)


def held(round: paracore.Round, product: Callable[[int, torch.Tensor], torch.Tensor]) -> Local:
    """A product ``(row, v) -> (df/dx) v`` as the response that the engine's chain adds to the held output.

    The chain holds ``f'`` in the composition's form, ``f = u x + v' f'``; what is left to add is
    ``(df/dx v - u v) / v'``. Rows that this round did not evaluate have no product: their output is held.
    """
    window = round.window
    u, scale, moving = window.gain_rows

    def local(row: int, v: torch.Tensor) -> torch.Tensor:
        response = product(row, v)
        if moving[row]:
            response = response - v * per_sample(u[row], v)
        if (scale[row] != 1).any():
            response = response / per_sample(scale[row], v)
        known = round.evaluated[row]
        if not known.all():
            mask = torch.tensor(known, device=v.device).reshape((-1,) + (1,) * (v.ndim - 1))
            response = torch.where(mask, response, torch.zeros_like(response))
        return response

    return local


def clip_option(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """``None``, or a number of at least 0."""
    if value is not None:
        number(0.0)(owner, attribute, value)


@attrs.frozen
class Diagonal(paracore.JacobianApproximation):
    """``df/dx ~ diag(z * (df/dx z))``, one random-sign vector ``z`` per node: quasi-DEER with Hutchinson's estimator.

    The product rides along in the round's own request. The signs are drawn once per node and are the same for all
    rounds and samples, so iterates are deterministic and independent of the batch. The estimate of entry ``i`` is off
    by ``sum_{j != i} z_i z_j J_ij``: it is exact for diagonal Jacobians only.

    Attributes:
        seed: of the signs.
        clip: keeps the diagonal of the step's Jacobian, ``a + b g``, in ``[-clip, clip]``; ``None``: as estimated.
    """

    seed: int = attrs.field(default=0, validator=integer(0))
    clip: float | None = attrs.field(default=None, validator=clip_option)

    needs = frozenset({"jvp"})
    reference = "Gonzalez et al. 2024 (quasi-DEER), arXiv:2407.19115, Section 4.1"

    def probes(self, window: paracore.Window, state: Any) -> torch.Tensor:
        """The signs of each row's node."""
        return torch.stack(probe_signs(self.seed, window))

    def local(self, round: paracore.Round, state: Any) -> Local:
        """``v -> g * v``."""
        return held(round, lambda row, v: estimated_diagonal(round, row, self.clip) * v)
