"""Models: a correct one, and wrong ones made of it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

import paracore
from kit.mutants_a.records import Mutant, correct
from paracore import Rows
from paracore.errors import ConfigurationError, SchemeError
from paracore.schemes import Scheme
from paracore.schemes.table import compute_dtype

__all__ = ["MUTANTS", "ORIGINALS"]


class BumpsNetwork:
    """``data(x) = centre + strength tanh(x - centre)``, with the centre of the row's class, 0 without classes."""

    def __init__(self, model: Bumps, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        if scheme.levels is None or scheme.prediction is None:
            raise SchemeError(f"Bumps needs noise levels and a known prediction; scheme {scheme.name!r} has none")
        scheme.levels.conversion("data", scheme.prediction, slice(0, scheme.steps))
        self.model, self.scheme, self.labels, self.guidance = model, scheme, labels, guidance
        self.calls_per_evaluation = 1 if guidance == 1.0 else 2

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(compute_dtype(x.dtype))
        return self.output(rows.node, state, self.guided(state, rows)).to(x.dtype)

    def output(self, node: torch.Tensor, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """The data prediction as the scheme's own output."""
        return self.scheme.output_from_data(node, x, data)

    def guided(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The data prediction ``(M, *event)`` of each row."""
        plain = self.data(x, torch.zeros_like(x))
        if self.labels is None:
            return plain
        own = self.data(x, self.model.centres.to(x)[self.label(rows).to(x.device)])
        return own if self.guidance == 1.0 else plain + self.guidance * (own - plain)

    def label(self, rows: Rows) -> torch.Tensor:
        """``(M,)`` class of each row."""
        assert self.labels is not None
        if len(rows.sample) and int(rows.sample.max()) >= len(self.labels):
            raise ConfigurationError(f"sample {int(rows.sample.max())} has no label; pass one per sample")
        return self.labels[rows.sample.to(self.labels.device)]

    def data(self, x: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """``(M, *event)``."""
        return centre + self.model.strength * torch.tanh(x - centre)


class Bumps(paracore.Model):
    """A smooth pull towards the centre of a class. Nothing was trained.

    Args:
        dimension: length of a sample.
        strength: of the pull, at least 0.
        classes: number of classes, at least 1.
    """

    reference: ClassVar[str] = "closed form; no data"
    network: ClassVar[Any] = BumpsNetwork

    def __init__(self, *, dimension: int = 4, strength: float = 0.7, classes: int = 3) -> None:
        if dimension < 1 or classes < 1 or not strength >= 0:
            raise ConfigurationError(
                f"Bumps: dimension is {dimension}, classes {classes} and strength {strength}; at least 1, 1 and 0 "
                "are needed"
            )
        self.shape, self.classes, self.strength = (dimension,), classes, float(strength)
        grid = torch.linspace(-1.0, 1.0, classes * dimension, dtype=torch.float64)
        self.centres = torch.sin(7.0 * grid).reshape(classes, dimension)

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> paracore.Denoiser:
        """The network for a scheme; see :meth:`paracore.Model.denoiser`."""
        self.check_request(labels, guidance)
        network: paracore.Denoiser = type(self).network(self, scheme, labels, guidance)
        return network


# -- mutants ----------------------------------------------------------------------------------------------------------


class Centred(BumpsNetwork):
    def data(self, x: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        return centre + self.model.strength * torch.tanh(x - x.mean(dim=0, keepdim=True) - centre)


class Buffered(BumpsNetwork):
    buffer: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        new = super().__call__(x, t, rows)
        if self.buffer is None or self.buffer.shape != new.shape or self.buffer.dtype != new.dtype:
            self.buffer = new
        return self.buffer.copy_(new)


class FirstNode(BumpsNetwork):
    def output(self, node: torch.Tensor, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        return super().output(node[:1].expand(len(x)), x, data)


class LabelsByPlace(BumpsNetwork):
    def label(self, rows: Rows) -> torch.Tensor:
        assert self.labels is not None
        return self.labels[torch.arange(len(rows.sample)) % len(self.labels)]


class AlwaysData(BumpsNetwork):
    def output(self, node: torch.Tensor, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        return data


class SingleOutput(BumpsNetwork):
    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(compute_dtype(x.dtype))
        return self.output(rows.node, state, self.guided(state, rows))


class OneCall(BumpsNetwork):
    def __init__(self, model: Bumps, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        super().__init__(model, scheme, labels, guidance)
        self.calls_per_evaluation = 1


class InPlaceNetwork(BumpsNetwork):
    def guided(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        return super().guided(x.clamp_(-1.5, 1.5), rows)


class Dropping(BumpsNetwork):
    def data(self, x: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(super().data(x, centre), 0.05)


def _model(used: type[BumpsNetwork]) -> type[Bumps]:
    """The model with another network."""
    return type(used.__name__ + "Bumps", (Bumps,), {"__doc__": Bumps.__doc__, "network": used, "__module__": __name__})


class Unrefusing(Bumps):
    __doc__ = Bumps.__doc__

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> paracore.Denoiser:
        """The network for a scheme; see :meth:`paracore.Model.denoiser`."""
        network: paracore.Denoiser = BumpsNetwork(self, scheme, labels, guidance)
        return network


ORIGINALS = [correct("model:bumps", "model", lambda: Bumps)]


def _wrong(name: str, part: type, breaks: str, contract: str, runs: str = "yes") -> Mutant:
    made = _model(part) if issubclass(part, BumpsNetwork) else part
    return Mutant(f"model:{name}", "model", lambda: made, breaks, contract, "model:bumps", runs)


MUTANTS = [
    _wrong("centred", Centred, "batch", "a row's output does not depend on the other rows of the call"),
    _wrong("buffered", Buffered, "fresh", "a denoiser returns a new tensor each time"),
    _wrong("first-node", FirstNode, "rows", "each row has its own node"),
    _wrong("labels-by-place", LabelsByPlace, "rows", "a row's label is that of rows.sample"),
    _wrong("always-data", AlwaysData, "tables", "the network returns the scheme's own prediction"),
    _wrong("single-output", SingleOutput, "dtype", "outputs have the states' dtype", "stopped in half precision"),
    _wrong("one-call", OneCall, "counts", "a guided evaluation makes two network calls, and says so"),
    _wrong("in-place-network", InPlaceNetwork, "read-only", "a request's states are not written into"),
    _wrong("dropping", Dropping, "deterministic", "a network draws no numbers"),
    _wrong("unrefusing", Unrefusing, "capability", "labels and guidance that the model lacks are refused"),
]
