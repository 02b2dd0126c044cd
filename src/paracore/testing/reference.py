"""Reference problems: by name, with answers that are known without running a sampler.

The network is affine in the state, so that a whole trajectory solves one linear system, or has a formula. Nothing here
uses :func:`paracore.sequential`, whose answers can therefore be held against these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import ProblemError, UnknownNameError, suggest
from paracore.problem import Problem
from paracore.request import Denoiser, Rows
from paracore.schemes import Scheme, flow_euler
from paracore.testing.problems import KINDS, Case, exponential_scheme

__all__ = ["REFERENCES", "AffineNetwork", "Reference", "dense_trajectory", "linear_reference", "reference", "some"]


@attrs.frozen(eq=False)
class AffineNetwork:
    """``f_n(x) = M_n x + o_n``, one row at a time, so that a row's bits do not depend on the request.

    Attributes:
        matrices: ``(N, d, d)`` float64, one for each node.
        offsets: ``(N, d)`` float64.
    """

    matrices: torch.Tensor
    offsets: torch.Tensor

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        node = rows.node.cpu()
        flat = (x.reshape(len(x), 1, -1) * self.matrices[node].to(x)).sum(dim=-1) + self.offsets[node].to(x)
        return flat.reshape(x.shape)


@attrs.frozen(eq=False)
class Reference:
    """A problem whose trajectory is known.

    Attributes:
        name: what it is.
        case: the problem with its network.
        trajectory: ``(N + 1, B, *event)`` float64: the states that the scheme's own steps lead through.
    """

    name: str
    case: Case
    trajectory: torch.Tensor = attrs.field(repr=False)

    @property
    def sample(self) -> torch.Tensor:
        """``(B, *event)`` float64: the last state."""
        return self.trajectory[-1]

    def error(self, sample: torch.Tensor) -> float:
        """How far a sample is off: the largest distance of a number, relative to the largest of the trajectory's."""
        return float((sample.to(self.trajectory) - self.sample).abs().max() / self.trajectory.abs().max())


def dense_trajectory(problem: Problem, matrices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The trajectory of an affine network, by one dense linear solve of the whole table.

    Row ``n`` says ``x_{n+1} - sum_i a[n,i] x_{n-i} - sum_j b[n,j] (M_{n-j} x_{n-j} + o_{n-j}) = noise_n``.

    Args:
        problem: its scheme may have several past states, stages, or noise.
        matrices: ``(N, d, d)`` float64, as in :class:`AffineNetwork`.
        offsets: ``(N, d)`` float64.

    Returns:
        ``(N + 1, B, *event)`` float64.

    Raises:
        ProblemError: for matrices or offsets of other shapes.
    """
    scheme, x0 = problem.scheme, problem.x0.to(torch.float64).flatten(1)
    steps, d = scheme.steps, x0.shape[1]
    if matrices.shape != (steps, d, d) or offsets.shape != (steps, d):
        raise ProblemError(
            f"matrices {tuple(matrices.shape)} and offsets {tuple(offsets.shape)}; ({steps}, {d}, {d}) and "
            f"({steps}, {d}) are needed"
        )
    unit, tape = torch.eye(d, dtype=torch.float64), problem.tape()
    table = torch.zeros(steps + 1, d, steps + 1, d, dtype=torch.float64)
    right = torch.zeros(steps + 1, d, len(x0), dtype=torch.float64)
    table[0, :, 0], right[0] = unit, x0.T
    for n in range(steps):
        table[n + 1, :, n + 1] += unit
        for lag in range(scheme.a.shape[1]):
            if scheme.a[n, lag]:
                table[n + 1, :, n - lag] -= float(scheme.a[n, lag]) * unit
        for lag in range(scheme.b.shape[1]):
            if scheme.b[n, lag]:
                table[n + 1, :, n - lag] -= float(scheme.b[n, lag]) * matrices[n - lag]
                right[n + 1] += float(scheme.b[n, lag]) * offsets[n - lag][:, None]
        noise = tape.row(n)
        if noise is not None:
            right[n + 1] += noise.to(torch.float64).flatten(1).T
    size = (steps + 1) * d
    found: torch.Tensor = torch.linalg.solve(table.reshape(size, size), right.reshape(size, -1))
    return found.reshape(steps + 1, d, -1).movedim(2, 1).reshape(steps + 1, *problem.x0.shape)


def linear_reference(
    kind: str, *, steps: int = 8, batch: int = 2, dim: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Reference:
    """A random affine network under a scheme of a kind, deterministic or stochastic, one-step or with a memory.

    Args:
        kind: of scheme, such as ``flow``; :data:`REFERENCES` has all, as ``linear-KIND``.
        steps: about how many; schemes with stages round.
        batch: samples.
        dim: length of a sample.
        seed: of the scheme, the network, the initial states and the noise.
        dtype: of the states.

    Raises:
        UnknownNameError: for another kind.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"unknown kind of scheme {kind!r}; {suggest(kind, KINDS)}")
    rng = np.random.default_rng([seed, list(KINDS).index(kind), steps])
    scheme = KINDS[kind](rng, steps)
    levels, count = scheme.levels, scheme.steps
    spread = 1.0 if levels is None else float(np.hypot(levels.alpha[0], levels.sigma[0]))
    # outputs are of the size of what the scheme takes for data or noise, whatever the size of the states
    size = np.ones(count) if levels is None else 1.0 / np.maximum(np.hypot(levels.alpha, levels.sigma)[:count], 1.0)
    matrices = torch.from_numpy(rng.normal(size=(count, dim, dim)) * size[:, None, None] / np.sqrt(dim))
    offsets = torch.from_numpy(rng.normal(size=(count, dim)))
    x0 = torch.from_numpy(rng.normal(size=(batch, dim)) * spread).to(dtype)
    seeds = [int(s) for s in rng.integers(0, 2**31, batch)]
    case = _case(scheme, x0, AffineNetwork(matrices, offsets), f"linear-{kind}", seeds)
    return Reference(f"linear-{kind}", case, dense_trajectory(case.problem, matrices, offsets))


def _case(scheme: Scheme, x0: torch.Tensor, network: Denoiser, label: str, seeds: Sequence[int] = ()) -> Case:
    generators = [torch.Generator().manual_seed(s) for s in seeds] if scheme.stochastic else None
    problem = Problem(scheme, x0, generators)
    whole = Case(problem, network, f"{label} N={scheme.steps} B={len(x0)} {x0.dtype}", lambda b: some(whole, [b]))
    return whole


@attrs.frozen(eq=False)
class _Renumbered:
    """A network that knows its samples by other numbers."""

    inner: Any
    numbers: torch.Tensor

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        answer: torch.Tensor = self.inner(x, t, Rows(rows.node, self.numbers.to(rows.sample.device)[rows.sample]))
        return answer


def some(case: Case, samples: Sequence[int]) -> Case:
    """The same case with some of its samples, in any order: a batch whose answers are known from another.

    Raises:
        ProblemError: for samples that it does not have, none at all, or noise that all samples share.
    """
    problem, chosen = case.problem, list(samples)
    if not chosen or not all(0 <= b < problem.batch for b in chosen):
        raise ProblemError(
            f"samples {chosen} of a batch of {problem.batch}; some of 0 to {problem.batch - 1} are needed"
        )
    generators = problem.generator
    if isinstance(generators, torch.Generator):
        raise ProblemError("one generator draws for the whole batch; a sample's noise depends on its mates")
    picked = None if generators is None else [generators[b] for b in chosen]
    return attrs.evolve(
        case,
        problem=attrs.evolve(problem, x0=problem.x0[chosen].clone(), generator=picked),
        network=_Renumbered(case.network, torch.tensor(chosen)),
        label=f"{case.label}, samples {chosen}",
        alone=lambda b: some(case, [chosen[b]]),
    )


# -- by name ----------------------------------------------------------------------------------------------------------


def _start(batch: int, dim: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, batch, dim]).normal(size=(batch, dim))).to(dtype)


def _constant(steps: int, matrix: Any, offset: Any) -> AffineNetwork:
    matrices, offsets = (torch.tensor(v, dtype=torch.float64) for v in (matrix, offset))
    return AffineNetwork(matrices.repeat(steps, 1, 1), offsets.repeat(steps, 1))


def _decay(steps: int, batch: int, seed: int, dtype: torch.dtype) -> Reference:
    """``dx/dt = -x`` from 0 to 1: ``x_n = (1 - h)^n x_0``."""
    x0 = _start(batch, 3, seed, dtype)
    network = _constant(steps, (-np.eye(3)).tolist(), [0.0] * 3)
    case = _case(exponential_scheme(steps), x0, network, "decay")
    powers = (1.0 - 1.0 / steps) ** torch.arange(steps + 1, dtype=torch.float64)
    return Reference("decay", case, powers[:, None, None] * x0.to(torch.float64))


def _rotation(steps: int, batch: int, seed: int, dtype: torch.dtype) -> Reference:
    """``dz/dt = i z`` in the plane from 0 to 1: ``z_n = (1 + i h)^n z_0``, which Euler's steps lead outwards."""
    x0 = _start(batch, 2, seed, dtype)
    case = _case(exponential_scheme(steps), x0, _constant(steps, [[0.0, -1.0], [1.0, 0.0]], [0.0] * 2), "rotation")
    powers = np.power(1.0 + 1.0j / steps, np.arange(steps + 1))
    turned = torch.from_numpy(powers)[:, None] * torch.view_as_complex(x0.to(torch.float64).contiguous())
    return Reference("rotation", case, torch.view_as_real(turned))


def _drift(steps: int, batch: int, seed: int, dtype: torch.dtype) -> Reference:
    """``dx/dt = c`` in unequal steps: ``x_n = x_0 + t_n c``, whatever the outputs were evaluated at."""
    x0, c = _start(batch, 3, seed, dtype), [0.5, -1.0, 2.0]
    scheme = exponential_scheme(steps, power=1.5)
    case = _case(scheme, x0, _constant(steps, np.zeros((3, 3)).tolist(), c), "drift")
    times = torch.from_numpy(np.linspace(0.0, 1.0, steps + 1) ** 1.5)
    return Reference("drift", case, x0.to(torch.float64) + times[:, None, None] * torch.tensor(c, dtype=torch.float64))


def _gaussian(steps: int, batch: int, seed: int, dtype: torch.dtype) -> Reference:
    """The exact denoiser of data from ``N(m, s^2)``, flow matching: each step multiplies the distance from ``a m``.

    With ``x = a m + y``, ``v_n = a' m + g_n y`` for ``a' = (a_{n+1} - a_n) / dt`` exactly, since flow matching's levels
    are linear in time: the mean is met without a step error, and ``y_{n+1} = (1 + b_n g_n) y_n``.
    """
    mean, spread, scheme = 1.5, 0.5, flow_euler(steps)
    assert scheme.levels is not None
    alpha, sigma = scheme.levels.alpha, scheme.levels.sigma
    x0 = _start(batch, 3, seed, dtype)
    variance = (alpha * spread) ** 2 + sigma**2
    gain = (sigma - alpha * spread**2)[:-1] / variance[:-1]  # of v = noise - data, the network's output
    matrices = torch.from_numpy(gain)[:, None, None] * torch.eye(3, dtype=torch.float64)
    offsets = torch.from_numpy(-mean - gain * alpha[:-1] * mean)[:, None].expand(-1, 3).contiguous()
    case = _case(scheme, x0, AffineNetwork(matrices, offsets), "gaussian")
    growth = np.concatenate([[1.0], np.cumprod(1.0 + scheme.b[:, 0] * gain)])
    center = mean * torch.from_numpy(alpha)[:, None, None]
    return Reference("gaussian", case, center + torch.from_numpy(growth)[:, None, None] * (x0.double() - center[0]))


def _linear(kind: str) -> Callable[[int, int, int, torch.dtype], Reference]:
    return lambda steps, batch, seed, dtype: linear_reference(kind, steps=steps, batch=batch, seed=seed, dtype=dtype)


REFERENCES: dict[str, Callable[[int, int, int, torch.dtype], Reference]] = {
    "decay": _decay,
    "rotation": _rotation,
    "drift": _drift,
    "gaussian": _gaussian,
    **{f"linear-{kind}": _linear(kind) for kind in KINDS},
}
"""Reference problems by name: ``builder(steps, batch, seed, dtype)``. See :func:`reference`."""


def reference(
    name: str, *, steps: int = 12, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Reference:
    """A problem with a known answer.

    ``decay``, ``rotation`` and ``drift`` are Euler's steps of plain differential equations; ``gaussian`` samples
    Gaussian data by flow matching with the exact network; ``linear-KIND`` is a random affine network under each kind of
    scheme, stochastic ones included.

    Args:
        name: one of :data:`REFERENCES`.
        steps: of the scheme.
        batch: samples.
        seed: of all that is drawn.
        dtype: of the states.

    Raises:
        UnknownNameError: with near matches.
    """
    if name not in REFERENCES:
        raise UnknownNameError(f"unknown reference problem {name!r}; {suggest(name, REFERENCES)}")
    return REFERENCES[name](steps, batch, seed, dtype)
