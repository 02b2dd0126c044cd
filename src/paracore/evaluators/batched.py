"""One device, in batches."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import torch

from paracore.errors import ConfigurationError, DenoiserError
from paracore.request import Denoiser, Outputs, Request, Rows

__all__ = ["Batched", "batched"]

_FORWARD_MODE = threading.Lock()
"""torch keeps the levels of forward-mode derivatives per process, not per thread: two at once give wrong numbers."""


@attrs.frozen
class Batched:
    """Calls a denoiser on the rows of a request, at most ``max_batch`` at a time, nodes and samples mixed.

    Attributes:
        denoiser: any callable ``denoiser(x, t, rows)`` (see :class:`~paracore.Denoiser`).
        max_batch: most rows in one network call; ``None`` is no limit. With 1 a row's bits do not depend on the
            request, so that tolerance 0 gives the sequential sampler's bits.
        jvp: answer tangents, through ``torch.func.jvp``, of which a process makes one at a time.
    """

    denoiser: Denoiser
    max_batch: int | None = None
    jvp: bool = False

    def __attrs_post_init__(self) -> None:
        if not callable(self.denoiser):
            raise ConfigurationError(
                f"the denoiser is {type(self.denoiser).__name__}; a callable denoiser(x, t, rows) is needed"
            )
        if self.max_batch is not None and (not isinstance(self.max_batch, int) or self.max_batch < 1):
            raise ConfigurationError(f"max_batch is {self.max_batch!r}; an integer of at least 1, or None, is needed")

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""
        return frozenset({"jvp"}) if self.jvp else frozenset()

    @torch.no_grad()
    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows.

        Raises:
            DenoiserError: if a call returns something that is not one output per row.
        """
        count = len(request)
        size = self.max_batch or count
        values, jvps = [], []
        for begin in range(0, count, size):
            part = slice(begin, min(begin + size, count))
            value, jvp = self._call(request, part)
            values.append(value)
            if jvp is not None:
                jvps.append(jvp)
        cost = int(getattr(self.denoiser, "calls_per_evaluation", 1))
        return Outputs(
            values=values[0] if len(values) == 1 else torch.cat(values),
            jvps=torch.cat(jvps) if jvps else None,
            calls=count * cost * (2 if jvps else 1),
        )

    def _call(self, request: Request, part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = request.states[part]
        dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        t = request.times[part].to(device=x.device, dtype=dtype)
        rows = Rows(node=request.nodes[part].to(x.device), sample=request.samples[part].to(x.device))
        jvp: torch.Tensor | None = None
        if request.tangents is not None:
            with _FORWARD_MODE:
                pair: Any = torch.func.jvp(lambda s: self.denoiser(s, t, rows), (x,), (request.tangents[part],))
            value, jvp = pair
        else:
            value = self.denoiser(x, t, rows)
        if not isinstance(value, torch.Tensor):
            raise DenoiserError(f"the network returned {type(value).__name__}; a tensor {tuple(x.shape)} is needed")
        if value.shape != x.shape:
            raise DenoiserError(
                f"the network returned shape {tuple(value.shape)} for states {tuple(x.shape)}; one output per row, "
                "in the state's shape, is needed"
            )
        return value, jvp


def batched(denoiser: Denoiser, *, max_batch: int | None = None, jvp: bool = False) -> Batched:
    """An evaluator on one device; see :class:`Batched`.

    Args:
        denoiser: any callable ``denoiser(x, t, rows)``.
        max_batch: most rows in one network call; ``None`` is no limit.
        jvp: answer tangents.
    """
    return Batched(denoiser, max_batch, jvp)
