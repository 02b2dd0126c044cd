"""The engine's noise tape and problem, with a scheduler's own draws."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore import NoiseTape, Problem
from paracore.schemes import Scheme
from paracore_diffusers.replay_noise import RawNoise

__all__ = ["RawTape", "TapedProblem"]


class RawTape(NoiseTape):
    """The engine's view of :class:`RawNoise`: weighted with a scheme's table."""

    def __init__(self, scheme: Scheme, noise: RawNoise, dtype: torch.dtype) -> None:
        self.scheme = scheme
        self.noise = noise
        self.dtype = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def row(self, node: int) -> torch.Tensor | None:
        """``(B, *event)`` weighted noise at a node; ``None`` where nothing is drawn."""
        total: torch.Tensor | None = None
        for k, z in enumerate(self.noise.row(node) if self.scheme.draws[node] else ()):
            term = z.to(self.noise.device, self.dtype) * float(self.scheme.c[node, k])
            total = term if total is None else total.add_(term)
        return total

    def gather(self, nodes: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor | None:
        """``(B, *event)`` weighted noise at one node per sample (nodes beyond N count as no noise)."""
        out: torch.Tensor | None = None
        for node in np.unique(nodes[nodes < self.scheme.steps]) if self.scheme.stochastic else ():
            row = self.row(int(node))
            if row is not None and (nodes == node).all():
                return row
            if row is not None:
                out = torch.zeros_like(row) if out is None else out
                pick = torch.from_numpy(np.flatnonzero(nodes == node)).to(row.device)
                out[pick] = row[pick]
        return out

    def free(self, below: int) -> None:
        """Forget the rows of nodes before ``below``."""
        self.noise.free(below)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return self.noise.plain()

    def restore(self, data: dict[str, Any]) -> None:
        """Continue from :meth:`plain`."""
        self.noise.restore(data)


@attrs.frozen(eq=False)
class TapedProblem(Problem):
    """A problem whose noise is a scheduler's own, in its own order and dtype. One solve each: rows are freed.

    Attributes:
        noise: the draws; needed where the scheme draws any.
    """

    noise: RawNoise | None = None

    @classmethod
    def create(cls, scheme: Scheme, x0: torch.Tensor, noise: RawNoise | None, *, lockstep: bool = True) -> TapedProblem:
        """Build one."""
        # The generator is never drawn from: it says that there is noise.
        generator = torch.Generator() if scheme.stochastic and noise is not None else None
        return cls(scheme, x0, generator, lockstep, noise)

    def tape(self) -> NoiseTape:
        """The scheduler's own draws, weighted."""
        return super().tape() if self.noise is None else RawTape(self.scheme, self.noise, self.x0.dtype)
