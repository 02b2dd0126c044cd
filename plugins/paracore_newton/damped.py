"""ELK: Levenberg-Marquardt damping of (quasi-)DEER as a Kalman filter over the window."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.parts.options import integer, number
from paracore.schemes import RowWeights
from paracore.window import Bools, Floats, Local, per_sample, small_solve
from paracore_newton.diagonal import clip_option, estimated_diagonal, held, probe_signs
from paracore_newton.exact import times

__all__ = ["BlocksFilter", "DiagonalFilter", "Kalman"]

_LARGEST = 1e30
"""Variances are kept below this: a wild Jacobian must not turn gains into 0/0."""


@attrs.frozen
class Kalman(paracore.DampingPolicy):
    """The same damping ``1 / variance`` on every row, in units of the one-step residual.

    A filtering Jacobian part reads it as ELK does: every state of the last iterate is a measurement with this noise
    variance, every step of the scheme a prediction with noise variance 1. Other Jacobian parts shrink their step by
    ``1 + 1 / variance``.

    Attributes:
        variance: ELK's ``sigma^2 = 1 / lambda``; the larger, the closer to undamped.
    """

    variance: float = attrs.field(default=1e8, validator=number(1e-12))

    reference = "Gonzalez et al. 2024 (ELK), arXiv:2407.19115, Section 4.2"

    def factors(self, round: paracore.Round, state: Any) -> Floats:
        """``1 / variance``."""
        return np.full(round.age.shape, 1.0 / self.variance)


@attrs.frozen
class DiagonalFilter(paracore.JacobianApproximation):
    """Quasi-ELK: the next states are a scalar Kalman filter's means, with quasi-DEER's diagonal as its dynamics.

    With ``F = a + b g`` the diagonal of the step's Jacobian and ``lambda`` the composition's damping of the row::

        m- = step(m, f + g (m - anchor))        P- = F^2 P + 1        K = lambda P- / (1 + lambda P-)
        m' = m- + K (x - m-)                    P' = (1 - K) P-

    ``x`` is the last iterate. The front and its exact step are known: ``P = 0`` there. These are *filtered* means, as
    in the authors' code: a state does not hear of the rows behind it, so the step is not quite Levenberg and
    Marquardt's. Multistep tables: ``F`` takes the newest column, older states count as known. Without damping the
    next states are the chain. A preconditioner has no say where a filter acts.

    Attributes:
        seed: of the random signs.
        clip: keeps ``F`` in ``[-clip, clip]``; ``None``: as estimated.
    """

    seed: int = attrs.field(default=0, validator=integer(0))
    clip: float | None = attrs.field(default=None, validator=clip_option)

    needs = frozenset({"jvp"})
    reference = "Gonzalez et al. 2024 (quasi-ELK), arXiv:2407.19115, Section 4.2"

    def probes(self, window: paracore.Window, state: Any) -> torch.Tensor:
        """The signs of each row's node."""
        return torch.stack(probe_signs(self.seed, window))

    def local(self, round: paracore.Round, state: Any) -> Local:
        """``v -> g * v``."""
        return held(round, lambda row, v: estimated_diagonal(round, row, self.clip) * v)

    def solve(
        self,
        round: paracore.Round,
        weights: RowWeights | None,
        rhs: torch.Tensor | None,
        damping: Floats,
        state: Any,
    ) -> torch.Tensor | None:
        """The filtered means, ``(P, B, *event)``."""
        if not damping.any():
            return None
        window = round.window
        means, used = [window.state_rows[0]], [round.outputs[0]]
        variance = torch.zeros_like(means[0], dtype=torch.promote_types(means[0].dtype, torch.float32))
        for r in range(window.rows):
            g: torch.Tensor | None = None
            if r > 0:
                g = _kept(round, r, estimated_diagonal(round, r, self.clip))
                used.append((round.outputs[r] + g * (means[r] - round.anchors[r])).to(means[0].dtype))
            predicted = _predicted(round, r, means, used)
            if g is None:  # the front's own step is exact
                means.append(predicted)
                continue
            a, b = _newest(round, r)
            factor = (g * per_sample(b, g) + per_sample(a, g)).to(variance.dtype)
            variance = torch.nan_to_num(factor * factor * variance + 1.0, _LARGEST).clamp(1.0, _LARGEST)
            scaled = 1.0 + variance * per_sample(damping[r], variance)
            gain = 1.0 - 1.0 / scaled
            variance = variance / scaled
            means.append((predicted + gain * (window.state_rows[r + 1] - predicted)).to(predicted.dtype))
        return torch.stack(means[1:])


@attrs.frozen
class BlocksFilter(paracore.JacobianApproximation):
    """ELK: :class:`DiagonalFilter` with the exact blocks, covariances and gains ``d x d`` matrices in float64.

    Used inside a :class:`~paracore_newton.exact.BlockSampler`, which hands it each round's blocks.

    Attributes:
        blocks: P tensors ``(B, d, d)``, set for one round.
    """

    blocks: tuple[torch.Tensor, ...] | None = attrs.field(default=None, repr=False, eq=False)

    reference = "Gonzalez et al. 2024 (ELK), arXiv:2407.19115, Section 4.2"

    def local(self, round: paracore.Round, state: Any) -> Local | None:
        """``v -> df/dx v``."""
        blocks = self.blocks
        return None if blocks is None else held(round, lambda row, v: times(blocks[row], v))

    def solve(
        self,
        round: paracore.Round,
        weights: RowWeights | None,
        rhs: torch.Tensor | None,
        damping: Floats,
        state: Any,
    ) -> torch.Tensor | None:
        """The filtered means, ``(P, B, *event)``."""
        if self.blocks is None or not damping.any():
            return None
        window = round.window
        means, used = [window.state_rows[0]], [round.outputs[0]]
        eye = torch.eye(means[0][0].numel(), dtype=torch.float64, device=means[0].device)
        covariance = torch.zeros_like(eye).repeat(window.batch, 1, 1)
        for r in range(window.rows):
            block: torch.Tensor | None = None
            if r > 0:
                block = _kept(round, r, self.blocks[r].double(), eye)
                move = (means[r] - round.anchors[r]).double()
                used.append((round.outputs[r] + times(block, move)).to(means[0].dtype))
            predicted = _predicted(round, r, means, used)
            if block is None:
                means.append(predicted)
                continue
            a, b = (torch.tensor(w, device=eye.device)[:, None, None] for w in _newest(round, r))
            factor = a * eye + b * block
            covariance = _product(_product(factor, covariance), factor.mT) + eye
            covariance = torch.nan_to_num(covariance, 0.0).clamp(-_LARGEST, _LARGEST)
            scaled = covariance * torch.tensor(damping[r], device=eye.device)[:, None, None]
            both = small_solve(scaled + eye, torch.cat([scaled, covariance], dim=2))
            gain, covariance = both[:, :, : len(eye)], both[:, :, len(eye) :]
            miss = (window.state_rows[r + 1] - predicted).double()
            means.append((predicted + times(gain, miss)).to(predicted.dtype))
        return torch.stack(means[1:])


def _predicted(round: paracore.Round, row: int, means: list[torch.Tensor], used: list[torch.Tensor]) -> torch.Tensor:
    """The scheme's own step from the means so far."""
    window = round.window
    return window.step(row, window.history(row, means, window.past_x), window.history(row, used, window.past_f))


def _newest(round: paracore.Round, row: int) -> tuple[Floats, Floats]:
    """``(a, b)``, each ``(B,)``: the table's weights of the newest state and output."""
    scheme = round.window.scheme
    node = np.minimum(round.window.nodes[row], scheme.steps - 1)
    return scheme.a[node, 0], scheme.b[node, 0]


def _kept(round: paracore.Round, row: int, known: torch.Tensor, unit: torch.Tensor | None = None) -> torch.Tensor:
    """The network's derivative where this round evaluated the row, that of the held output elsewhere."""
    evaluated: Bools = round.evaluated[row]
    if evaluated.all():
        return known
    u = round.window.gain_rows[0][row]
    shape = (-1,) + (1,) * (known.ndim - 1)
    rest = torch.tensor(u, device=known.device).to(known.dtype).reshape(shape)
    rest = rest * (torch.ones_like(known) if unit is None else unit)
    return torch.where(torch.tensor(evaluated, device=known.device).reshape(shape), known, rest)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``(B, d, d)`` by ``(B, d, d)``, one outer product at a time: bits do not depend on the batch."""
    total = left[:, :, :1] * right[:, :1, :]
    for k in range(1, left.shape[2]):
        total = total + left[:, :, k : k + 1] * right[:, k : k + 1, :]
    return total
