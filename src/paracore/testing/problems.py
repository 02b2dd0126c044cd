"""Small random problems with networks whose rows do not depend on each other, for tests of samplers and strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore.evaluators import Batched
from paracore.problem import Problem
from paracore.request import Denoiser, Outputs, Request, Rows
from paracore.schemes import Scheme, ddim, ddpm, dpm_solver_pp_2m, edm_heun, flow_euler, flow_heun
from paracore.sequential import sequential

__all__ = [
    "KINDS",
    "Case",
    "Counting",
    "LinearNetwork",
    "RationalNetwork",
    "SmoothNetwork",
    "exponential_scheme",
    "make_case",
    "mixed_request",
    "random_case",
    "random_table",
]

Array = npt.NDArray[np.float64]


@attrs.frozen(eq=False)
class LinearNetwork:
    """``f(x) = M x``, one row at a time, so that a row's bits do not depend on the request."""

    matrix: torch.Tensor

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        matrix = self.matrix.to(x)
        return (x.reshape(len(x), 1, -1) * matrix).sum(dim=-1).reshape(x.shape)


@attrs.frozen(eq=False)
class SmoothNetwork:
    """``gain * tanh(M x / scale + cos(t)) + condition[sample]``: smooth, bounded, nonlinear.

    Attributes:
        matrix: ``(d, d)``.
        gain: size of the outputs.
        scale: size of the states at which the network saturates.
        condition: ``(B, d)`` one offset per sample of the problem.
    """

    matrix: torch.Tensor
    gain: float = 1.0
    scale: float = 1.0
    condition: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        flat = x.reshape(len(x), 1, -1) / self.scale
        inner = (flat * self.matrix.to(x)).sum(dim=-1) + torch.cos(t.to(x))[:, None]
        out = self.gain * torch.tanh(inner)
        if self.condition is not None:
            out = out + self.condition.to(x)[rows.sample]
        return out.reshape(x.shape)


@attrs.frozen(eq=False)
class RationalNetwork:
    """``y / (1 + |y|) + condition[sample]`` with ``y = M x / scale + 1 - t / 2``: smooth once, bounded, nonlinear.

    Sums are written out and nothing but arithmetic is used, so that a row's bits do not depend on the request on any
    machine: requests may be evaluated in one call.

    Attributes:
        matrix: ``(d, d)``.
        scale: size of the states at which the network saturates.
        condition: ``(B, d)`` one offset per sample of the problem.
    """

    matrix: torch.Tensor
    scale: float
    condition: torch.Tensor

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        flat, matrix = x.flatten(1) / self.scale, self.matrix.to(x)
        y = (1.0 - 0.5 * t.to(x))[:, None].expand_as(flat)
        for column in range(len(matrix)):
            y = y + flat[:, column : column + 1] * matrix[:, column]
        return (y / (1.0 + y.abs()) + self.condition.to(x)[rows.sample]).reshape(x.shape)


@attrs.frozen(eq=False)
class Case:
    """A problem with its network.

    Attributes:
        problem: the problem.
        network: its denoiser.
        label: in words, for reports.
        alone: the same case with one sample, by the sample's number.
    """

    problem: Problem
    network: Denoiser
    label: str
    alone: Callable[[int], Case] = attrs.field(repr=False)

    def evaluator(self, max_batch: int | None = 1, jvp: bool = False) -> Batched:
        """An evaluator; one row at a time unless told otherwise, so that bits do not depend on the request."""
        return Batched(self.network, max_batch=max_batch, jvp=jvp)

    def reference(self, *, trajectory: bool = False) -> torch.Tensor:
        """The sequential answer."""
        return sequential(self.problem, self.evaluator(), trajectory=trajectory)


class Counting:
    """An evaluator that records what it was asked.

    Attributes:
        requests: ``(nodes, samples)`` of each request.
        states: the states of each request, if ``keep``.
        calls: raw network rows.
    """

    def __init__(self, inner: Batched, *, keep: bool = False) -> None:
        self.inner = inner
        self.keep = keep
        self.capabilities = inner.capabilities
        self.requests: list[tuple[list[int], list[int]]] = []
        self.states: list[torch.Tensor] = []
        self.tangents: list[bool] = []
        self.calls = 0

    def evaluate(self, request: Request) -> Outputs:
        """Record, and pass on."""
        self.requests.append((request.nodes.tolist(), request.samples.tolist()))
        self.tangents.append(request.tangents is not None)
        if self.keep:
            self.states.append(request.states.clone())
        outputs = self.inner.evaluate(request)
        self.calls += outputs.calls
        return outputs


def exponential_scheme(steps: int, *, end: float = 1.0, power: float = 1.0) -> Scheme:
    """Euler steps of ``dx/dt = f`` from 0 to ``end``; ``power`` other than 1 makes them unequal."""
    time = end * np.linspace(0.0, 1.0, steps + 1) ** power
    return Scheme.create(np.ones(steps), np.diff(time), time[:-1], name="exponential")


def random_table(rng: np.random.Generator, steps: int, memory: int, *, stochastic: bool = False) -> Scheme:
    """A stable random table that reads ``memory`` past states and outputs, with unknown levels."""
    shape = (steps, memory + 1)
    a, b = rng.uniform(-0.2, 0.2, shape), rng.uniform(-0.4, 0.4, shape) / np.sqrt(steps)
    for lag in range(1, memory + 1):
        a[:lag, lag] = b[:lag, lag] = 0.0
    a[:, 0] = rng.uniform(0.8, 1.0, steps) - a[:, 1:].sum(axis=1)
    c, draws = None, None
    if stochastic:
        c = rng.uniform(0.05, 0.2, (steps, 2))
        draws = rng.integers(0, 3, steps)
        draws[0] = 1
        c[np.arange(2) >= draws[:, None]] = 0.0
    return Scheme.create(a, b, np.linspace(1, 0, steps, endpoint=False), c=c, draws=draws, name=f"table-{memory}")


def _ddim_noisy(rng: np.random.Generator, steps: int) -> Scheme:
    return ddim(steps, eta=float(rng.uniform(0.3, 1.0)))


def _flow(rng: np.random.Generator, steps: int) -> Scheme:
    return flow_euler(steps, shift=float(rng.uniform(0.5, 4.0)))


KINDS: dict[str, Callable[[np.random.Generator, int], Scheme]] = {
    "flow": _flow,
    "ddim": lambda rng, steps: ddim(steps),
    "heun": lambda rng, steps: flow_heun(steps // 2 + 1),
    "edm-heun": lambda rng, steps: edm_heun(steps // 2 + 1),
    "multistep": lambda rng, steps: dpm_solver_pp_2m(steps),
    "multistep-flow": lambda rng, steps: dpm_solver_pp_2m(steps, family="flow"),
    "ddim-noise": _ddim_noisy,
    "ddpm": lambda rng, steps: ddpm(steps),
    "table": lambda rng, steps: random_table(rng, steps, 0),
    "table-memory": lambda rng, steps: random_table(rng, steps, 2),
    "table-noise": lambda rng, steps: random_table(rng, steps, 1, stochastic=True),
}
"""Builders of random schemes by kind: one-step, stage, multistep, and stochastic tables, with levels and without."""


def mixed_request(
    rows: int, seed: int = 0, *, nodes: int = 10, tangents: bool = False, dtype: torch.dtype = torch.float32
) -> Request:
    """A request of rows ``(rows, 4, 3)`` for four samples, at random nodes below ``nodes`` of ten, mixed."""
    generator = torch.Generator().manual_seed(seed)
    scheme = flow_euler(10)
    node = torch.randint(0, nodes, (rows,), generator=generator)
    sample = torch.randint(0, 4, (rows,), generator=generator)
    states, directions = (torch.randn(rows, 4, 3, generator=generator).to(dtype) for _ in range(2))
    return Request(node, sample, states, torch.from_numpy(scheme.time[node.numpy()]), directions if tangents else None)


def make_case(
    scheme: Scheme,
    *,
    seed: int = 0,
    batch: int = 2,
    dim: int = 3,
    stiffness: float = 1.0,
    linear: bool = False,
    dtype: torch.dtype = torch.float64,
    lockstep: bool = False,
    event: Sequence[int] | None = None,
    arithmetic: bool = False,
) -> Case:
    """A random network and initial states for a scheme; stochastic schemes get one generator per sample.

    ``arithmetic``: a network that may be called for many rows at once without a change of bits.
    """
    rng = np.random.default_rng([seed, dim])
    if event is not None:
        dim = int(np.prod(event))
    start = 1.0 if scheme.levels is None else max(float(scheme.levels.sigma[0]), 1e-3)
    spread = start if scheme.levels is None else float(np.hypot(scheme.levels.alpha[0], scheme.levels.sigma[0]))
    matrix = torch.from_numpy(rng.normal(size=(dim, dim)) * stiffness / np.sqrt(dim))
    x0 = torch.from_numpy(rng.normal(size=(batch, dim)) * spread).to(dtype).reshape(batch, *(event or (dim,)))
    condition = torch.from_numpy(rng.normal(size=(batch, dim)) * 0.3)
    scale = max(1.0, start / 4.0)
    seeds = [int(s) for s in rng.integers(0, 2**31, batch)]

    def build(samples: list[int]) -> Case:
        generators = [torch.Generator().manual_seed(seeds[b]) for b in samples]
        problem = Problem(scheme, x0[samples].clone(), generators if scheme.stochastic else None, lockstep=lockstep)
        network: Denoiser
        if linear:
            network = LinearNetwork(matrix - stiffness * torch.eye(dim, dtype=torch.float64))
        elif arithmetic:
            network = RationalNetwork(matrix, scale, condition[samples])
        else:
            network = SmoothNetwork(matrix, 1.0, scale, condition[samples])
        label = f"{scheme.name} N={scheme.steps} B={len(samples)} d={dim} stiffness={stiffness:.2g} {dtype}"
        return Case(problem, network, label, lambda b: build([samples[b]]))

    return build(list(range(batch)))


def random_case(
    seed: int,
    *,
    kind: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    dtype: torch.dtype = torch.float64,
    lockstep: bool = False,
) -> Case:
    """A random small problem: everything not given is drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    chosen = kind or str(rng.choice(list(KINDS)))
    count = steps or int(rng.integers(1, 13))
    scheme = KINDS[chosen](rng, count)
    return make_case(
        scheme,
        seed=seed,
        batch=batch or int(rng.integers(1, 4)),
        dim=int(rng.integers(1, 5)),
        stiffness=float(10 ** rng.uniform(-1, 1)),
        linear=bool(rng.random() < 0.2) and chosen in ("flow", "table", "heun"),
        dtype=dtype,
        lockstep=lockstep,
    )
