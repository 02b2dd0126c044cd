"""A problem: a scheme, the initial noise, and the tape of pre-drawn noise for stochastic schemes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import CheckpointError, ProblemError
from paracore.schemes.table import Scheme, compute_dtype

__all__ = ["NoiseTape", "Problem"]

Generators = torch.Generator | Sequence[torch.Generator]


@attrs.frozen(eq=False)
class Problem:
    """What to sample: independent of the network, and of the method.

    Attributes:
        scheme: the sampler's table.
        x0: ``(B, *event)`` floating-point initial states at node 0 (for most schemes standard normal noise times
            the first noise level).
        generator: for stochastic schemes: one generator for the whole batch (as diffusers draws), or one per sample
            (then a sample does not depend on its batch mates). It is copied, never advanced.
        lockstep: all samples are evaluated at one node at a time and share their front (a diffusers pipeline).

    Raises:
        ProblemError: for an initial state of wrong shape or dtype, non-finite numbers, or a missing generator.
    """

    scheme: Scheme
    x0: torch.Tensor
    generator: Generators | None = None
    lockstep: bool = False

    def __attrs_post_init__(self) -> None:
        x0 = self.x0
        if not isinstance(self.scheme, Scheme):
            raise ProblemError(f"scheme is {type(self.scheme).__name__}; build one with paracore.schemes")
        if not isinstance(x0, torch.Tensor) or not x0.is_floating_point():
            what = x0.dtype if isinstance(x0, torch.Tensor) else type(x0).__name__
            raise ProblemError(f"x0 is {what}; a floating-point tensor (B, *event) is needed")
        if x0.ndim < 2 or x0.numel() == 0:
            raise ProblemError(f"x0 has shape {tuple(x0.shape)}; (B, *event) with B >= 1 is needed, event not empty")
        if not bool(torch.isfinite(x0).all()):
            raise ProblemError("x0 has non-finite numbers; the initial noise must be finite")
        if self.scheme.stochastic and self.generator is None:
            raise ProblemError(
                f"scheme {self.scheme.name!r} draws noise; pass generator=torch.Generator().manual_seed(...)"
            )
        if isinstance(self.generator, Sequence) and len(self.generator) != len(x0):
            raise ProblemError(f"{len(self.generator)} generators for {len(x0)} samples; pass one, or one per sample")
        self.scheme.prepare(x0.dtype)

    @property
    def batch(self) -> int:
        """B: how many samples."""
        return len(self.x0)

    def tape(self) -> NoiseTape:
        """A fresh noise tape; its numbers depend on the generator alone."""
        return NoiseTape(self)


class NoiseTape:
    """Weighted noise ``sum_k c[n,k] z[n,k]``, drawn lazily in node order and kept until freed."""

    def __init__(self, problem: Problem) -> None:
        scheme, x0 = problem.scheme, problem.x0
        self._scheme = scheme
        self._like = x0
        self._next = 0
        self._rows: dict[int, torch.Tensor] = {}
        self._single = isinstance(problem.generator, torch.Generator)
        source = problem.generator
        given = [] if source is None else [source] if isinstance(source, torch.Generator) else list(source)
        self._generators = [_copy(g) for g in given] if scheme.stochastic else []

    def row(self, node: int) -> torch.Tensor | None:
        """``(B, *event)`` weighted noise at a node, in the compute dtype; ``None`` where the scheme adds none."""
        if not self._scheme.stochastic or not self._scheme.draws[node]:
            return None
        while self._next <= node:
            self._draw()
        try:
            return self._rows[node]
        except KeyError:
            raise ProblemError(f"the noise of node {node} was freed already") from None

    def gather(self, nodes: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor | None:
        """``(B, *event)`` weighted noise at one node per sample (nodes beyond N count as no noise)."""
        if not self._scheme.stochastic:
            return None
        nodes = np.minimum(nodes, self._scheme.steps)
        if (nodes == nodes[0]).all():
            return self.row(int(nodes[0])) if nodes[0] < self._scheme.steps else None
        out = torch.zeros_like(self._like, dtype=compute_dtype(self._like.dtype))
        for node in np.unique(nodes):
            row = self.row(int(node)) if node < self._scheme.steps else None
            if row is not None:
                pick = torch.from_numpy(np.flatnonzero(nodes == node)).to(out.device)
                out[pick] = row[pick]
        return out

    def free(self, below: int) -> None:
        """Forget the rows of nodes before ``below``; drawing order is kept."""
        for node in [n for n in self._rows if n < below]:
            del self._rows[node]

    def plain(self) -> dict[str, Any]:
        """The tape as plain data."""
        return {
            "next": self._next,
            "rows": {node: row.clone() for node, row in self._rows.items()},
            "generators": [g.get_state() for g in self._generators],
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Continue from :meth:`plain`.

        Raises:
            CheckpointError: if the data has another number of generators.
        """
        if len(data["generators"]) != len(self._generators):
            raise CheckpointError(
                f"checkpoint has {len(data['generators'])} noise generators, the problem {len(self._generators)}"
            )
        self._next = int(data["next"])
        self._rows = {int(node): row.to(self._like.device) for node, row in data["rows"].items()}
        for generator, state in zip(self._generators, data["generators"], strict=True):
            generator.set_state(state.cpu())  # wherever map_location put it: torch takes no other

    def _draw(self) -> None:
        node, self._next = self._next, self._next + 1
        total: torch.Tensor | None = None
        for k in range(int(self._scheme.draws[node])):
            draw = self._normal().to(compute_dtype(self._like.dtype)) * float(self._scheme.c[node, k])
            total = draw if total is None else total.add_(draw)
        if total is not None:
            self._rows[node] = total

    def _normal(self) -> torch.Tensor:
        like, generators = self._like, self._generators
        if self._single:
            shape, generator = like.shape, generators[0]
            return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
        parts = [torch.randn(like.shape[1:], generator=g, device=g.device, dtype=like.dtype) for g in generators]
        return torch.stack(parts).to(like.device)


def _copy(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator(device=generator.device)
    copy.set_state(generator.get_state())
    return copy
