"""Gaussian mixtures with full covariances, class-conditional, with classifier-free guidance: the exact denoiser."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
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
from paracore_analytic.conditions import check_classes, guided_shares
from paracore_analytic.gaussian import spectrum

__all__ = ["MixtureModel"]


@final
class MixtureModel(Model):
    """Data from ``sum_k weights[k] N(means[k], covariances[k])``; each component may belong to a class.

    Args:
        means: ``(K, *event)``.
        covariances: ``(K, d, d)``, symmetric, no negative eigenvalue; or ``(K, d)``: their diagonals.
        weights: ``(K,)`` positive, scaled to sum 1; equal if not given.
        classes: ``(K,)`` int64 class of each component, or ``None``.

    Raises:
        ConfigurationError: for shapes that do not fit, or matrices that are no covariances.
    """

    reference: ClassVar[str] = (
        "posterior mean of a Gaussian mixture, closed form; no data; guidance: Ho and Salimans 2022, arXiv:2207.12598"
    )

    def __init__(
        self,
        means: torch.Tensor,
        covariances: torch.Tensor,
        weights: torch.Tensor | None = None,
        classes: torch.Tensor | None = None,
    ) -> None:
        means, covariances = double(means, "means"), double(covariances, "covariances")
        if means.ndim < 2 or means.numel() == 0:
            raise ConfigurationError(f"means has shape {tuple(means.shape)}; (K, *event) is needed")
        count, size = len(means), means[0].numel()
        if covariances.shape not in ((count, size, size), (count, size)):
            raise ConfigurationError(
                f"covariances has shape {tuple(covariances.shape)} for means of shape {tuple(means.shape)}; "
                f"({count}, {size}, {size}) or ({count}, {size}) is needed"
            )
        share = torch.ones(count, dtype=torch.float64) if weights is None else double(weights, "weights")
        if share.shape != (count,) or float(share.min()) <= 0:
            raise ConfigurationError(f"weights must be ({count},) positive numbers; got {share.tolist()}")
        self.shape = tuple(means.shape[1:])
        self.means = means.flatten(1)
        self.weights = share / share.sum()
        self.component_classes, self.classes = check_classes(classes, count, "component")
        self.basis: torch.Tensor | None = None
        if covariances.ndim == 2:
            if float(covariances.min()) < 0:
                raise ConfigurationError(
                    f"covariances has the variance {float(covariances.min()):.3g}; none may be < 0"
                )
            self.eigenvalues = covariances
        else:
            self.eigenvalues, self.basis = spectrum(covariances, "covariances")

    @classmethod
    def random(
        cls, *, dimension: int = 8, components: int = 8, classes: int = 4, spread: float = 0.4, seed: int = 0
    ) -> MixtureModel:
        """A random class-conditional mixture with full covariances. Closed form; no data.

        Args:
            dimension: length of a sample.
            components: number of Gaussians; component ``k`` belongs to class ``k % classes``.
            classes: number of classes, 0 for none.
            spread: largest standard deviation of a component; the smallest is a fifth of it. Means have deviation 1.
            seed: of all numbers.
        """
        at_least(1, dimension=dimension, components=components)
        at_least(0, classes=classes, spread=spread)
        if classes > components:
            raise ConfigurationError(f"classes is {classes} with {components} components; at most one class for each")
        generator = generator_of(seed)
        means = torch.randn(components, dimension, generator=generator, dtype=torch.float64)
        values = torch.logspace(0.0, -2.0, dimension, base=5.0, dtype=torch.float64) * spread**2
        bases = torch.stack([random_orthogonal(dimension, generator) for _ in range(components)])
        covariances = (bases * values) @ bases.mT
        weights = 0.5 + torch.rand(components, generator=generator, dtype=torch.float64)
        owner = torch.arange(components) % classes if classes else None
        return cls(means, 0.5 * (covariances + covariances.mT), weights, owner)

    @classmethod
    def two_mode(
        cls, *, dimension: int = 8, separation: float = 4.0, width: float = 0.1, seed: int = 0
    ) -> MixtureModel:
        """Two narrow, well separated, equal modes: trajectories near the middle must choose, late and abruptly.

        Each mode is a class. Closed form; no data.

        Args:
            dimension: length of a sample.
            separation: distance of the modes; the larger, the harder.
            width: standard deviation of each mode.
            seed: of the direction from mode to mode.
        """
        at_least(1, dimension=dimension)
        at_least(0, separation=separation, width=width)
        direction = torch.randn(dimension, generator=generator_of(seed), dtype=torch.float64)
        half = 0.5 * separation * direction / direction.norm()
        variances = torch.full((2, dimension), width**2, dtype=torch.float64)
        return cls(torch.stack([half, -half]), variances, classes=torch.arange(2))

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The exact network for a scheme; see :meth:`paracore.model.Model.denoiser`."""
        self.check_request(labels, guidance)
        return _MixtureDenoiser(self, scheme, labels, guidance)


@final
class _MixtureDenoiser:
    """``sum_k r_k(x) E_k[data | x]``: two products with all eigenvectors, whatever nodes the rows belong to.

    The posterior mean is linear in the responsibilities ``r``, so guidance ``f_u + g (f_c - f_u)`` is applied to them.
    """

    def __init__(self, model: MixtureModel, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        levels = known_levels(scheme, type(model).__name__)
        self._output = Output(scheme, type(model).__name__)
        self._labels, self._guidance = labels, guidance
        self.calls_per_evaluation = 2 if guidance != 1.0 else 1
        self._count = len(model.means)
        centres, constants = model.means, {}
        if model.basis is not None:
            centres = (model.means[:, None, :] @ model.basis)[:, 0, :]
            constants["basis"] = model.basis.permute(1, 0, 2).flatten(1)
        self._constants = Constants(
            alpha=torch.from_numpy(levels.alpha[:-1]),
            variance=torch.from_numpy(levels.sigma[:-1] ** 2),
            prior=_log_priors(model, levels.alpha[:-1], levels.sigma[:-1]),
            eigenvalues=model.eigenvalues,
            means=model.means,
            centres=centres,
            owner=model.component_classes,
            **constants,
        )

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(compute_dtype(x.dtype))
        c = self._constants.like(state)
        node = rows.node.to(state.device)
        flat, alpha = state.flatten(1), c["alpha"][node]
        turned = flat if "basis" not in c else flat @ c["basis"]
        y = turned.reshape(len(flat), -1, flat.shape[1]) - alpha[:, None, None] * c["centres"]
        scaled = alpha[:, None, None] * c["eigenvalues"]
        variance = alpha[:, None, None] * scaled + c["variance"][node, None, None]
        whitened = y / variance.clamp_min(torch.finfo(y.dtype).tiny)
        logits = c["prior"][node] - 0.5 * (y * whitened).sum(-1)
        share = guided_shares(logits, self._labels, self._guidance, rows, c["owner"])
        pull = share[:, :, None] * scaled * whitened
        away = pull.sum(1) if "basis" not in c else pull.flatten(1) @ c["basis"].T
        data = share @ c["means"] + away
        return self._output(node, state, data.reshape(state.shape)).to(x.dtype)


def _log_priors(
    model: MixtureModel,
    alpha: np.ndarray[tuple[int], np.dtype[np.float64]],
    sigma: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> torch.Tensor:
    """``(N, K)`` log weight minus half the log determinant, the largest of each node set to 0 for float32's sake."""
    a, s = torch.from_numpy(alpha**2), torch.from_numpy(sigma**2)
    tiny = torch.finfo(torch.float64).tiny
    columns = [
        weight.log() - 0.5 * (a[:, None] * values + s[:, None]).clamp_min(tiny).log().sum(-1)
        for weight, values in zip(model.weights, model.eigenvalues, strict=True)
    ]
    table = torch.stack(columns, dim=1)
    return table - table.amax(1, keepdim=True)
