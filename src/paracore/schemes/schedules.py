"""Noise schedules: which levels the network was trained on, and which of them a sampler visits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore.errors import SchemeError, suggest

__all__ = [
    "BetaSchedule",
    "Spacing",
    "Training",
    "choice",
    "count",
    "flow_levels",
    "integer_times",
    "karras_levels",
    "multistep_times",
    "number",
    "training",
]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BetaSchedule = Literal["linear", "scaled_linear", "cosine"]
Spacing = Literal["leading", "trailing", "linspace"]


def count(name: str, value: int, low: int, high: int | None = None, why: str = "") -> int:
    """An integer option, checked."""
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SchemeError(f"{name}={value!r}: {wanted} is needed{why}")
    if value < low or (high is not None and value > high):
        raise SchemeError(f"{name}={value}: {wanted} is needed{why}")
    return int(value)


def number(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number option, checked: at least ``low`` (or above it), at most ``high``."""
    bound = f"{'above' if above else 'of at least'} {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise SchemeError(f"{name}={value!r}: a number {bound} is needed")
    if not math.isfinite(value) or value < low or value > high or (above and value == low):
        raise SchemeError(f"{name}={value}: a finite number {bound} is needed")
    return float(value)


def choice(name: str, value: str, known: Sequence[str]) -> str:
    """A named option, checked."""
    if value not in known:
        hint = suggest(str(value), known)
        everything = "" if hint.startswith("known") else f" (known: {', '.join(known)})"
        raise SchemeError(f"{name}={value!r} is unknown; {hint}{everything}")
    return value


@attrs.frozen(eq=False)
class Training:
    """The discrete variance-preserving schedule a network was trained on.

    Attributes:
        bars: ``(T,)`` float64, ``alpha**2`` at training steps 0 .. T-1 (DDPM's alpha-bar).
        betas: ``(T,)`` float64, the variance that each training step adds.
    """

    bars: Array
    betas: Array

    @property
    def steps(self) -> int:
        """T: how many training steps."""
        return len(self.bars)


def training(
    schedule: BetaSchedule, beta_start: float, beta_end: float, steps: int, zero_snr: bool, *, terminal: float = 0.0
) -> Training:
    """The training schedule, computed in float32: these are the numbers that trained networks saw.

    In float32 the cosine schedule's last ``1 - beta`` is off by 6e-5; a float64 table would be another sampler.

    Args:
        schedule: ``"linear"`` (Ho et al. 2020), ``"scaled_linear"`` (linear in the root: Rombach et al. 2022), or
            ``"cosine"`` (Nichol and Dhariwal 2021, Eq. 17, beta capped at 0.999; diffusers' ``squaredcos_cap_v2``).
        beta_start: first beta; not read by the cosine schedule.
        beta_end: last beta; not read by the cosine schedule.
        steps: T.
        zero_snr: shift and scale ``alpha`` so that the last one is 0 (Lin et al. 2024, Algorithm 1).
        terminal: ``alpha**2`` put in place of that 0 by samplers which divide by alpha.

    Raises:
        SchemeError: for an unknown schedule or betas out of range.
    """
    choice("beta_schedule", schedule, get_args(BetaSchedule))
    count("train_steps", steps, 2)
    number("beta_start", beta_start, 0.0, 1.0, above=True)
    number("beta_end", beta_end, 0.0, 1.0, above=True)
    if beta_end < beta_start or beta_end == 1.0:
        raise SchemeError(
            f"beta_end={beta_end}: a number from beta_start={beta_start} to below 1 is needed; noise grows in training"
        )
    if schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)
    elif schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    else:
        bar = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
        ratios = [1 - after / before for before, after in itertools.pairwise(bar)]
        betas = torch.tensor([min(beta, 0.999) for beta in ratios], dtype=torch.float32)
    if zero_snr:
        root = torch.cumprod(1.0 - betas, dim=0).sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        bars = root**2
        betas = 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])
    bars = torch.cumprod(1.0 - betas, dim=0)
    if zero_snr and terminal:
        bars[-1] = terminal
    return Training(bars.to(torch.float64).numpy(), betas.to(torch.float64).numpy())


def integer_times(steps: int, total: int, spacing: Spacing, offset: int) -> Ints:
    """``(N,)`` training step at each node of DDPM and DDIM (Lin et al. 2024, Table 2).

    Raises:
        SchemeError: for more steps than training steps, or an offset beyond the last one.
    """
    choice("spacing", spacing, get_args(Spacing))
    count("steps", steps, 1, total, " (the upper bound is train_steps)")
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    if spacing == "trailing":
        return np.arange(total, 0, -total / steps).round().astype(np.int64)[:steps] - 1
    return _offset(np.arange(steps)[::-1] * (total // steps), total, offset)


def multistep_times(steps: int, total: int, spacing: Spacing, offset: int) -> Ints:
    """``(N,)`` training step at each node of the multistep solvers: N + 1 points, of which the last is the sample.

    Raises:
        SchemeError: for as many steps as training steps, or an offset beyond the last one.
    """
    choice("spacing", spacing, get_args(Spacing))
    count("steps", steps, 1, total - 1, " (the upper bound is train_steps - 1)")
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps + 1).round()[:0:-1].astype(np.int64)
    if spacing == "trailing":
        return np.arange(total, 0, -total / steps).round().astype(np.int64)[:steps] - 1
    return _offset(np.arange(1, steps + 1)[::-1] * (total // (steps + 1)), total, offset)


def _offset(times: Ints, total: int, offset: int) -> Ints:
    highest = total - 1 - int(times[0])
    return times + count("steps_offset", offset, 0, highest, f" with {len(times)} steps of spacing 'leading'")


def flow_levels(steps: int, shift: float, sigmas: npt.ArrayLike | None) -> Array:
    """``(N + 1,)`` decreasing noise levels of flow matching; the last is 0.

    ``sigma = shift * s / (1 + (shift - 1) * s)`` with ``s_n = 1 - n / N`` or the given ones (Esser et al. 2024,
    Eq. 23).

    Raises:
        SchemeError: for levels that do not decrease, lie outside (0, 1], or are not ``steps`` many.
    """
    count("steps", steps, 1)
    number("shift", shift, 0.0, above=True)
    if sigmas is None:
        levels = 1.0 - np.arange(steps) / steps
    else:
        levels = np.asarray(sigmas, dtype=np.float64)
        if levels.shape != (steps,):
            raise SchemeError(
                f"sigmas has shape {levels.shape}; one level for each of the {steps} steps is needed (0 is appended)"
            )
        if not (np.all(np.isfinite(levels)) and np.all(levels > 0) and np.all(levels <= 1)):
            raise SchemeError("sigmas must lie in (0, 1]; the final 0 is appended, do not pass it")
        if np.any(np.diff(levels) >= 0):
            node = int(np.argmax(np.diff(levels) >= 0)) + 1
            raise SchemeError(f"sigmas must decrease; sigmas[{node}]={levels[node]:g} follows {levels[node - 1]:g}")
    return np.append(shift * levels / (1 + (shift - 1) * levels), 0.0)


def karras_levels(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """``(N + 1,)`` noise levels of Karras et al. (2022), Eq. 5; the last is 0.

    Raises:
        SchemeError: unless ``0 < sigma_min < sigma_max`` and ``rho > 0``.
    """
    count("steps", steps, 1)
    number("sigma_min", sigma_min, 0.0, above=True)
    number("sigma_max", sigma_max, 0.0, above=True)
    number("rho", rho, 0.0, above=True)
    if sigma_min >= sigma_max:
        raise SchemeError(f"sigma_min={sigma_min:g} must be below sigma_max={sigma_max:g}")
    ramp = np.linspace(0.0, 1.0, steps)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels: Array = (high + ramp * (low - high)) ** rho
    return np.append(levels, 0.0)
