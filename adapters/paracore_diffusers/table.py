"""A diffusers scheduler as a table: its step is linear in states, outputs and noise, so unit impulses show it all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore.schemes import Scheme, banded
from paracore_diffusers.errors import UnsupportedSchedulerError
from paracore_diffusers.levels import Context, find_levels
from paracore_diffusers.stepper import Rehearsal, Stepper
from paracore_diffusers.table_impulse import Dense, impulses, initial_size, own_draws, probe, rehearsed

__all__ = [
    "SchedulerTable",
    "first_rehearsal",
    "prepared",
    "scheduler_table",
    "scheme_from",
    "small_signal_table",
    "table_of",
]

Array = npt.NDArray[np.float64]
SMALL = 1e-7
"""Amplitude of the impulses of a small-signal table: far below clipping bounds, though divided by a tiny alpha."""


@attrs.frozen(eq=False)
class SchedulerTable:
    """A scheduler's step as a table.

    Attributes:
        scheme: the table, with levels and prediction where they are known.
        input_scale: ``(N,)`` float64, the network is given ``input_scale[n] * x_n`` (``scale_model_input``).
        timesteps: ``(N,)`` what each step is given.
        rehearsal: what the scheduler draws at each node, and the dtypes it returns.
        stepper: the real scheduler, for replays.
        kind: ``"exact"``; ``"small-signal"`` (exact near zero only) or ``"held"`` (an estimate), for guesses only.
    """

    scheme: Scheme
    input_scale: Array
    timesteps: torch.Tensor
    rehearsal: Rehearsal
    stepper: Stepper
    kind: Literal["exact", "small-signal", "held"] = "exact"

    @property
    def nodes(self) -> int:
        """N: how many ``step`` calls make a sample."""
        return self.scheme.steps


def scheduler_table(
    scheduler: Any,
    num_inference_steps: int | None = None,
    *,
    timesteps: torch.Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    amplitude: float = 1.0,
    ndim: int | None = None,
    **set_timesteps_arguments: Any,
) -> SchedulerTable:
    """The table of any diffusers scheduler whose step is linear. The scheduler itself is not touched.

    Args:
        scheduler: a diffusers scheduler.
        num_inference_steps: what ``set_timesteps`` is called with, on a copy. ``None``: it was called already.
        timesteps: ``(N,)`` the timesteps to iterate over, if not all of ``scheduler.timesteps``.
        options: keyword arguments that every ``step`` call gets (``eta``, say).
        amplitude: size of the impulses.
        ndim: dimensions of the states, batch included; ``None``: 4, else 5, else 3.
        set_timesteps_arguments: passed on to ``set_timesteps`` (``mu``, ``sigmas``, ...).

    Raises:
        NonlinearSchedulerError: if the step is not linear; the message names node, size and cause.
        NonFiniteSchedulerError: if the scheduler's own coefficients are not finite.
        UnsupportedSchedulerError: if it cannot be run from outside; the message says why.
    """
    ready = prepared(scheduler, num_inference_steps, **set_timesteps_arguments)
    times = ready.timesteps if timesteps is None else timesteps
    stepper, rehearsal, dims = first_rehearsal(ready, times, options, ndim)
    return table_of(stepper, rehearsal, ndim=dims, amplitude=amplitude)


def scheme_from(scheduler: Any, num_inference_steps: int | None = None, **arguments: Any) -> Scheme:
    """The scheme of :func:`scheduler_table`, which documents the arguments and errors.

    Examples:
        >>> scheme = scheme_from(DDIMScheduler(clip_sample=False), 50)  # doctest: +SKIP
        >>> paracore.solve(paracore.Problem(scheme, noise), model, "picard")  # doctest: +SKIP
    """
    return scheduler_table(scheduler, num_inference_steps, **arguments).scheme


def table_of(
    stepper: Stepper, rehearsal: Rehearsal | None = None, *, ndim: int = 4, amplitude: float = 1.0
) -> SchedulerTable:
    """The table of a scheduler that is wrapped already; errors as in :func:`scheduler_table`."""
    if not np.isfinite(amplitude) or amplitude <= 0:
        raise ValueError(f"amplitude is {amplitude}; a positive number is needed, 1 by default")
    rehearsal = rehearsal or rehearsed(stepper, (4,) * (ndim - 1))
    dense = impulses(stepper, rehearsal, amplitude, ndim)
    probe(stepper, dense, amplitude, ndim)
    scheme = _scheme(stepper, own_draws(dense, stepper.name))
    kind: Literal["exact", "small-signal"] = "exact" if amplitude >= 1 else "small-signal"
    return SchedulerTable(scheme, dense.input_scale, torch.stack(stepper.timesteps), rehearsal, stepper, kind)


def small_signal_table(stepper: Stepper, rehearsal: Rehearsal | None = None, *, ndim: int = 4) -> SchedulerTable:
    """A table for guesses, where a scheduler's step is replayed: its linear part near zero, or if need be an estimate.

    The estimate holds the output: ``a = 1`` and the ``b`` that fits random inputs best.

    Raises:
        UnsupportedSchedulerError: if the scheduler cannot even be run.
    """
    rehearsal = rehearsal or rehearsed(stepper, (4,) * (ndim - 1))
    try:
        return table_of(stepper, rehearsal, ndim=ndim, amplitude=SMALL)
    except UnsupportedSchedulerError:
        pass
    source, run = torch.Generator().manual_seed(2), stepper.fresh()
    shape, device = (2,) + (4,) * (ndim - 1), stepper.timesteps[0].device
    size = initial_size(stepper.scheduler)
    b, scale = np.zeros(stepper.nodes), np.ones(stepper.nodes)
    for node in range(stepper.nodes):
        x, f = (torch.randn(shape, generator=source).to(device) for _ in range(2))
        scaled = run.scale(node, x * size)
        if scaled.shape == x.shape:
            scale[node] = float((scaled * x).sum() / (x * x).sum() / size)
        moved = run.step(node, f, x * size, lambda k, shape, dtype, device: torch.zeros(shape, dtype=dtype)) - x * size
        secant = float((moved.to(f.dtype) * f).sum() / (f * f).sum())
        b[node] = secant if np.isfinite(secant) else 0.0
    draws = np.array([len(asks) for asks in rehearsal.asks])
    scheme = Scheme.create(
        np.ones(stepper.nodes),
        b,
        _times(stepper),
        c=np.zeros((stepper.nodes, int(draws.max(initial=0)))),
        draws=draws,
        name=f"{stepper.name} (held outputs)",
    )
    scale = np.where(np.isfinite(scale), scale, 1.0)
    return SchedulerTable(scheme, scale, torch.stack(stepper.timesteps), rehearsal, stepper, "held")


def prepared(scheduler: Any, num_inference_steps: int | None = None, **set_timesteps_arguments: Any) -> Any:
    """A copy of a scheduler with its timesteps set.

    Raises:
        UnsupportedSchedulerError: if ``set_timesteps`` fails, or was needed and not called.
    """
    name = type(scheduler).__name__
    ready = copy.deepcopy(scheduler)
    if num_inference_steps is not None:
        if not callable(getattr(ready, "set_timesteps", None)):
            raise UnsupportedSchedulerError(f"{name} has no set_timesteps; set its timesteps and pass no number")
        try:
            ready.set_timesteps(num_inference_steps, **set_timesteps_arguments)
        except Exception as error:
            given = ", ".join([str(num_inference_steps), *(f"{k}=..." for k in set_timesteps_arguments)])
            what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise UnsupportedSchedulerError(f"{name}.set_timesteps({given}) fails: {what}") from error
    elif set_timesteps_arguments:
        raise ValueError(f"{', '.join(set_timesteps_arguments)} given without num_inference_steps; pass it too")
    elif getattr(ready, "num_inference_steps", 0) is None:
        raise UnsupportedSchedulerError(f"{name} has no timesteps yet; pass num_inference_steps")
    if getattr(ready, "step_index", None) is not None:
        raise UnsupportedSchedulerError(f"{name} was stepped already; pass num_inference_steps, or a fresh scheduler")
    if getattr(ready, "timesteps", None) is None:
        raise UnsupportedSchedulerError(f"{name} has no timesteps after set_timesteps; it cannot be run from outside")
    return ready


def first_rehearsal(
    scheduler: Any, times: Any, options: Mapping[str, Any] | None = None, ndim: int | None = None
) -> tuple[Stepper, Rehearsal, int]:
    """A stepper that runs: with states of some number of dimensions, and one timestep or one per sample.

    Args:
        scheduler: ready for its first step.
        times: ``(N,)`` timesteps to iterate over.
        options: keyword arguments of every step.
        ndim: dimensions of the states; ``None``: 4, else 5, else 3.

    Returns:
        The stepper, its rehearsal and the number of dimensions.

    Raises:
        UnsupportedSchedulerError: of the attempt that came furthest.
    """
    failures: list[tuple[int, UnsupportedSchedulerError]] = []
    for batched in (False, True):
        stepper = Stepper(scheduler, times, options, batched_times=batched)
        for dims in (ndim,) if ndim is not None else (4, 5, 3):
            try:
                return stepper, rehearsed(stepper, (4,) * (dims - 1)), dims
            except UnsupportedSchedulerError as error:
                failures.append((stepper.reached, error))
    raise max(failures, key=lambda failure: failure[0])[1]


def _times(stepper: Stepper) -> Array:
    return np.array([float(t.flatten()[0]) for t in stepper.timesteps])


def _scheme(stepper: Stepper, dense: Dense) -> Scheme:
    a, b, c = banded(dense.a, dense.b, dense.c)
    n, width = len(a), int(dense.draws.max(initial=0))
    noise, end = np.zeros((n, width)), 0
    for node, count in enumerate(dense.draws.tolist()):
        noise[node, :count] = c[node, end : end + count]
        end += count
    scheme = Scheme.create(a, b, _times(stepper), c=noise, draws=dense.draws, name=stepper.name)
    levels, prediction = find_levels(scheme, Context.of(stepper))
    return attrs.evolve(scheme, levels=levels, prediction=prediction)
