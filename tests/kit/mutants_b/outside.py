"""Models and evaluators: one correct one each, and three with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from kit.mutants_b.record import Mutant
from paracore import Denoiser, Model, Outputs, Request, Rows
from paracore.errors import ConfigurationError, SchemeError
from paracore.schemes import Scheme

__all__ = ["MUTANTS", "ORIGINALS"]


class Clouds(Model):
    """Two round Gaussian clouds, one per class; the exact denoiser.

    Args:
        dimension: length of a sample.
        distance: of either cloud's mean from the origin, per number.
        spread: standard deviation of a cloud.
    """

    reference = "posterior mean of a mixture of two Gaussians, in closed form; no data"
    classes = 2

    def __init__(self, *, dimension: int = 6, distance: float = 0.8, spread: float = 0.5) -> None:
        if dimension < 1 or not spread > 0:
            raise ConfigurationError(f"dimension is {dimension} and spread {spread}; 1 or more, above 0 are needed")
        self.shape = (dimension,)
        signs = torch.ones(2, dimension, dtype=torch.float64)
        signs[1, ::2] = -1.0
        self.means, self.variance = distance * signs, spread**2

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The exact network for a scheme; see :meth:`paracore.model.Model.denoiser`."""
        self.check_request(labels, guidance)
        if scheme.levels is None or scheme.prediction is None:
            raise SchemeError(f"{type(self).__name__} needs noise levels; scheme {scheme.name!r} has none")
        return self._network(scheme, labels, guidance)

    def _network(self, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> Denoiser:
        return CloudDenoiser(self, scheme, labels, guidance)


class CloudDenoiser:
    """``E[data | x]``, of the sample's own class where there are labels, in the scheme's form."""

    def __init__(self, model: Clouds, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        assert scheme.levels is not None
        self.scheme, self.labels, self.guidance = scheme, labels, guidance
        self.means, self.variance = model.means, model.variance
        self.alpha, self.sigma = torch.from_numpy(scheme.levels.alpha), torch.from_numpy(scheme.levels.sigma)
        self.calls_per_evaluation = 2 if labels is not None and guidance != 1.0 else 1

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(self._working(x.dtype))
        per_class, weight = self._clouds(state, rows.node.cpu())
        data = (per_class * weight[..., None]).sum(dim=1)
        if self.labels is not None:
            own = per_class[torch.arange(len(x), device=x.device), self._classes(rows)]
            data = own if self.guidance == 1.0 else data + self.guidance * (own - data)
        return self.scheme.output_from_data(rows.node, state, data).to(x.dtype)

    def _working(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def _levels(self, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.alpha[node], self.sigma[node]

    def _classes(self, rows: Rows) -> torch.Tensor:
        assert self.labels is not None
        return self.labels.to(rows.sample.device)[rows.sample]

    def _clouds(self, x: torch.Tensor, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior means ``(M, 2, d)`` in either cloud, and the clouds' probabilities ``(M, 2)``."""
        alpha, sigma = (w.to(x)[:, None, None] for w in self._levels(node))
        means = self.means.to(x)
        total = (alpha.square() * self.variance + sigma.square()).clamp_min(1e-12)
        away = x[:, None, :] - alpha * means
        per_class = means + alpha * self.variance / total * away
        odds = -0.5 * (away.square() / total).sum(dim=-1)
        return per_class, odds.softmax(dim=-1)


class ByPosition(CloudDenoiser):
    """``E[data | x]``, of the sample's own class where there are labels, in the scheme's form."""

    def _classes(self, rows: Rows) -> torch.Tensor:
        assert self.labels is not None
        labels = self.labels.to(rows.sample.device)  # rows come sample after sample, node after node
        return labels[torch.arange(len(rows.sample), device=labels.device) % len(labels)]


class LateLevels(CloudDenoiser):
    """``E[data | x]``, of the sample's own class where there are labels, in the scheme's form."""

    def _levels(self, node: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.alpha[node + 1], self.sigma[node + 1]


class CloudsByPosition(Clouds):
    __doc__ = Clouds.__doc__

    def _network(self, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> Denoiser:
        return ByPosition(self, scheme, labels, guidance)


class CloudsLate(Clouds):
    __doc__ = Clouds.__doc__

    def _network(self, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> Denoiser:
        return LateLevels(self, scheme, labels, guidance)


class CloudsUnsaid(Clouds):
    """Two round Gaussian clouds, one per class; the exact denoiser.

    Args:
        dimension: length of a sample.
    """


@attrs.frozen
class Chunked:
    """Calls a denoiser on the rows of a request in chunks of equal size, the last one shorter.

    Attributes:
        denoiser: any callable ``denoiser(x, t, rows)``.
        max_batch: most rows in one network call, at least 1.
    """

    denoiser: Denoiser
    max_batch: int = 16

    def __attrs_post_init__(self) -> None:
        if isinstance(self.max_batch, bool) or not isinstance(self.max_batch, int) or self.max_batch < 1:
            raise ConfigurationError(f"max_batch is {self.max_batch!r}; an integer of at least 1 is needed")

    @property
    def capabilities(self) -> frozenset[str]:
        """Nothing beyond values."""
        return frozenset()

    @torch.no_grad()
    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows."""
        size = self.max_batch
        found = [self._call(request, slice(b, b + size)) for b in range(0, len(request), size)]
        cost = int(getattr(self.denoiser, "calls_per_evaluation", 1))
        return Outputs(values=self._joined(found), calls=len(request) * cost)

    def _joined(self, found: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(found)

    def _call(self, request: Request, part: slice) -> torch.Tensor:
        x = request.states[part]
        t = request.times[part].to(x.device, x.dtype if x.dtype == torch.float64 else torch.float32)
        rows = Rows(node=request.nodes[part].to(x.device), sample=request.samples[part].to(x.device))
        return self.denoiser(x, t, rows)


@attrs.frozen
class ChunkedBuffer(Chunked):
    __doc__ = Chunked.__doc__

    _buffers: dict[Any, torch.Tensor] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def _joined(self, found: list[torch.Tensor]) -> torch.Tensor:
        first, count = found[0], sum(len(values) for values in found)
        key = count, first.shape[1:], first.dtype, first.device
        if key not in self._buffers:
            self._buffers[key] = first.new_empty((count, *first.shape[1:]))
        return torch.cat(found, out=self._buffers[key])


@attrs.frozen
class ChunkedSingle(Chunked):
    __doc__ = Chunked.__doc__

    def _call(self, request: Request, part: slice) -> torch.Tensor:
        x = request.states[part]
        t = request.times[part].to(x.device, torch.float32)
        rows = Rows(node=request.nodes[part].to(x.device), sample=request.samples[part].to(x.device))
        return self.denoiser(x.float(), t, rows).to(x.dtype)


@attrs.frozen
class ChunkedForgiving(Chunked):
    __doc__ = Chunked.__doc__

    def _call(self, request: Request, part: slice) -> torch.Tensor:
        try:
            return Chunked._call(self, request, part)
        except Exception:  # out of memory, mostly: the next round asks again
            return torch.zeros_like(request.states[part])


ORIGINALS = [
    Mutant("model:clouds", "model", lambda: Clouds, "", "Keeps the contract."),
    Mutant("evaluator:chunked", "evaluator", lambda: Chunked, "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "model:labels by place in the call",
        "model",
        lambda: CloudsByPosition,
        "batch-coupled",
        "A row's label is its sample's, whatever else is in the call and in which order.",
    ),
    Mutant(
        "model:levels of the next node",
        "model",
        lambda: CloudsLate,
        "off-by-one",
        "The denoiser answers at the noise level of the row's own node.",
    ),
    Mutant(
        "model:options not described",
        "model",
        lambda: CloudsUnsaid,
        "undocumented",
        "The docstring names each option.",
    ),
    Mutant(
        "evaluator:one buffer for all answers",
        "evaluator",
        lambda: ChunkedBuffer,
        "mutating",
        "What comes back is new, not a buffer that is written again.",
    ),
    Mutant(
        "evaluator:single precision inside",
        "evaluator",
        lambda: ChunkedSingle,
        "dtype",
        "The network sees the request's own states and times: float64 is not rounded on the way.",
    ),
    Mutant(
        "evaluator:zeros for a call that failed",
        "evaluator",
        lambda: ChunkedForgiving,
        "accepts",
        "What the network raises goes through; every row of the request is answered by the network.",
    ),
]
