"""Linear networks ``f(x, t_n) = A_n x + d_n``, with the continuous and the discrete solution in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch

from paracore import Denoiser, Model, Rows
from paracore.errors import ConfigurationError, SchemeError
from paracore.schemes import Scheme
from paracore_analytic.common import Constants, at_least, compute_dtype, double, generator_of, random_orthogonal

__all__ = ["LinearModel"]


@final
class LinearModel(Model):
    """The network's output, whatever the scheme calls it, is ``A_n x + d_n``.

    It needs no noise levels. On a velocity scheme, ``x`` moves by ``dx / dt = A x + d`` with ``t`` from 1 to 0, so
    eigenvalues of ``A`` with positive real part contract.

    Args:
        matrices: ``(d, d)``, or ``(N, d, d)``: one for each node of a scheme with N steps.
        offsets: ``(d,)`` or ``(N, d)``; zero if not given.
        shape: ``event`` with d numbers; ``(d,)`` if not given.

    Raises:
        ConfigurationError: for shapes that do not fit.
    """

    reference: ClassVar[str] = "linear system, in closed form; no data"

    def __init__(
        self, matrices: torch.Tensor, offsets: torch.Tensor | None = None, shape: tuple[int, ...] | None = None
    ) -> None:
        a = double(matrices, "matrices")
        if a.ndim not in (2, 3) or a.shape[-1] != a.shape[-2] or a.numel() == 0:
            raise ConfigurationError(f"matrices has shape {tuple(a.shape)}; (d, d) or (N, d, d) is needed")
        size = a.shape[-1]
        d = torch.zeros(size, dtype=torch.float64) if offsets is None else double(offsets, "offsets")
        if d.ndim not in (1, 2) or d.shape[-1] != size or (d.ndim == 2 and a.ndim == 3 and len(d) != len(a)):
            raise ConfigurationError(f"offsets has shape {tuple(d.shape)} for matrices of shape {tuple(a.shape)}")
        self.shape = (size,) if shape is None else shape
        if math.prod(self.shape) != size:
            raise ConfigurationError(f"shape {self.shape} has {math.prod(self.shape)} numbers, the matrices {size}")
        self.matrices, self.offsets = a, d

    @classmethod
    def random(cls, *, dimension: int = 8, stiffness: float = 10.0, steps: int = 0, seed: int = 0) -> LinearModel:
        """A stiff linear system that contracts on velocity schemes; on others it grows. Closed form; no data.

        The symmetric part has eigenvalues from 1 to ``stiffness``, the skew part random rotations of about one radian.

        Args:
            dimension: length of a sample.
            stiffness: largest eigenvalue of the symmetric part; the smallest is 1, spacing is logarithmic.
            steps: N for one matrix and offset per node; 0 for one pair for all nodes.
            seed: of all numbers.
        """
        at_least(1, dimension=dimension, stiffness=stiffness)
        at_least(0, steps=steps)
        generator, count = generator_of(seed), max(steps, 1)
        values = torch.logspace(0.0, 1.0, dimension, base=float(stiffness), dtype=torch.float64)
        matrices = []
        for _ in range(count):
            q = random_orthogonal(dimension, generator)
            skew = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64) / dimension**0.5
            matrices.append(q * values @ q.T + 0.5 * (skew - skew.T))
        offsets = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
        return cls(torch.stack(matrices), offsets) if steps else cls(matrices[0], offsets[0])

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The linear network; see :meth:`paracore.model.Model.denoiser`.

        Raises:
            ConfigurationError: if the matrices are for another number of steps.
        """
        self.check_request(labels, guidance)
        return _LinearDenoiser(*self._per_node(scheme), shared=self.matrices.ndim == 2)

    def continuous(self, scheme: Scheme, x0: torch.Tensor) -> torch.Tensor:
        """The exact solution of ``dx / dt = A x + d`` at every node of a flow scheme, by matrix exponentials.

        Args:
            x0: ``(B, *event)`` state at node 0.

        Returns:
            ``(N + 1, B, *event)`` float64.

        Raises:
            SchemeError: unless the scheme is a flow (``alpha + sigma = 1``) with velocity prediction.
            ConfigurationError: if the matrices differ from node to node.
        """
        if self.matrices.ndim == 3 or self.offsets.ndim == 2:
            raise ConfigurationError("the continuous solution needs one matrix and one offset for all nodes")
        levels = scheme.levels
        if levels is None or scheme.prediction != "velocity" or not np.allclose(levels.alpha + levels.sigma, 1.0):
            raise SchemeError(
                f"the continuous solution needs a flow scheme with velocity prediction; got {scheme.name!r}: "
                "use schemes.flow_euler"
            )
        size = len(self.offsets)
        system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        system[:size, :size], system[:size, size] = self.matrices, self.offsets
        span = torch.from_numpy(levels.sigma - levels.sigma[0])
        flow = torch.linalg.matrix_exp(span[:, None, None] * system)
        x = x0.to("cpu", torch.float64).flatten(1)
        states: torch.Tensor = x @ flow[:, :size, :size].mT + flow[:, :size, size][:, None, :]
        return states.reshape(-1, *x0.shape).to(x0.device)

    def discrete(
        self, scheme: Scheme, x0: torch.Tensor, noise: Sequence[torch.Tensor | None] | None = None
    ) -> torch.Tensor:
        """The scheme's own solution at every node, from one solve of the whole block triangular system.

        Args:
            x0: ``(B, *event)`` state at node 0.
            noise: for stochastic schemes: weighted noise ``(B, *event)`` of each node, as the noise tape gives it.

        Returns:
            ``(N + 1, B, *event)`` float64.

        Raises:
            SchemeError: for a stochastic scheme without noise.
        """
        if scheme.stochastic and noise is None:
            raise SchemeError(f"scheme {scheme.name!r} draws noise; pass the weighted noise of each node")
        a, d = (part.expand(scheme.steps, *part.shape[1:]) for part in self._per_node(scheme))
        size, steps = d.shape[-1], scheme.steps
        identity = torch.eye(size, dtype=torch.float64)
        system = torch.eye((steps + 1) * size, dtype=torch.float64)
        right = torch.zeros((steps + 1) * size, len(x0), dtype=torch.float64)
        right[:size] = x0.to("cpu", torch.float64).flatten(1).T
        for n in range(steps):
            row = slice((n + 1) * size, (n + 2) * size)
            for lag in range(scheme.a.shape[1]):
                if scheme.a[n, lag]:
                    column = slice((n - lag) * size, (n - lag + 1) * size)
                    system[row, column] -= float(scheme.a[n, lag]) * identity
            for lag in range(scheme.b.shape[1]):
                if scheme.b[n, lag]:
                    column = slice((n - lag) * size, (n - lag + 1) * size)
                    system[row, column] -= float(scheme.b[n, lag]) * a[n - lag]
                    right[row] += float(scheme.b[n, lag]) * d[n - lag][:, None]
            extra = noise[n] if noise is not None else None
            if extra is not None:
                right[row] += extra.to("cpu", torch.float64).flatten(1).T
        states: torch.Tensor = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        return states.T.reshape(len(x0), steps + 1, -1).swapaxes(0, 1).reshape(-1, *x0.shape).to(x0.device)

    def _per_node(self, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.matrices if self.matrices.ndim == 3 else self.matrices[None]
        d = self.offsets if self.offsets.ndim == 2 else self.offsets[None]
        for count in (len(a), len(d)):
            if count not in (1, scheme.steps):
                raise ConfigurationError(
                    f"the matrices are for {count} steps, scheme {scheme.name!r} has {scheme.steps}: make them equal"
                )
        return a, d


@final
class _LinearDenoiser:
    """``A_n x + d_n``; one product for all rows where the matrix is shared."""

    calls_per_evaluation = 1

    def __init__(self, matrices: torch.Tensor, offsets: torch.Tensor, shared: bool) -> None:
        self._shared = shared
        self._constants = Constants(a=matrices, d=offsets)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        state = x.to(compute_dtype(x.dtype))
        c = self._constants.like(state)
        node = rows.node.to(state.device)
        flat = state.flatten(1)
        offset = c["d"][node] if len(c["d"]) > 1 else c["d"]
        if self._shared or len(c["a"]) == 1:
            product = flat @ c["a"][0].T
        else:
            product = torch.bmm(c["a"][node], flat[:, :, None])[:, :, 0]
        return (product + offset).reshape(x.shape).to(x.dtype)
