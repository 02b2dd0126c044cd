"""A scheduler's own run beside its table and its replay."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch

from paracore_diffusers.replay import ReplayScheme
from paracore_diffusers.replay_noise import RawNoise
from paracore_diffusers.stepper import Dtypes, Stepper
from paracore_diffusers.table import SchedulerTable, small_signal_table
from paracore_diffusers.table_impulse import initial_size

__all__ = ["Model", "finite", "real_run", "replay_equal", "smooth_model", "start", "table_error"]

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def finite(scheduler: Any, stepper: Stepper, ndim: int) -> bool:
    """Whether the scheduler's own run gives finite numbers."""
    model, x = smooth_model(ndim, torch.float32), start(stepper, ndim, torch.float32)
    states = real_run(scheduler, stepper, model, x, torch.Generator().manual_seed(7))
    return all(bool(torch.isfinite(state).all()) for state in states)


def smooth_model(ndim: int, dtype: torch.dtype) -> Model:
    """A smooth random denoiser for states ``(2, 4, ...)``: mixes the numbers of a sample, and knows the time."""
    size = 4 ** (ndim - 1)
    source = torch.Generator().manual_seed(11)
    mix, lean = (torch.randn(size, size, generator=source, dtype=torch.float64) for _ in range(2))
    mix, lean = (mix / size**0.5).to(dtype), (lean[0] / 4).to(dtype)

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        when = t.flatten()[0].to(dtype) / (1 + t.flatten()[0].abs().to(dtype))
        return torch.tanh(0.7 * x.flatten(1) @ mix + lean * when).reshape(x.shape)

    return model


def real_run(
    scheduler: Any, stepper: Stepper, model: Model, x: torch.Tensor, generator: torch.Generator
) -> list[torch.Tensor]:
    """The scheduler in an ordinary sampling loop, nothing patched: all N + 1 states."""
    scheduler = copy.deepcopy(scheduler)
    takes = inspect.signature(scheduler.step).parameters
    states, beside, dtype = [x], None, x.dtype
    for node, t in enumerate(stepper.timesteps):
        time = t.expand(len(x)) if stepper.batched_times else t
        extra: dict[str, Any] = {"generator": generator} if "generator" in takes else {}
        if "old_pred_original_sample" in takes:
            extra |= {
                "old_pred_original_sample": beside,
                "timestep_back": stepper.timesteps[node - 1] if node else None,
            }
        scale = getattr(scheduler, "scale_model_input", None)
        output = model(scale(states[-1], time) if callable(scale) else states[-1], t)
        out = scheduler.step(model_output=output, timestep=time, sample=states[-1], return_dict=False, **extra)
        states.append(out[0].to(dtype))
        beside = out[1] if len(out) > 1 else None
    return states


def table_error(scheduler: Any, table: SchedulerTable, ndim: int) -> float:
    """Free-running: the table's trajectory against the scheduler's own, in float64, with the same noise."""
    dtype, stepper, scheme = torch.float64, table.stepper, table.scheme
    model, x = smooth_model(ndim, dtype), start(stepper, ndim, dtype)
    real = real_run(scheduler, stepper, model, x, torch.Generator().manual_seed(7))
    dtypes = Dtypes(dtype, dtype, dtype, dtype)
    noise = RawNoise.create(stepper, torch.Generator().manual_seed(7), x.shape, dtypes, "cpu")
    states = [x]
    outputs: list[torch.Tensor] = []
    for node, t in enumerate(stepper.timesteps):
        outputs.insert(0, model(states[0] * float(table.input_scale[node]), t))
        weighted = torch.zeros_like(x)
        for k, z in enumerate(noise.row(node)):
            weighted += float(scheme.c[node, k]) * z.to(dtype)
        states.insert(0, scheme.step(node, states, outputs, weighted if scheme.stochastic else None))
    size = max(float(s.abs().max()) for s in real)
    worst = max(float((a - b).abs().max()) for a, b in zip(real, reversed(states), strict=True))
    return worst / size


def replay_equal(scheduler: Any, stepper: Stepper, table: SchedulerTable | None, ndim: int) -> bool:
    """Whether a replay has the bits of the scheduler's own run, in float32; junk branches beside it do not matter."""
    dtype = torch.float32
    table = table or small_signal_table(stepper, ndim=ndim)
    model, x = smooth_model(ndim, dtype), start(stepper, ndim, dtype)
    real = real_run(scheduler, stepper, model, x, torch.Generator().manual_seed(7))
    noise = RawNoise.create(stepper, torch.Generator().manual_seed(7), x.shape, Dtypes(), "cpu")
    scheme = ReplayScheme.create(stepper, table.scheme, noise=noise)
    states, runner = [x], copy.deepcopy(scheduler)
    scale = getattr(runner, "scale_model_input", None)
    for node, t in enumerate(stepper.timesteps):
        time = t.expand(len(x)) if stepper.batched_times else t
        run = stepper.fresh() if node == 0 else scheme.lineage.find(node, states[0])
        assert run is not None
        given = run.copy().scale(node, states[0]) if callable(scale) else states[0]
        output = model(given, time)
        scheme.step(node, states, [output * 1.5])
        states.insert(0, scheme.step(node, states, [output]))
    return all(torch.equal(a, b) for a, b in zip(real, reversed(states), strict=True))


def start(stepper: Stepper, ndim: int, dtype: torch.dtype) -> torch.Tensor:
    shape = (2,) + (4,) * (ndim - 1)
    size = initial_size(stepper.scheduler)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype) * size
