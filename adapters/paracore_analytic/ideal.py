"""The optimal denoiser of a finite data set: what a network that has learnt its data by heart returns."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from paracore import Denoiser, Model, Rows
from paracore.errors import ConfigurationError
from paracore.schemes import Scheme
from paracore_analytic.common import Constants, Output, at_least, compute_dtype, double, generator_of, known_levels
from paracore_analytic.conditions import check_classes, guided_shares

__all__ = ["IdealDenoiser"]

_CHUNK = 1 << 22
"""Numbers held at once while distances are measured."""


@final
class IdealDenoiser(Model):
    """Data from the uniform distribution on given points; each point may belong to a class.

    Args:
        points: ``(P, *event)``.
        classes: ``(P,)`` int64 class of each point, or ``None``.

    Raises:
        ConfigurationError: for shapes that do not fit.
    """

    reference: ClassVar[str] = (
        "optimal denoiser of a finite data set: Karras et al. 2022, arXiv:2206.00364, Eq. 57; no data"
    )

    def __init__(self, points: torch.Tensor, classes: torch.Tensor | None = None) -> None:
        points = double(points, "points")
        if points.ndim < 2 or points.numel() == 0:
            raise ConfigurationError(f"points has shape {tuple(points.shape)}; (P, *event) is needed")
        self.shape = tuple(points.shape[1:])
        self.points = points.flatten(1)
        self.point_classes, self.classes = check_classes(classes, len(points), "point")

    @classmethod
    def random(cls, *, points: int = 64, dimension: int = 8, classes: int = 4, seed: int = 0) -> IdealDenoiser:
        """The optimal denoiser of random points (Karras et al. 2022, arXiv:2206.00364, Eq. 57). No data.

        Args:
            points: number of points, standard normal; point ``i`` belongs to class ``i % classes``.
            dimension: length of a sample.
            classes: number of classes, 0 for none.
            seed: of the points.
        """
        at_least(1, points=points, dimension=dimension)
        at_least(0, classes=classes)
        if classes > points:
            raise ConfigurationError(f"classes is {classes} with {points} points; at most one class for each")
        values = torch.randn(points, dimension, generator=generator_of(seed), dtype=torch.float64)
        return cls(values, torch.arange(points) % classes if classes else None)

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The exact network for a scheme; see :meth:`paracore.model.Model.denoiser`."""
        self.check_request(labels, guidance)
        return _PointsDenoiser(self, scheme, labels, guidance)


@final
class _PointsDenoiser:
    """``sum_j r_j(x) point_j`` with ``r = softmax(-|x - alpha point|^2 / 2 sigma^2)``.

    Distances are differences squared, not an expanded square: near the data that would cancel in float32.
    """

    def __init__(self, model: IdealDenoiser, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        levels = known_levels(scheme, type(model).__name__)
        self._output = Output(scheme, type(model).__name__)
        self._labels, self._guidance = labels, guidance
        self.calls_per_evaluation = 2 if guidance != 1.0 else 1
        self._constants = Constants(
            alpha=torch.from_numpy(levels.alpha[:-1]),
            sigma=torch.from_numpy(levels.sigma[:-1]),
            points=model.points,
            owner=model.point_classes,
        )

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(compute_dtype(x.dtype))
        c = self._constants.like(state)
        node = rows.node.to(state.device)
        flat, points = state.flatten(1), c["points"]
        block = max(1, _CHUNK // points.numel())
        alpha, sigma = c["alpha"][node, None, None], c["sigma"][node, None]
        squares = torch.cat(
            [
                (flat[i : i + block, None, :] - alpha[i : i + block] * points).square().sum(-1)
                for i in range(0, len(flat), block)
            ]
        )
        nearest = squares.amin(-1, keepdim=True)
        logits = (nearest - squares) / (2.0 * sigma.square())
        shares = guided_shares(logits, self._labels, self._guidance, rows, c["owner"])
        data = (shares @ points).reshape(state.shape)
        return self._output(node, state, data).to(x.dtype)
