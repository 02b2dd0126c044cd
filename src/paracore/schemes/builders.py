"""Builders of the common samplers. Each equals diffusers' scheduler of the same name, step for step."""

from __future__ import annotations

from typing import Literal, get_args

import attrs
import numpy as np
import numpy.typing as npt

from paracore.errors import SchemeError
from paracore.schemes.ancestral import VPPrediction, ddim, ddpm, vp_levels
from paracore.schemes.levels import Levels
from paracore.schemes.schedules import (
    BetaSchedule,
    Spacing,
    choice,
    count,
    flow_levels,
    karras_levels,
    multistep_times,
    number,
    training,
)
from paracore.schemes.table import Scheme

__all__ = ["ddim", "ddpm", "dpm_solver_pp_2m", "edm_euler", "edm_heun", "flow_euler", "flow_heun"]

Array = npt.NDArray[np.float64]
Prediction = Literal["noise", "v-prediction", "data", "velocity"]
Family = Literal["vp", "flow"]

FLOW_CLIP = 0.01
"""Smallest ``1 - t`` in the flow's ``g**2 = 2 t / (1 - t)``, which is infinite at pure noise: ``g**2 <= 198``. It
touches only the first row of an unshifted schedule of up to 100 steps."""

TINY_BAR = 2.0**-24
"""``alpha**2`` that stands for zero terminal signal in DPM-Solver++, which divides by alpha (diffusers' value)."""


def flow_euler(
    steps: int, *, shift: float = 1.0, sigmas: npt.ArrayLike | None = None, time_scale: float = 1.0
) -> Scheme:
    """Euler steps of flow matching; the network returns the velocity ``noise - data``.

    Args:
        steps: N.
        shift: timestep shift; 1 is none. Applied to given ``sigmas`` too.
        sigmas: ``(N,)`` decreasing levels in (0, 1] before the shift; default ``1 - n / N``. 0 is appended.
        time_scale: the network is told ``sigma * time_scale`` (1000 for most diffusers networks).

    Raises:
        SchemeError: for an option out of range.

    References:
        Lipman et al. 2023 (arXiv:2210.02747), Eq. 23; shift: Esser et al. 2024 (arXiv:2403.03206), Eq. 23.
    """
    sigma = flow_levels(steps, shift, sigmas)
    return Scheme.create(
        np.ones(steps),
        np.diff(sigma),
        sigma[:-1] * number("time_scale", time_scale, 0.0, above=True),
        levels=_flow(sigma),
        prediction="velocity",
        name="flow_euler",
    )


def flow_heun(
    steps: int, *, shift: float = 1.0, sigmas: npt.ArrayLike | None = None, time_scale: float = 1.0
) -> Scheme:
    """Heun's second-order steps of flow matching, the last one Euler's; a stage is a node: 2 N - 1 nodes.

    Node ``2 k`` predicts the state at ``sigma[k + 1]``, node ``2 k + 1`` evaluates there and corrects it.

    Args:
        steps: N, the steps (not the evaluations).
        shift: timestep shift; 1 is none. Applied to given ``sigmas`` too.
        sigmas: ``(N,)`` decreasing levels in (0, 1] before the shift; default ``1 - n / N``. 0 is appended.
        time_scale: the network is told ``sigma * time_scale``.

    Raises:
        SchemeError: for an option out of range.

    References:
        Karras et al. 2022 (arXiv:2206.00364), Algorithm 1, with the flow's velocity as the derivative.
    """
    sigma = flow_levels(steps, shift, sigmas)
    ones = np.ones(steps)
    return _heun(
        sigma,
        np.zeros(steps),
        ones,
        scale=number("time_scale", time_scale, 0.0, above=True),
        levels=_flow(sigma),
        prediction="velocity",
        name="flow_heun",
    )


def edm_euler(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Scheme:
    """Euler steps of EDM; the network is a denoiser ``D(x, sigma)``. Start from ``sigma_max`` times normal noise.

    Args:
        steps: N.
        sigma_min: lowest nonzero noise level.
        sigma_max: highest noise level.
        rho: spacing exponent; larger puts more steps at low noise.

    Raises:
        SchemeError: for an option out of range.

    References:
        Karras et al. 2022 (arXiv:2206.00364), Eq. 4-5 and Algorithm 1 without its correction.
    """
    sigma = karras_levels(steps, sigma_min, sigma_max, rho)
    ratio = sigma[1:] / sigma[:-1]
    return Scheme.create(ratio, 1 - ratio, sigma[:-1], levels=_edm(sigma), prediction="data", name="edm_euler")


def edm_heun(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Scheme:
    """Heun's second-order steps of EDM, the last one Euler's; a stage is a node: 2 N - 1 nodes.

    The network is a denoiser ``D(x, sigma)``. Start from ``sigma_max`` times normal noise.

    Args:
        steps: N, the steps (not the evaluations).
        sigma_min: lowest nonzero noise level.
        sigma_max: highest noise level.
        rho: spacing exponent; larger puts more steps at low noise.

    Raises:
        SchemeError: for an option out of range.

    References:
        Karras et al. 2022 (arXiv:2206.00364), Algorithm 1.
    """
    sigma = karras_levels(steps, sigma_min, sigma_max, rho)
    inverse = 1 / sigma[:-1]
    return _heun(sigma, inverse, -inverse, scale=1.0, levels=_edm(sigma), prediction="data", name="edm_heun")


def dpm_solver_pp_2m(
    steps: int,
    *,
    family: Family = "vp",
    prediction: Prediction | None = None,
    shift: float = 1.0,
    beta_schedule: BetaSchedule = "linear",
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    steps_offset: int = 0,
    zero_snr: bool = False,
) -> Scheme:
    """DPM-Solver++(2M): the midpoint multistep solver of order 2; first and last steps of order 1, no final noise.

    The solver works on data predictions. For another ``prediction`` the same trajectory is written in the network's
    own output (:meth:`~paracore.schemes.Scheme.in_form`), which adds a column to ``a``.

    Args:
        steps: N, below ``train_steps``.
        family: ``"vp"`` (betas) or ``"flow"`` (``alpha = 1 - sigma``).
        prediction: what the network returns: ``"noise"`` (default), ``"v-prediction"`` or ``"data"`` for ``"vp"``;
            ``"velocity"`` (default) or ``"data"`` for ``"flow"``.
        shift: timestep shift of the flow family.
        beta_schedule: schedule of the training noise (vp).
        beta_start: its first beta (vp, not for ``"cosine"``).
        beta_end: its last beta (vp, not for ``"cosine"``).
        train_steps: T; the flow family starts at ``sigma = 1 - 1 / T`` and tells the network ``int(sigma * T)``.
        spacing: which training steps are visited (vp).
        steps_offset: added to the training steps of ``"leading"`` (vp).
        zero_snr: rescale the betas; ``alpha**2`` at the last training step is then 2**-24, not 0 (vp).

    Raises:
        SchemeError: for an option out of range, or a prediction that the family does not know.

    References:
        Lu et al. 2022 (arXiv:2211.01095), Algorithm 2.
    """
    choice("family", family, get_args(Family))
    count("train_steps", train_steps, 2)
    count("steps", steps, 1, train_steps - 1, " (the upper bound is train_steps - 1)")
    if family == "flow":
        form = choice("prediction", prediction or "velocity", ("velocity", "data"))
        number("shift", shift, 0.0, above=True)
        # The same operations in the same order as diffusers': int() below must not round another way.
        grid = 1.0 - np.linspace(1.0, 1.0 / train_steps, steps + 1)
        sigma = (shift * grid / (1 + (shift - 1) * grid))[:0:-1]
        times = (sigma * train_steps).astype(np.int64)
        levels = _flow(np.append(sigma, 0.0))
    else:
        form = choice("prediction", prediction or "noise", get_args(VPPrediction))
        if shift != 1.0:
            raise SchemeError(f"shift={shift} is an option of family='flow'; leave it at 1 for family='vp'")
        table = training(beta_schedule, beta_start, beta_end, train_steps, zero_snr, terminal=TINY_BAR)
        times = multistep_times(steps, train_steps, spacing, steps_offset)
        levels = vp_levels(table, times, 1.0)
    alpha, sigma = levels.alpha, levels.sigma
    ratio = sigma[1:] / sigma[:-1]
    a, b = ratio[:, None], np.zeros((steps, 2))
    b[:, 0] = alpha[1:] - ratio * alpha[:-1]
    if steps > 2:
        # Half-log-SNR steps; neither end is read, so the infinite one at sigma = 0 is never formed.
        h = np.diff(np.log(alpha[:-1] / sigma[:-1]))
        correction = 0.5 * b[1:-1, 0] * h[1:] / h[:-1]
        b[1:-1, 0] += correction
        b[1:-1, 1] = -correction
    name = "dpm_solver_pp_2m"
    scheme = Scheme.create(a, b, times, levels=levels, prediction="data", name=name)
    return scheme if form == "data" else attrs.evolve(scheme.in_form(form), name=name)


def _flow(sigma: Array) -> Levels:
    """``g**2 = 2 t / (1 - t)`` (the SDE with the flow's marginals), ``t = sigma``, clipped at :data:`FLOW_CLIP`."""
    t = sigma[:-1]
    return Levels(1 - sigma, sigma, np.sqrt(2 * t / np.maximum(1 - t, FLOW_CLIP)), -np.diff(sigma))


def _edm(sigma: Array) -> Levels:
    """``g**2 = d sigma**2 / dt = 2 sigma`` with ``t = sigma`` (Karras et al. 2022, Eq. 6)."""
    return Levels(np.ones_like(sigma), sigma, np.sqrt(2 * sigma[:-1]), -np.diff(sigma))


def _heun(
    sigma: Array, slope_x: Array, slope_f: Array, *, scale: float, levels: Levels, prediction: str, name: str
) -> Scheme:
    """Heun's rule for ``dx / dsigma = slope_x * x + slope_f * f`` at the levels ``sigma``, stages as nodes.

    The node of a stage spans the step that it corrects: a span of 0 would make tolerances there 0.
    """
    steps = len(sigma) - 1
    h = np.diff(sigma)
    main, stage = np.arange(0, 2 * steps - 1, 2), np.arange(1, 2 * steps - 1, 2)
    a, b = np.zeros((2 * steps - 1, 2)), np.zeros((2 * steps - 1, 2))
    a[main, 0], b[main, 0] = 1 + h * slope_x, h * slope_f
    half = 0.5 * h[:-1]
    a[stage, 0], b[stage, 0] = half * slope_x[1:], half * slope_f[1:]
    a[stage, 1], b[stage, 1] = 1 + half * slope_x[:-1], half * slope_f[:-1]
    rows = np.append(0, np.repeat(np.arange(1, steps), 2))  # which level a node is at
    spans = np.repeat(levels.span, 2)[:-1]
    nodes = Levels(
        np.append(levels.alpha[rows], levels.alpha[-1]),
        np.append(levels.sigma[rows], levels.sigma[-1]),
        levels.g[rows],
        spans,
    )
    return Scheme.create(a, b, sigma[rows] * scale, levels=nodes, prediction=prediction, name=name)
