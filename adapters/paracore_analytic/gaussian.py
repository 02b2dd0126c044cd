"""Gaussian data: the exact denoiser, and the exact solution of the probability-flow equation."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from paracore import Denoiser, Model, Rows
from paracore.errors import ConfigurationError
from paracore.schemes import Scheme
from paracore_analytic.common import (
    Constants,
    Output,
    at_least,
    compute_dtype,
    double,
    generator_of,
    known_levels,
    random_orthogonal,
)
from paracore_analytic.linear import LinearModel

__all__ = ["GaussianModel", "spectrum"]


def spectrum(covariance: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues ``(..., d)`` and eigenvectors ``(..., d, d)`` (columns) of covariances ``(..., d, d)``, float64.

    Raises:
        ConfigurationError: if one is not symmetric, or has a negative eigenvalue.
    """
    scale = float(covariance.abs().max())
    if not torch.allclose(covariance, covariance.mT, rtol=0.0, atol=1e-10 * scale):
        raise ConfigurationError(f"{name} is not symmetric")
    values, vectors = torch.linalg.eigh(covariance)
    if float(values.min()) < -1e-10 * scale:
        raise ConfigurationError(f"{name} has the eigenvalue {float(values.min()):.3g}; none may be negative")
    return values.clamp_min(0.0), vectors


@final
class GaussianModel(Model):
    """Data from ``N(mean, covariance)``.

    Args:
        mean: ``event``; its shape is the model's.
        covariance: ``(d, d)``, symmetric, no negative eigenvalue; ``d`` is the flattened length of the event.

    Raises:
        ConfigurationError: for shapes that do not fit, or a matrix that is no covariance.
    """

    reference: ClassVar[str] = "linear posterior mean of Gaussian data, in closed form; no data"

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        mean, covariance = double(mean, "mean"), double(covariance, "covariance")
        size = mean.numel()
        if mean.ndim < 1 or covariance.shape != (size, size) or size == 0:
            raise ConfigurationError(
                f"covariance has shape {tuple(covariance.shape)} for a mean of shape {tuple(mean.shape)}; "
                f"({size}, {size}) is needed"
            )
        self.shape = tuple(mean.shape)
        self.mean = mean.reshape(-1)
        self.covariance = covariance
        self.eigenvalues, self.basis = spectrum(covariance, "covariance")

    @classmethod
    def random(cls, *, dimension: int = 16, stiffness: float = 100.0, seed: int = 0) -> GaussianModel:
        """A Gaussian with a random mean and covariance. Closed form; no data.

        Args:
            dimension: length of a sample.
            stiffness: largest over smallest eigenvalue of the covariance; the largest is 1, spacing is logarithmic.
            seed: of the mean and the directions.
        """
        at_least(1, dimension=dimension, stiffness=stiffness)
        generator = generator_of(seed)
        mean = torch.randn(dimension, generator=generator, dtype=torch.float64)
        values = torch.logspace(0.0, -1.0, dimension, base=float(stiffness), dtype=torch.float64)
        q = random_orthogonal(dimension, generator)
        covariance = q * values @ q.T
        return cls(mean, 0.5 * (covariance + covariance.T))

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The exact network for a scheme; see :meth:`paracore.model.Model.denoiser`."""
        self.check_request(labels, guidance)
        return _GaussianDenoiser(self, scheme)

    def exact(self, scheme: Scheme, x0: torch.Tensor, node: int | None = None) -> torch.Tensor:
        """The exact solution of the probability-flow equation from node 0, free of the scheme's own step error.

        Along each eigenvector, the distance from ``alpha * mean`` keeps its number of standard deviations.

        Args:
            x0: ``(B, *event)`` state at node 0.
            node: where to stop; the last node by default.

        Returns:
            ``(B, *event)`` in the dtype of ``x0``, computed in float64.
        """
        levels = known_levels(scheme, type(self).__name__)
        stop = scheme.steps if node is None else node
        alpha, sigma = torch.from_numpy(levels.alpha), torch.from_numpy(levels.sigma)
        variance = (alpha[:, None].square() * self.eigenvalues + sigma[:, None].square()).to(x0.device)
        mean, basis = self.mean.to(x0.device), self.basis.to(x0.device)
        y = (x0.to(torch.float64).flatten(1) - float(alpha[0]) * mean) @ basis
        y = y * (variance[stop] / variance[0]).sqrt()
        return (float(alpha[stop]) * mean + y @ basis.T).reshape(x0.shape).to(x0.dtype)

    def linear(self, scheme: Scheme) -> LinearModel:
        """The same network as matrices and offsets, one pair for each node."""
        levels = known_levels(scheme, type(self).__name__)
        alpha = torch.from_numpy(levels.alpha[:-1])[:, None]
        gain = _gain(alpha, torch.from_numpy(levels.sigma[:-1])[:, None], self.eigenvalues)
        matrices = (self.basis * gain[:, None, :]) @ self.basis.T
        offsets = self.mean - alpha * (matrices @ self.mean)
        u, v = levels.conversion("data", str(scheme.prediction), slice(0, scheme.steps))
        own, data = torch.from_numpy(u), torch.from_numpy(v)
        identity = torch.eye(len(self.mean), dtype=torch.float64)
        return LinearModel(
            own[:, None, None] * identity + data[:, None, None] * matrices,
            (data[:, None] * offsets),
            shape=self.shape,
        )


def _gain(alpha: torch.Tensor, sigma: torch.Tensor, eigenvalues: torch.Tensor) -> torch.Tensor:
    """``alpha l / (alpha^2 l + sigma^2)``, and 0 where that is 0 / 0."""
    tiny = torch.finfo(eigenvalues.dtype).tiny
    return alpha * eigenvalues / (alpha.square() * eigenvalues + sigma.square()).clamp_min(tiny)


@final
class _GaussianDenoiser:
    """``E[data | x] = mean + Q gain Q^T (x - alpha mean)``."""

    calls_per_evaluation = 1

    def __init__(self, model: GaussianModel, scheme: Scheme) -> None:
        levels = known_levels(scheme, type(model).__name__)
        alpha = torch.from_numpy(levels.alpha[:-1])
        gain = _gain(alpha[:, None], torch.from_numpy(levels.sigma[:-1])[:, None], model.eigenvalues)
        self._output = Output(scheme, type(model).__name__)
        self._constants = Constants(alpha=alpha, gain=gain, mean=model.mean, basis=model.basis)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(compute_dtype(x.dtype))
        c = self._constants.like(state)
        node = rows.node.to(state.device)
        y = (state.flatten(1) - c["alpha"][node, None] * c["mean"]) @ c["basis"]
        data = c["mean"] + (y * c["gain"][node]) @ c["basis"].T
        return self._output(node, state, data.reshape(state.shape)).to(x.dtype)
