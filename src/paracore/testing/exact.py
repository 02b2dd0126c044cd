"""Problems with the exact network of known data: Gaussians, and mixtures of them."""

from __future__ import annotations

import attrs
import numpy as np
import torch

from paracore.errors import UnknownNameError, suggest
from paracore.problem import Problem
from paracore.request import Rows
from paracore.schemes import Scheme
from paracore.testing.problems import KINDS, Case
from paracore.testing.reference import some

__all__ = ["LEVELLED", "MixtureNetwork", "mixture_case"]

LEVELLED = tuple(kind for kind in KINDS if not kind.startswith("table"))
"""The kinds of schemes that know their noise levels."""


@attrs.frozen(eq=False)
class MixtureNetwork:
    """The exact network of data from a mixture of isotropic Gaussians, in the form that its scheme reads.

    One row at a time, so that a row's bits do not depend on the request.

    Attributes:
        scheme: with noise levels.
        means: ``(K, d)`` float64; one component is a Gaussian.
        spread: standard deviation of each component.
    """

    scheme: Scheme
    means: torch.Tensor
    spread: float

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        levels, node = self.scheme.levels, rows.node.cpu().numpy()
        assert levels is not None
        flat = x.to(torch.float64).flatten(1)
        alpha, sigma = (torch.from_numpy(v[node])[:, None] for v in (levels.alpha, levels.sigma))
        variance = (alpha * self.spread) ** 2 + sigma**2
        off = flat[:, None] - alpha[:, None] * self.means  # (M, K, d)
        share = torch.softmax(-off.square().sum(dim=2) / (2.0 * variance), dim=1)
        nearest = self.means + (alpha * self.spread**2 / variance)[:, None] * off  # expected data of each component
        data = (share[:, :, None] * nearest).sum(dim=1)
        return self.scheme.output_from_data(rows.node, x, data.reshape(x.shape).to(x.dtype))


def mixture_case(
    kind: str = "flow",
    *,
    components: int = 2,
    steps: int = 8,
    batch: int = 2,
    dim: int = 2,
    spread: float = 0.3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Sampling from random data that are a mixture of Gaussians, with the exact network.

    Args:
        kind: of scheme, one of :data:`LEVELLED`.
        components: how many Gaussians; with 1 the network is affine in the state.
        steps: about how many; schemes with stages round.
        batch: samples.
        dim: length of a sample.
        spread: standard deviation of each component, more than 0; the means are of size 1.
        seed: of all that is drawn.
        dtype: of the states.

    Raises:
        UnknownNameError: for another kind.
    """
    if kind not in LEVELLED:
        raise UnknownNameError(f"unknown kind of scheme {kind!r}; {suggest(kind, LEVELLED)}")
    rng = np.random.default_rng([seed, LEVELLED.index(kind), components])
    scheme = KINDS[kind](rng, steps)
    assert scheme.levels is not None
    network = MixtureNetwork(scheme, torch.from_numpy(rng.normal(size=(components, dim))), spread)
    level = float(np.hypot(scheme.levels.alpha[0] * spread, scheme.levels.sigma[0]))
    x0 = torch.from_numpy(rng.normal(size=(batch, dim)) * level).to(dtype)
    seeds = [int(s) for s in rng.integers(0, 2**31, batch)]
    generators = [torch.Generator().manual_seed(s) for s in seeds] if scheme.stochastic else None
    label = f"mixture of {components}, {scheme.name} N={scheme.steps} B={batch} {dtype}"
    whole = Case(Problem(scheme, x0, generators), network, label, lambda b: some(whole, [b]))
    return whole
