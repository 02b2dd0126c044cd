"""Every builder against diffusers' own scheduler, run step by step."""

from __future__ import annotations

from typing import Any
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch

from paracore.errors import SchemeError
from paracore.schemes import (
    FORMS,
    Scheme,
    ddim,
    ddpm,
    dpm_solver_pp_2m,
    edm_euler,
    edm_heun,
    flow_euler,
    flow_heun,
)

STEPS = (1, 2, 12, 50)
THEIRS = {"noise": "epsilon", "v-prediction": "v_prediction", "data": "sample", "velocity": "flow_prediction"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
# NumPy's complaint about how diffusers calls it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
X0 = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def compare(
    scheme: Scheme,
    theirs: Any,
    network: Any,
    sweep: Any,
    *,
    x0: torch.Tensor = X0,
    tolerance: float = 1e-6,
    seed: int | None = None,
    told: bool = True,
    wrap: Any = None,
    sigmas: np.ndarray[Any, Any] | None = None,
    **options: Any,
) -> float:
    """Largest relative error over the trajectory; asserts it, and that both tell the network the same times.

    Most schedulers round their levels and every state to float32. With ``sigmas`` (float64) theirs are replaced and the
    rounding of states is off, so that what is left is the arithmetic: then the tolerance is 1e-10.
    """
    if sigmas is not None:
        before = theirs.sigmas
        theirs.sigmas = torch.from_numpy(sigmas)
        np.testing.assert_allclose(sigmas, before.double().numpy(), rtol=1e-6)
        theirs._step_index, tolerance, told = None, 1e-10, False
        theirs.set_begin_index(0)
        theirs.dt = None  # a Heun scheduler that starts over
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    ours = sweep(scheme, lambda x, n: network(x, float(scheme.time[n])), x0, generator=generator)
    if seed is not None:
        options["generator"] = torch.Generator().manual_seed(seed)
    assert len(theirs.timesteps) == scheme.steps
    if told:
        np.testing.assert_allclose(scheme.time, theirs.timesteps.double().numpy(), rtol=2e-7)
    state, worst = x0, 0.0
    for node, timestep in enumerate(theirs.timesteps):
        output = network(state, float(scheme.time[node]))
        if wrap is not None:
            output = wrap(theirs, node, state, output, timestep)
        with mock.patch.object(torch, "float32", torch.float32 if sigmas is None else torch.float64):
            state = theirs.step(output, timestep, state, return_dict=False, **options)[0]
        worst = max(worst, float((ours[node + 1] - state).norm() / state.norm()))
    assert worst < tolerance, worst
    return worst


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler(steps: int, shift: float, network: Any, sweep: Any) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    scheme = flow_euler(steps, shift=shift, time_scale=1000.0)
    compare(scheme, theirs, network, sweep)
    compare(scheme, theirs, network, sweep, sigmas=scheme.levels.sigma)
    given = np.linspace(0.9, 0.2, steps)
    theirs.set_timesteps(sigmas=given)
    compare(flow_euler(steps, shift=shift, time_scale=1000.0, sigmas=given), theirs, network, sweep)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_heun(steps: int, shift: float, network: Any, sweep: Any) -> None:
    theirs = diffusers.FlowMatchHeunDiscreteScheduler()
    levels = np.linspace(1, 1 / steps, steps)
    sigmas = torch.from_numpy(shift * levels / (1 + (shift - 1) * levels))
    # Its own spacing ends at 1/1000 and applies the shift twice: give it ours, in the layout that it would build.
    theirs.set_timesteps(steps)
    theirs.sigmas = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2), torch.zeros(1)])
    theirs.timesteps = theirs.sigmas[:-1] * 1000
    theirs.set_begin_index(0)
    scheme = flow_heun(steps, shift=shift, time_scale=1000.0)
    compare(scheme, theirs, network, sweep)
    compare(scheme, theirs, network, sweep, sigmas=scheme.levels.sigma)


def test_flow_heun_own_spacing(network: Any, sweep: Any) -> None:
    theirs = diffusers.FlowMatchHeunDiscreteScheduler()
    theirs.set_timesteps(12)
    sigmas = theirs.timesteps[[0, *range(1, 23, 2)]].double().numpy() / 1000
    compare(flow_heun(12, sigmas=sigmas, time_scale=1000.0), theirs, network, sweep)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["noise", "v-prediction", "data"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(steps: int, spacing: Any, prediction: Any, eta: float, network: Any, sweep: Any) -> None:
    scheme = ddim(steps, eta=eta, prediction=prediction, spacing=spacing)
    theirs = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing=spacing, prediction_type=THEIRS[prediction])
    theirs.set_timesteps(steps)
    seed = 3 if eta else None
    compare(scheme, theirs, network, sweep, seed=seed, eta=eta, tolerance=1e-5)
    # The coefficients that it forms in float32 are all the difference: the same betas in float64 agree to rounding.
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.final_alpha_cumprod.double()
    compare(scheme, theirs, network, sweep, seed=seed, eta=eta, tolerance=1e-10)


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
@pytest.mark.parametrize("options", [{}, {"steps_offset": 1, "set_alpha_to_one": False}, {"zero_snr": True}])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_schedules(beta_schedule: Any, options: dict[str, Any], eta: float, network: Any, sweep: Any) -> None:
    start, end = (0.00085, 0.012) if beta_schedule == "scaled_linear" else (0.0001, 0.02)
    zero = options.get("zero_snr", False)
    spacing: Any = "trailing" if zero else "leading"
    scheme = ddim(
        12,
        eta=eta,
        prediction="v-prediction",
        beta_schedule=beta_schedule,
        beta_start=start,
        beta_end=end,
        spacing=spacing,
        **options,
    )
    theirs = diffusers.DDIMScheduler(
        beta_schedule=SCHEDULES[beta_schedule],
        beta_start=start,
        beta_end=end,
        clip_sample=False,
        timestep_spacing=spacing,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=zero,
        **{k: v for k, v in options.items() if k != "zero_snr"},
    )
    theirs.set_timesteps(12)
    compare(scheme, theirs, network, sweep, seed=5 if eta else None, eta=eta)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["noise", "v-prediction", "data"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(steps: int, spacing: Any, prediction: Any, variance: Any, network: Any, sweep: Any) -> None:
    scheme = ddpm(steps, variance=variance, prediction=prediction, spacing=spacing)
    theirs = diffusers.DDPMScheduler(
        clip_sample=False,
        timestep_spacing=spacing,
        prediction_type=THEIRS[prediction],
        variance_type=variance,
    )
    theirs.set_timesteps(steps)
    compare(scheme, theirs, network, sweep, seed=4, tolerance=1e-5)
    theirs.alphas_cumprod, theirs.one = theirs.alphas_cumprod.double(), theirs.one.double()
    compare(scheme, theirs, network, sweep, seed=4, tolerance=1e-10)


def test_ddpm_zero_snr_and_cosine(network: Any, sweep: Any) -> None:
    scheme = ddpm(12, prediction="v-prediction", beta_schedule="cosine", spacing="trailing", zero_snr=True)
    theirs = diffusers.DDPMScheduler(
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
    )
    theirs.set_timesteps(12)
    compare(scheme, theirs, network, sweep, seed=4)
    assert scheme.levels is not None
    assert scheme.levels.alpha[0] == 0


def test_ddpm_draws_none_at_the_last_step_by_default() -> None:
    assert ddpm(12).draws.tolist() == [1] * 11 + [0]
    assert ddim(12, eta=1.0).draws.tolist() == [1] * 12
    assert not ddim(12).stochastic


@pytest.mark.parametrize("steps", STEPS)
def test_edm_euler(steps: int, network: Any, sweep: Any) -> None:
    theirs = diffusers.EDMEulerScheduler()
    theirs.set_timesteps(steps)
    data = 0.5

    def raw(theirs: Any, node: int, x: torch.Tensor, denoised: torch.Tensor, timestep: Any) -> torch.Tensor:
        """The raw network F whose preconditioned output is D."""
        theirs.scale_model_input(x, timestep)
        sigma = float(theirs.sigmas[node])
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
        return (denoised - skip * x) / out

    scheme = edm_euler(steps)
    np.testing.assert_allclose(0.25 * np.log(scheme.time), theirs.timesteps.numpy(), rtol=1e-6, atol=1e-7)
    # Its float32 states lose a digit where a step goes from 80 to 0.002 at once.
    compare(scheme, theirs, network, sweep, x0=80.0 * X0, told=False, wrap=raw, tolerance=5e-6 if steps == 2 else 1e-6)
    compare(scheme, theirs, network, sweep, x0=80.0 * X0, wrap=raw, sigmas=scheme.levels.sigma)


@pytest.mark.parametrize("steps", STEPS)
def test_edm_heun(steps: int, network: Any, sweep: Any) -> None:
    theirs = diffusers.HeunDiscreteScheduler(prediction_type="sample", use_karras_sigmas=True)
    theirs.set_timesteps(steps)
    levels = ((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod).sqrt()
    lowest, highest = float(levels[0]), float(levels[-1])
    scheme = edm_heun(steps, sigma_min=lowest, sigma_max=highest)
    compare(scheme, theirs, network, sweep, x0=highest * X0, told=False)
    if steps > 1:  # with one step theirs starts at its lowest level; either way the sample is D
        compare(scheme, theirs, network, sweep, x0=highest * X0, sigmas=scheme.levels.sigma)


def test_edm_defaults() -> None:
    scheme = edm_heun(18)
    assert scheme.steps == 35
    assert scheme.time[0] == pytest.approx(80.0)
    assert scheme.time[-1] == pytest.approx(0.002)
    assert scheme.prediction == "data"


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["noise", "v-prediction", "data"])
def test_dpm_vp(steps: int, spacing: Any, prediction: Any, network: Any, sweep: Any) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(timestep_spacing=spacing, prediction_type=THEIRS[prediction])
    theirs.set_timesteps(steps)
    scheme = dpm_solver_pp_2m(steps, prediction=prediction, spacing=spacing)
    assert (scheme.a.shape[1], scheme.b.shape[1]) == (1 if prediction == "data" or steps <= 2 else 2, 2)
    compare(scheme, theirs, network, sweep, tolerance=1e-5)
    compare(scheme, theirs, network, sweep, sigmas=scheme.levels.sigma / scheme.levels.alpha)


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
@pytest.mark.parametrize("zero", [False, True])
def test_dpm_vp_schedules(beta_schedule: Any, zero: bool, network: Any, sweep: Any) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_schedule=SCHEDULES[beta_schedule],
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=zero,
    )
    theirs.set_timesteps(12)
    scheme = dpm_solver_pp_2m(
        12, prediction="v-prediction", beta_schedule=beta_schedule, spacing="trailing", zero_snr=zero
    )
    compare(scheme, theirs, network, sweep)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_dpm_flow(steps: int, shift: float, prediction: Any, network: Any, sweep: Any) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=shift, prediction_type=THEIRS[prediction]
    )
    theirs.set_timesteps(steps)
    scheme = dpm_solver_pp_2m(steps, family="flow", shift=shift, prediction=prediction)
    compare(scheme, theirs, network, sweep)
    compare(scheme, theirs, network, sweep, sigmas=scheme.levels.sigma)


ALL = [
    lambda n: flow_euler(n),
    lambda n: flow_heun(n, shift=3.0),
    lambda n: ddim(n),
    lambda n: ddim(n, eta=1.0, prediction="v-prediction", zero_snr=True, spacing="trailing"),
    lambda n: ddpm(n),
    lambda n: edm_euler(n),
    lambda n: edm_heun(n),
    lambda n: dpm_solver_pp_2m(n),
    lambda n: dpm_solver_pp_2m(n, family="flow"),
]


@pytest.mark.parametrize("build", ALL)
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_levels(build: Any, steps: int) -> None:
    scheme = build(steps)
    levels = scheme.levels
    assert levels is not None
    assert scheme.prediction in FORMS
    for value, length in ((levels.alpha, 1), (levels.sigma, 1), (levels.g, 0), (levels.span, 0)):
        assert value.shape == (scheme.steps + length,)
        assert np.isfinite(value).all()
    assert (levels.g > 0).all()
    assert (levels.span > 0).all()
    assert levels.sigma[-1] == 0
    assert levels.alpha[-1] == 1
    assert (np.diff(levels.sigma) <= 0).all()
    assert levels.sigma[0] > 0.9 * min(1, levels.sigma.max())


@pytest.mark.parametrize("build", [build for build in ALL if not build(2).stochastic])
def test_a_held_true_data_prediction_stays_on_the_marginals(build: Any) -> None:
    """With the exact output for one datum and one noise, every deterministic step lands on alpha * data + sigma * e.

    Independent of diffusers. (DDIM's trailing steps land elsewhere by design, and noise leaves the line.)
    """
    scheme = build(20)
    levels, data, noise = scheme.levels, 0.7, -1.3
    state = [levels.alpha[n] * data + levels.sigma[n] * noise for n in range(scheme.steps + 1)]
    p, q = levels.parts(scheme.prediction, slice(0, scheme.steps))
    output = p * data + q * noise
    for n in range(scheme.steps):
        new = sum(scheme.a[n, i] * state[n - i] for i in range(min(n + 1, scheme.a.shape[1])))
        new += sum(scheme.b[n, j] * output[n - j] for j in range(min(n + 1, scheme.b.shape[1])))
        assert new == pytest.approx(state[n + 1], rel=1e-9, abs=1e-9)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (flow_euler, {"steps": 0}, r"steps=0: an integer of at least 1"),
    (flow_euler, {"steps": 2.0}, r"steps=2.0: an integer"),
    (flow_euler, {"steps": True}, r"steps=True"),
    (flow_euler, {"steps": 4, "shift": 0.0}, r"shift=0.0: a finite number above 0"),
    (flow_euler, {"steps": 4, "shift": "3"}, r"shift='3': a number above 0"),
    (flow_euler, {"steps": 4, "shift": float("nan")}, r"shift=nan"),
    (flow_euler, {"steps": 4, "time_scale": 0.0}, r"time_scale=0.0"),
    (flow_euler, {"steps": 3, "sigmas": [1.0, 0.5]}, r"shape \(2,\); one level for each of the 3 steps"),
    (flow_euler, {"steps": 3, "sigmas": [1.0, 0.5, 0.0]}, r"\(0, 1\]; the final 0 is appended"),
    (flow_heun, {"steps": 3, "sigmas": [1.0, 0.5, 0.6]}, r"sigmas\[2\]=0.6 follows 0.5"),
    (edm_euler, {"steps": 3, "sigma_min": 2.0, "sigma_max": 1.0}, r"sigma_min=2 must be below sigma_max=1"),
    (edm_heun, {"steps": 3, "rho": -1}, r"rho=-1: a finite number above 0"),
    (edm_heun, {"steps": 0}, r"steps=0"),
    (ddim, {"steps": 1001}, r"steps=1001: an integer from 1 to 1000 .*upper bound is train_steps"),
    (ddim, {"steps": 10, "eta": 1.5}, r"eta=1.5: .*at least 0 and at most 1"),
    (ddim, {"steps": 10, "spacing": "trailling"}, r"spacing='trailling' is unknown; did you mean 'trailing'"),
    (ddim, {"steps": 10, "beta_schedule": "x"}, r"beta_schedule='x' is unknown; known: cosine, linear"),
    (ddim, {"steps": 10, "prediction": "epsilon"}, r"prediction='epsilon' is unknown; known: data, noise"),
    (ddim, {"steps": 10, "beta_start": 0.5, "beta_end": 0.1}, r"beta_end=0.1: a number from beta_start=0.5"),
    (ddim, {"steps": 10, "beta_end": 1.0}, r"beta_end=1.0"),
    (ddim, {"steps": 1000, "steps_offset": 1}, r"steps_offset=1: an integer from 0 to 0 is needed with 1000 steps"),
    (ddim, {"steps": 10, "train_steps": 1}, r"train_steps=1"),
    (ddim, {"steps": 4, "zero_snr": True, "spacing": "trailing"}, r"alpha = 0 at node 0; .*'data'"),
    (ddpm, {"steps": 4, "variance": "learned"}, r"variance='learned' is unknown.*fixed_small"),
    (dpm_solver_pp_2m, {"steps": 1000}, r"steps=1000: an integer from 1 to 999 .*train_steps - 1"),
    (dpm_solver_pp_2m, {"steps": 1000, "family": "flow"}, r"steps=1000"),
    (dpm_solver_pp_2m, {"steps": 0, "family": "flow"}, r"steps=0"),
    (dpm_solver_pp_2m, {"steps": 4, "family": "flow", "prediction": "noise"}, r"prediction='noise' is unknown"),
    (dpm_solver_pp_2m, {"steps": 4, "prediction": "velocity"}, r"prediction='velocity' is unknown"),
    (dpm_solver_pp_2m, {"steps": 4, "family": "edm"}, r"family='edm' is unknown; known: flow, vp"),
    (dpm_solver_pp_2m, {"steps": 4, "shift": 3.0}, r"shift=3.0 is an option of family='flow'"),
]


@pytest.mark.parametrize(("build", "options", "message"), REFUSED)
def test_refused(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        build(**options)
