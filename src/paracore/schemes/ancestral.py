"""DDIM and DDPM: one step of memory, and noise drawn at each step where they ask for it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from paracore.schemes.levels import Levels
from paracore.schemes.schedules import BetaSchedule, Spacing, Training, choice, integer_times, number, training
from paracore.schemes.table import Scheme

__all__ = ["VPPrediction", "ddim", "ddpm", "vp_levels"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
VPPrediction = Literal["noise", "v-prediction", "data"]
Variance = Literal["fixed_small", "fixed_large"]


def ddim(
    steps: int,
    *,
    eta: float = 0.0,
    prediction: VPPrediction = "noise",
    beta_schedule: BetaSchedule = "linear",
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    train_steps: int = 1000,
    spacing: Spacing = "leading",
    steps_offset: int = 0,
    set_alpha_to_one: bool = True,
    zero_snr: bool = False,
) -> Scheme:
    """DDIM. With ``eta > 0`` every step draws noise (the last one too, with weight 0 if its sample is clean).

    As in diffusers, a step lands on training step ``t - train_steps // N``. Under ``"trailing"`` and ``"linspace"``
    that differs by rounding from the step the network is told next; the levels are those the network is told.

    Args:
        steps: N, at most ``train_steps``.
        eta: noise, from 0 (none) to 1 (DDPM's).
        prediction: what the network returns.
        beta_schedule: schedule of the training noise.
        beta_start: its first beta (not for ``"cosine"``).
        beta_end: its last beta (not for ``"cosine"``).
        train_steps: T.
        spacing: which training steps are visited.
        steps_offset: added to the training steps of ``"leading"``; 1 for Stable Diffusion.
        set_alpha_to_one: the sample has no noise; else the level of training step 0.
        zero_snr: rescale the betas so that node 0 is pure noise; needs ``"v-prediction"`` or ``"data"``.

    Raises:
        SchemeError: for an option out of range, or noise prediction where ``alpha = 0``.

    References:
        Song et al. 2021 (arXiv:2010.02502), Eq. 12 and 16.
    """
    table = training(beta_schedule, beta_start, beta_end, train_steps, zero_snr)
    times = integer_times(steps, train_steps, spacing, steps_offset)
    number("eta", eta, 0.0, 1.0)
    landing = times - train_steps // steps
    clean = 1.0 if set_alpha_to_one else float(table.bars[0])
    after = np.where(landing >= 0, table.bars[np.maximum(landing, 0)], clean)
    before = table.bars[times]
    levels = vp_levels(table, times, float(after[-1]))
    data_x, data_f = _convert(levels, prediction, "data")
    noise_x, noise_f = _convert(levels, prediction, "noise")
    deviation = eta * np.sqrt((1 - after) / (1 - before) * np.maximum(1 - before / after, 0.0))
    direction = np.sqrt(np.maximum(1 - after - deviation**2, 0.0))
    root = np.sqrt(after)
    return Scheme.create(
        root * data_x + direction * noise_x,
        root * data_f + direction * noise_f,
        times,
        c=deviation if eta > 0 else None,
        draws=np.ones(steps) if eta > 0 else None,
        levels=levels,
        prediction=prediction,
        name="ddim",
    )


def ddpm(
    steps: int,
    *,
    variance: Variance = "fixed_small",
    prediction: VPPrediction = "noise",
    beta_schedule: BetaSchedule = "linear",
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    train_steps: int = 1000,
    spacing: Spacing = "leading",
    steps_offset: int = 0,
    zero_snr: bool = False,
) -> Scheme:
    """DDPM's ancestral sampling. As in diffusers, noise is drawn wherever the training step is above 0.

    So the last step draws none under the default spacing. Under ``"trailing"``, or with an offset, it draws with
    weight 1e-10 for ``"fixed_small"``, and with its full weight for ``"fixed_large"``.

    Args:
        steps: N, at most ``train_steps``.
        variance: of a step: the posterior's, or the forward process's.
        prediction: what the network returns.
        beta_schedule: schedule of the training noise.
        beta_start: its first beta (not for ``"cosine"``).
        beta_end: its last beta (not for ``"cosine"``).
        train_steps: T.
        spacing: which training steps are visited.
        steps_offset: added to the training steps of ``"leading"``.
        zero_snr: rescale the betas so that node 0 is pure noise; needs ``"v-prediction"`` or ``"data"``.

    Raises:
        SchemeError: for an option out of range, or noise prediction where ``alpha = 0``.

    References:
        Ho et al. 2020 (arXiv:2006.11239), Eq. 6-7 and Algorithm 2.
    """
    choice("variance", variance, get_args(Variance))
    table = training(beta_schedule, beta_start, beta_end, train_steps, zero_snr)
    times = integer_times(steps, train_steps, spacing, steps_offset)
    levels = vp_levels(table, times, 1.0)
    before, after = table.bars[times], np.append(table.bars[times[1:]], 1.0)
    data_x, data_f = _convert(levels, prediction, "data")
    added = 1 - before / after
    on_data = np.sqrt(after) * added / (1 - before)
    on_state = np.sqrt(before / after) * (1 - after) / (1 - before)
    posterior = np.maximum((1 - after) / (1 - before) * added, 1e-20)  # diffusers' floor, for the draw it makes anyway
    weight = np.sqrt(posterior if variance == "fixed_small" else added)
    noisy = times > 0
    return Scheme.create(
        on_data * data_x + on_state,
        on_data * data_f,
        times,
        c=np.where(noisy, weight, 0.0),
        draws=noisy,
        levels=levels,
        prediction=prediction,
        name="ddpm",
    )


def vp_levels(table: Training, times: Ints, final_bar: float) -> Levels:
    """``g**2 = T * beta``, time from 0 to 1 over the training steps (Song et al. 2021, arXiv:2011.13456, Eq. 11)."""
    bars = np.append(table.bars[times], final_bar)
    span = -np.diff(np.append(times + 1, 0)) / table.steps
    return Levels(np.sqrt(bars), np.sqrt(1 - bars), np.sqrt(table.steps * table.betas[times]), span)


def _convert(levels: Levels, source: str, target: str) -> tuple[Array, Array]:
    choice("prediction", source, get_args(VPPrediction))
    return levels.conversion(source, target, slice(0, len(levels.g)))
