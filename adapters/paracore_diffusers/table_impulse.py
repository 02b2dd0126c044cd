"""Unit impulses through a scheduler: its step as a dense table, and the probe that tells whether that is all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore_diffusers.errors import NonFiniteSchedulerError, NonlinearSchedulerError, UnsupportedSchedulerError
from paracore_diffusers.stepper import Dtypes, Rehearsal, Stepper
from paracore_diffusers.stepper_noise import Answer

__all__ = ["Dense", "impulses", "own_draws", "probe"]

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-5
"""Largest misfit between table and step, relative to the size of the summed terms. Schedulers compute their scalars,
and some their states, in float32."""


@attrs.frozen(eq=False)
class Dense:
    """``x_{n+1} = sum_j a[n,j] x_j + sum_j b[n,j] f_j + sum_k c[n,k] z_k`` over all earlier nodes and draws.

    Attributes:
        a: ``(N, N)`` weights of the states.
        b: ``(N, N)`` weights of the outputs.
        c: ``(N, K)`` weights of all draws, in the order in which they are made.
        input_scale: ``(N,)`` the network is given ``input_scale * x``.
        draws: ``(N,)`` int64, draws made at each node.
    """

    a: Array
    b: Array
    c: Array
    input_scale: Array
    draws: npt.NDArray[np.int64]


def working_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def impulses(stepper: Stepper, rehearsal: Rehearsal, amplitude: float, ndim: int) -> Dense:
    """One run with a lane for every state, output and draw; lane ``i`` sees an impulse at its own place only.

    The sample given to each step is ours to choose, so a returned column is directly the weight on that state, output
    or draw, the scheduler's memory included.

    Raises:
        NonFiniteSchedulerError: naming the first node whose weights are not finite.
    """
    n = stepper.nodes
    draws = np.array([len(asks) for asks in rehearsal.asks], dtype=np.int64)
    offsets = 2 * n + np.concatenate([[0], np.cumsum(draws)]).astype(np.int64)
    lanes, device = int(offsets[-1]), stepper.timesteps[0].device
    shape, dtype = (lanes,) + (1,) * (ndim - 1), working_dtype(device)
    rows, scales = [], []
    run = stepper.fresh()

    def unit(lane: int) -> torch.Tensor:
        out = torch.zeros(lanes, dtype=dtype, device=device)
        if lane < lanes:
            out[lane] = amplitude
        return out.reshape(shape)

    for node in range(n):
        sample = unit(node)
        first = int(offsets[node])
        scales.append(run.scale(node, sample).reshape(lanes)[node])
        rows.append(run.step(node, unit(n + node), sample, _units(unit, first)).reshape(lanes).to(dtype))
        if len(run.asks) != draws[node]:
            raise UnsupportedSchedulerError(
                f"{stepper.name} makes {len(run.asks)} noise draws at node {node} for one input and {draws[node]} for "
                "another; it has no table"
            )
    table = (torch.stack(rows) / amplitude).cpu().double().numpy()
    scale = (torch.stack(scales) / amplitude).cpu().double().numpy()
    bad = ~np.isfinite(table).all(axis=1) | ~np.isfinite(scale)
    if bad.any():
        node = int(np.argmax(bad))
        raise NonFiniteSchedulerError(
            f"{stepper.name}: the step at node {node} of {n} (timestep {float(stepper.timesteps[node]):g}) has "
            "coefficients that are not finite, so its own samples are not finite either; change its configuration "
            "(final_sigmas_type, solver_type, timestep_spacing), or choose another scheduler"
        )
    return Dense(table[:, :n], table[:, n : 2 * n], table[:, 2 * n :], scale, draws)


def probe(stepper: Stepper, dense: Dense, amplitude: float, ndim: int) -> None:
    """Hold the table against the real steps on random numbers of realistic sizes, and on zeros.

    Raises:
        NonlinearSchedulerError: naming the node with the largest misfit, and the likely cause.
        UnsupportedSchedulerError: if the scheduler adds constants.
    """
    n, device = stepper.nodes, stepper.timesteps[0].device
    dtype, source = working_dtype(device), torch.Generator().manual_seed(1)
    start = initial_size(stepper.scheduler)
    states, outputs = (amplitude * torch.tensor(s) for s in ([0.0, 1.0, 1.0, 10.0], [0.0, 1.0, 3.0, 30.0]))
    shape = (4,) + (2,) * (ndim - 1)
    view = (-1,) + (1,) * (ndim - 1)

    def draw(count: int, size: torch.Tensor) -> torch.Tensor:
        return (torch.randn((count, *shape), generator=source, dtype=torch.float64) * size.reshape(view)).to(device)

    x, f = draw(n, states * start).to(dtype), draw(n, outputs).to(dtype)
    z = draw(int(dense.draws.sum()), states / states[1:].min() * amplitude).to(dtype)
    first, run, misfits = 0, stepper.fresh(), []
    for node in range(n):
        answer = _lookup(z, first)
        real = run.step(node, f[node], x[node], answer, watch=True).to(dtype)
        if len(run.asks) != dense.draws[node]:
            raise UnsupportedSchedulerError(
                f"{stepper.name} makes {len(run.asks)} noise draws at node {node} for one input and "
                f"{dense.draws[node]} for another; it has no table"
            )
        first += int(dense.draws[node])
        weights = [torch.from_numpy(t[node]).to(device, dtype) for t in (dense.a, dense.b, dense.c)]
        fit = sum(torch.tensordot(w, v, dims=1) for w, v in zip(weights, (x, f, z), strict=True))
        size = sum(torch.tensordot(w.abs(), v.abs(), dims=1) for w, v in zip(weights, (x, f, z), strict=True))
        assert isinstance(fit, torch.Tensor)
        assert isinstance(size, torch.Tensor)
        if bool((real[0].abs() > TOLERANCE * amplitude).any()):
            raise UnsupportedSchedulerError(
                f"{stepper.name}.step adds a constant at node {node} ({float(real[0].abs().max()):.3g} for zero state, "
                "output and noise); it has no table"
            )
        error = (real - fit)[1:].flatten(1).abs().amax(dim=1)
        misfits.append(error / size[1:].flatten(1).amax(dim=1).clamp_min(1e-300))
    misfit = torch.nan_to_num(torch.stack(misfits).amax(dim=1), nan=torch.inf).cpu().numpy()
    if misfit.max() > TOLERANCE:
        node = int(np.argmax(misfit))
        raise NonlinearSchedulerError(
            f"{stepper.name}.step is not linear at node {node} of {n}: relative error {misfit[node]:.2g}, allowed "
            f"{TOLERANCE:g}; {cause(stepper.config)}"
        )


def _units(unit: Callable[[int], torch.Tensor], first: int) -> Answer:
    return lambda k, _shape, _dtype, _device: unit(first + k)


def _lookup(noise: torch.Tensor, first: int) -> Answer:
    return lambda k, _shape, _dtype, _device: noise[first + k] if first + k < len(noise) else noise.new_zeros(())


def cause(config: Mapping[str, Any]) -> str:
    """What in a configuration makes a step nonlinear, and what to do."""
    found = [key for key, value in config.items() if value is True and ("clip" in key or "threshold" in key)]
    if not found:
        return "no option of its configuration explains it: it is replayed step by step"
    off = ", ".join(f"{key}=False" for key in found)
    return f"cause: {', '.join(f'{key}=True' for key in found)}; pass {off}, or it is replayed step by step"


def initial_size(scheduler: Any) -> float:
    """The standard deviation of the first state, as far as the scheduler tells."""
    value = getattr(scheduler, "init_noise_sigma", None)
    try:
        size = float(value) if value is not None else 1.0
    except (TypeError, ValueError):
        return 1.0
    return size if np.isfinite(size) and size > 0 else 1.0


def own_draws(dense: Dense, name: str) -> Dense:
    """The same trajectory with no weight on draws of earlier nodes.

    A scheduler that remembers a draw (a corrector that needs the predictor's noise) has it in an earlier state too:
    there it is taken from.

    Raises:
        UnsupportedSchedulerError: if an earlier draw cannot be had from the states.
    """
    a, b, c = dense.a.copy(), dense.b.copy(), dense.c.copy()
    ends = np.cumsum(dense.draws)
    for node in range(len(a)):
        for earlier in range(node - 1, -1, -1):
            own = slice(int(ends[earlier] - dense.draws[earlier]), int(ends[earlier]))
            wanted, there = c[node, own], c[earlier, own]
            if not wanted.any():
                continue
            factor = float(wanted @ there) / max(float(there @ there), 1e-300)
            if np.abs(wanted - factor * there).max() > 1e-10 * np.abs(wanted).max():
                raise UnsupportedSchedulerError(
                    f"{name} uses noise drawn at node {earlier} again at node {node} in a way that its states do not "
                    "show; it has no table"
                )
            a[node] -= factor * a[earlier]
            b[node] -= factor * b[earlier]
            c[node] -= factor * c[earlier]
            a[node, earlier + 1] += factor
            c[node, own] = 0.0
    return attrs.evolve(dense, a=a, b=b, c=c)


def rehearsed(stepper: Stepper, event: tuple[int, ...]) -> Rehearsal:
    """A rehearsal in the dtype that tables are made in, on the scheduler's device."""
    device = stepper.timesteps[0].device
    dtype = working_dtype(device)
    return stepper.rehearse(Dtypes(dtype, dtype, dtype, dtype), device, event, initial_size(stepper.scheduler))
