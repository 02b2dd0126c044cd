"""Evaluators: a correct one, and wrong ones made of it."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from kit.mutants_a.records import Mutant, correct
from paracore import Denoiser, Outputs, Request, Rows
from paracore.errors import ConfigurationError, DenoiserError
from paracore.parts.options import integer

__all__ = ["MUTANTS", "ORIGINALS"]


def _callable(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise ConfigurationError(f"the denoiser is {type(value).__name__}; a callable denoiser(x, t, rows) is needed")


@attrs.frozen
class Chunks:
    """Calls a denoiser on a few rows at a time.

    Attributes:
        denoiser: any callable ``denoiser(x, t, rows)`` (see :class:`~paracore.Denoiser`).
        size: most rows in one network call.
        jvp: answer tangents, through ``torch.func.jvp``.
    """

    denoiser: Denoiser = attrs.field(validator=_callable)
    size: int = attrs.field(default=3, validator=integer(1))
    jvp: bool = False

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""
        return frozenset({"jvp"}) if self.jvp else frozenset()

    @torch.no_grad()
    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows; the answer's rows are in the request's order.

        Raises:
            DenoiserError: if a call returns something that is not one output per row.
        """
        count = len(request)
        parts = [slice(begin, min(begin + self.size, count)) for begin in range(0, count, self.size)]
        if not parts:
            return Outputs(request.states.clone(), None if request.tangents is None else request.tangents.clone())
        pairs = [self._call(request, part) for part in parts]
        jvps = None if request.tangents is None else torch.cat([jvp for _, jvp in pairs])
        return Outputs(torch.cat([value for value, _ in pairs]), jvps, self._cost(request, len(parts)))

    def _call(self, request: Request, part: slice) -> tuple[torch.Tensor, Any]:
        x = self._states(request, part)
        wide = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        t, rows = request.times[part].to(x.device, wide), self._rows(request, part)
        if request.tangents is None:
            return _checked(self.denoiser(x, t, rows), x), None
        pair: Any = torch.func.jvp(lambda s: self.denoiser(s, t, rows), (x,), (request.tangents[part],))
        return _checked(pair[0], x), pair[1]

    def _states(self, request: Request, part: slice) -> torch.Tensor:
        return request.states[part]

    def _rows(self, request: Request, part: slice) -> Rows:
        device = request.states.device
        return Rows(node=request.nodes[part].to(device), sample=request.samples[part].to(device))

    def _cost(self, request: Request, parts: int) -> int:
        """Network rows of the request."""
        each = int(getattr(self.denoiser, "calls_per_evaluation", 1))
        return len(request) * each * (1 if request.tangents is None else 2)


def _checked(value: Any, x: torch.Tensor) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.shape != x.shape:
        what = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise DenoiserError(f"the network returned {what}; a tensor {tuple(x.shape)} is needed, one output per row")
    return value


# -- mutants ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Sorted(Chunks):
    __doc__ = Chunks.__doc__

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows, those of a sample together."""
        order = torch.argsort(request.samples, stable=True)
        tangents = None if request.tangents is None else request.tangents[order]
        return super().evaluate(
            Request(request.nodes[order], request.samples[order], request.states[order], request.times[order], tangents)
        )


@attrs.frozen
class OwnNumbers(Chunks):
    __doc__ = Chunks.__doc__

    def _rows(self, request: Request, part: slice) -> Rows:
        nodes = request.nodes[part].to(request.states.device)
        return Rows(node=nodes, sample=torch.arange(len(nodes), device=nodes.device))


@attrs.frozen
class Remembering(Chunks):
    __doc__ = Chunks.__doc__

    _known: dict[tuple[int, int], torch.Tensor] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate the rows that were not evaluated before."""
        outputs = super().evaluate(request)
        keys = list(zip(request.nodes.tolist(), request.samples.tolist(), strict=True))
        rows = [self._known.setdefault(key, value) for key, value in zip(keys, outputs.values, strict=True)]
        return attrs.evolve(outputs, values=torch.stack(rows) if rows else outputs.values)


@attrs.frozen
class CountsChunks(Chunks):
    __doc__ = Chunks.__doc__

    def _cost(self, request: Request, parts: int) -> int:
        return parts


@attrs.frozen
class SaysProducts(Chunks):
    __doc__ = Chunks.__doc__

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}``."""
        return frozenset({"jvp"})

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows."""
        return super().evaluate(attrs.evolve(request, tangents=None))


@attrs.frozen
class Mending(Chunks):
    __doc__ = Chunks.__doc__

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows; what is not finite becomes 0."""
        outputs = super().evaluate(request)
        return attrs.evolve(outputs, values=torch.nan_to_num(outputs.values, 0.0, 0.0, 0.0))


@attrs.frozen
class Clamping(Chunks):
    __doc__ = Chunks.__doc__

    def _states(self, request: Request, part: slice) -> torch.Tensor:
        return request.states[part].clamp_(-1.5, 1.5)


@attrs.frozen
class OneBuffer(Chunks):
    __doc__ = Chunks.__doc__

    _kept: dict[Any, torch.Tensor] = attrs.field(factory=dict, init=False, repr=False, eq=False)

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows, into memory that is kept for each shape."""
        outputs = super().evaluate(request)
        key = (outputs.values.shape, outputs.values.dtype, outputs.values.device)
        kept = self._kept.setdefault(key, torch.empty_like(outputs.values))
        return attrs.evolve(outputs, values=kept.copy_(outputs.values))


@attrs.frozen
class LastChunk(Chunks):
    __doc__ = Chunks.__doc__

    def _call(self, request: Request, part: slice) -> tuple[torch.Tensor, Any]:
        begin = max(0, min(part.start, len(request) - self.size))
        value, jvp = super()._call(request, slice(begin, part.stop))
        count = part.stop - part.start
        return value[:count], None if jvp is None else jvp[:count]


ORIGINALS = [correct("evaluator:chunks", "evaluator", lambda: Chunks)]


def _wrong(name: str, part: type, breaks: str, contract: str, runs: str = "yes") -> Mutant:
    return Mutant(f"evaluator:{name}", "evaluator", lambda: part, breaks, contract, "evaluator:chunks", runs)


MUTANTS = [
    _wrong("sorted", Sorted, "rows", "the answer's rows are in the request's order"),
    _wrong("own-numbers", OwnNumbers, "rows", "rows.sample is the sample's number in the problem"),
    _wrong("remembering", Remembering, "stateless", "an answer is the network's at the states that were asked"),
    _wrong("counts-chunks", CountsChunks, "counts", "calls are counted in rows of the network"),
    _wrong(
        "says-products",
        SaysProducts,
        "capability",
        "who offers 'jvp' answers tangents",
        "stopped where products are asked",
    ),
    _wrong("mending", Mending, "nonfinite", "numbers that are not finite are handed on"),
    _wrong("clamping", Clamping, "read-only", "a request's states are not written into"),
    _wrong("one-buffer", OneBuffer, "fresh", "an answer is not written again by the next one"),
    _wrong("last-chunk", LastChunk, "rows", "the last chunk, too, has its own rows"),
]
