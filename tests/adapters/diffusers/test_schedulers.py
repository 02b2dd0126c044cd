"""Tables of diffusers schedulers against the schedulers themselves, and what is said where there is no table."""

from __future__ import annotations

import copy
import threading
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    KarrasVeScheduler,
    KDPM2AncestralDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    RePaintScheduler,
    SASolverScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paracore import schemes
from paracore_diffusers.errors import (
    NonFiniteSchedulerError,
    NonlinearSchedulerError,
    UnsupportedPipelineError,
    UnsupportedSchedulerError,
)
from paracore_diffusers.stepper import Dtypes, Stepper
from paracore_diffusers.survey import SurveyRecord, survey, survey_case, survey_markdown
from paracore_diffusers.survey_cases import Case, cases, classes
from paracore_diffusers.survey_runs import table_error
from paracore_diffusers.table import prepared, scheduler_table, scheme_from, small_signal_table

# diffusers' own: options that it deprecates, and arrays that it makes of tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
GOOD = [
    (DDIMScheduler, {"clip_sample": False}),
    (
        DDIMScheduler,
        {
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
    (DDPMScheduler, {"clip_sample": False}),
    (DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_large"}),
    (EulerDiscreteScheduler, {}),
    (EulerDiscreteScheduler, {"prediction_type": "v_prediction", "use_karras_sigmas": True}),
    (EulerAncestralDiscreteScheduler, {}),
    (HeunDiscreteScheduler, {}),
    (KDPM2AncestralDiscreteScheduler, {}),
    (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
    (FlowMatchEulerDiscreteScheduler, {"use_dynamic_shifting": True}),
    (FlowMatchHeunDiscreteScheduler, {}),
    (DPMSolverMultistepScheduler, {}),
    (DPMSolverMultistepScheduler, {"solver_order": 3, "use_karras_sigmas": True}),
    (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    (DPMSolverMultistepScheduler, FLOW),
    (DPMSolverSinglestepScheduler, {}),
    (UniPCMultistepScheduler, {}),
    (UniPCMultistepScheduler, FLOW),
    (UniPCMultistepScheduler, {"solver_order": 3}),
    (SASolverScheduler, {}),
    (CogVideoXDDIMScheduler, {}),
    (CogVideoXDPMScheduler, {}),
    (PNDMScheduler, {}),
    (PNDMScheduler, {"skip_prk_steps": True}),
    (IPNDMScheduler, {}),
    (DEISMultistepScheduler, {}),
    (EDMEulerScheduler, {}),
    (EDMDPMSolverMultistepScheduler, {}),
    (LCMScheduler, {}),
    (TCDScheduler, {}),
    (LMSDiscreteScheduler, {}),
]


def label(value):
    return value.__name__ if isinstance(value, type) else "-".join(f"{k}={v}" for k, v in value.items()) or "default"


@pytest.mark.parametrize(("kind", "options"), GOOD, ids=label)
def test_table_is_exact(kind, options):
    record = survey_case(Case(kind.__name__, options, kind(**options)), 12)
    assert record.verdict == "exact", record
    assert record.error is not None
    assert record.error < 1e-6


@pytest.mark.parametrize("kind", classes(), ids=label)
def test_every_class_gets_a_true_verdict(kind):
    record = survey_case(next(iter(cases(kind))), 8)
    assert record.verdict != "wrong", record
    assert record.verdict == "exact" or record.cause


@st.composite
def any_case(draw):
    kind = draw(st.sampled_from(classes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw(st.sampled_from(list(cases(kind))))


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(any_case(), st.integers(2, 15))
def test_no_configuration_is_silently_wrong(case, steps):
    assert survey_case(case, steps).verdict != "wrong"


@pytest.mark.slow
def test_whole_survey():
    records = survey((12, 50))
    assert len({(r.name, r.options) for r in records}) >= 60
    assert not [r for r in records if r.verdict == "wrong"]
    assert {r.name for r in records} >= {kind.__name__ for kind in classes()}
    assert sum(r.verdict == "exact" for r in records) > 400


@pytest.mark.parametrize(
    ("make", "built"),
    [
        (lambda: DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), schemes.ddim(10, spacing="trailing")),
        (lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), None),
        (lambda: DPMSolverMultistepScheduler(), schemes.dpm_solver_pp_2m(10)),
        (lambda: DDPMScheduler(clip_sample=False), schemes.ddpm(10)),
    ],
    ids=["ddim", "flow", "dpm", "ddpm"],
)
def test_same_as_the_builder(make, built):
    scheme = scheme_from(make(), 10)
    if built is None:
        sigma = scheme.levels.sigma
        built = schemes.flow_euler(10, sigmas=sigma[:-1], time_scale=1000.0)
    np.testing.assert_allclose(scheme.a, built.a, atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(scheme.b, built.b, atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(scheme.time, built.time, rtol=1e-5)
    np.testing.assert_array_equal(scheme.draws, built.draws)
    np.testing.assert_allclose(scheme.c[:, :1] if scheme.stochastic else 0.0, built.c, atol=1e-6)
    assert scheme.prediction == built.prediction
    for name in ("alpha", "sigma", "g", "span"):
        np.testing.assert_allclose(
            getattr(scheme.levels, name), getattr(built.levels, name), atol=2e-5, rtol=2e-4, err_msg=name
        )


@pytest.mark.parametrize(
    ("kind", "options", "memory"),
    [
        (DDIMScheduler, {"clip_sample": False}, 0),
        (HeunDiscreteScheduler, {}, 1),
        (DPMSolverMultistepScheduler, {}, 1),
        (UniPCMultistepScheduler, {}, 2),
        (UniPCMultistepScheduler, {"solver_order": 3}, 3),
        (SASolverScheduler, {}, 2),
        (PNDMScheduler, {"skip_prk_steps": True}, 3),
    ],
)
def test_memory_is_the_shortest(kind, options, memory):
    assert scheme_from(kind(**options), 12).memory == memory


def test_prediction_and_levels():
    forms = {
        DDIMScheduler(clip_sample=False): "noise",
        DDIMScheduler(clip_sample=False, prediction_type="sample"): "data",
        DDIMScheduler(clip_sample=False, prediction_type="v_prediction"): "v-prediction",
        UniPCMultistepScheduler(**FLOW): "velocity",
        EulerDiscreteScheduler(): "noise",
        EulerAncestralDiscreteScheduler(): "noise",
        EulerDiscreteScheduler(prediction_type="v_prediction"): None,  # scaled, so none of paracore's forms
        EDMEulerScheduler(): None,
    }
    for scheduler, form in forms.items():
        scheme = scheme_from(scheduler, 10)
        assert scheme.prediction == form, scheduler
        assert scheme.levels is not None
        assert (scheme.levels.span > 0).all()
        if form in ("noise", "velocity"):
            scheme.levels.conversion(form, "data", slice(0, 10))
    euler = scheme_from(EulerDiscreteScheduler(), 10)
    np.testing.assert_allclose(euler.levels.alpha, 1.0)
    ready = prepared(EulerDiscreteScheduler(), 10)
    np.testing.assert_allclose(euler.levels.sigma, ready.sigmas.numpy(), rtol=1e-5)


def test_levels_that_do_not_fit_are_left_out():
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction")  # but its sigmas are not the flow's
    scheme = scheme_from(scheduler, 10)
    assert scheme.levels is None
    assert scheme.prediction is None


def test_input_scale():
    scheduler = EulerDiscreteScheduler()
    table = scheduler_table(scheduler, 9)
    sigma = prepared(scheduler, 9).sigmas[:-1].double().numpy()
    np.testing.assert_allclose(table.input_scale, 1 / np.sqrt(1 + sigma**2), rtol=1e-6)
    np.testing.assert_array_equal(scheduler_table(DDIMScheduler(clip_sample=False), 9).input_scale, 1.0)
    assert table.nodes == 9
    assert table.timesteps.dtype == torch.float32
    assert table.kind == "exact"


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("begin", [True, False])
def test_tail_of_the_timesteps(kind, begin):
    ready = prepared(kind(), 10)
    if begin:
        ready.set_begin_index(4)
    tail = ready.timesteps[4:]
    table = scheduler_table(ready, timesteps=tail)
    assert table.nodes == len(tail)
    assert table_error(ready, table, 4) < 1e-6
    if begin:
        assert table.scheme.levels is not None


def test_options_reach_the_step():
    plain = scheme_from(DDIMScheduler(clip_sample=False), 8)
    noisy = scheme_from(DDIMScheduler(clip_sample=False), 8, options={"eta": 1.0, "generator": torch.Generator()})
    assert not plain.stochastic
    assert noisy.draws.tolist() == [1] * 8
    assert noisy.c[:-1, 0].min() > 0
    with pytest.raises(UnsupportedSchedulerError, match="takes no eta; leave it out of options"):
        scheme_from(DDPMScheduler(), 8, options={"eta": 1.0})


def test_set_timesteps_arguments():
    shifted = scheme_from(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 8, mu=1.2)
    other = scheme_from(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 8, mu=0.5)
    assert not np.allclose(shifted.b, other.b)
    sigmas = np.linspace(1.0, 0.2, 5)
    assert scheme_from(FlowMatchEulerDiscreteScheduler(), 5, sigmas=sigmas).steps == 5
    with pytest.raises(UnsupportedSchedulerError, match=r"set_timesteps\(8\) fails: ValueError: `mu` must be passed"):
        scheme_from(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 8)
    with pytest.raises(ValueError, match="mu given without num_inference_steps; pass it too"):
        scheme_from(FlowMatchEulerDiscreteScheduler(), mu=1.0)


def test_states_of_other_dimensions():
    for ndim in (2, 3, 5):
        assert scheduler_table(FlowMatchEulerDiscreteScheduler(), 5, ndim=ndim).nodes == 5
    with pytest.raises(ValueError, match="amplitude is 0; a positive number is needed, 1 by default"):
        scheduler_table(DDIMScheduler(), 5, amplitude=0)


def test_nothing_else_is_touched():
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(6)
    before = {k: copy.deepcopy(v) for k, v in vars(scheduler).items()}
    state = torch.get_rng_state()
    scheduler_table(scheduler)
    scheme_from(scheduler, 9)
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(scheduler).keys() == before.keys()
    for key, value in before.items():
        now = vars(scheduler)[key]
        assert torch.equal(now, value) if isinstance(value, torch.Tensor) else now == value, key


def test_another_thread_draws_as_usual():
    scheduler = prepared(EulerAncestralDiscreteScheduler(), 8)
    stop, drawn = threading.Event(), []

    def ordinary():
        while not stop.is_set():
            drawn.append(float(torch.randn(1).abs()))

    thread = threading.Thread(target=ordinary)
    thread.start()
    try:
        while len(drawn) < 50:
            scheduler_table(scheduler)
    finally:
        stop.set()
        thread.join()
    assert min(drawn) > 0  # a scheduler's draws are answered with zeros here


def read(error):
    """An error that a user can act on: it names the scheduler, and says what to do."""
    text = str(error.value)
    assert "Scheduler" in text
    assert len(text) < 500
    return text


def test_nonlinear():
    with pytest.raises(NonlinearSchedulerError) as error:
        scheme_from(DDIMScheduler(), 10)
    text = read(error)
    assert "not linear at node" in text
    assert "clip_sample=True" in text
    assert "pass clip_sample=False, or it is replayed step by step" in text
    with pytest.raises(NonlinearSchedulerError, match="thresholding=True; pass thresholding=False"):
        scheme_from(DPMSolverMultistepScheduler(thresholding=True), 10)
    assert CogVideoXDDIMScheduler().config.clip_sample  # the option alone says nothing: it is never applied there
    assert scheme_from(CogVideoXDDIMScheduler(), 10).steps == 10


def test_not_finite():
    with pytest.raises(NonFiniteSchedulerError) as error:
        scheme_from(UniPCMultistepScheduler(solver_type="bh1"), 10)
    text = read(error)
    assert "node 9 of 10" in text
    assert "change its configuration" in text
    assert scheme_from(UniPCMultistepScheduler(solver_type="bh1", final_sigmas_type="sigma_min"), 10).steps == 10


def test_unsupported():
    for scheduler, match in (
        (KarrasVeScheduler(), "not timestep and sample"),
        (RePaintScheduler(), "also needs original_image, mask; give it in options"),
        (DDPMScheduler(variance_type="learned_range"), "the output holds a variance, too"),
        (EulerDiscreteScheduler(prediction_type="flow_prediction"), "must be one of"),
    ):
        with pytest.raises(UnsupportedSchedulerError, match=match) as error:
            scheme_from(scheduler, 10)
        read(error)
    assert issubclass(UnsupportedSchedulerError, UnsupportedPipelineError)


def test_not_ready():
    with pytest.raises(UnsupportedSchedulerError, match="no timesteps yet; pass num_inference_steps"):
        scheme_from(DDIMScheduler())
    scheduler = prepared(EulerDiscreteScheduler(), 5)
    x = torch.zeros(1, 1, 2, 2)
    scheduler.step(x, scheduler.timesteps[0], scheduler.scale_model_input(x, scheduler.timesteps[0]))
    with pytest.raises(UnsupportedSchedulerError, match="was stepped already"):
        scheme_from(scheduler)
    assert scheme_from(scheduler, 5).steps == 5


class Odd(DDIMScheduler):
    """A scheduler that nobody named; ``how`` it is odd is set on the instance."""

    how = ""

    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        prev = super().step(model_output, timestep, sample, return_dict=False)[0]
        if self.how == "constant":
            prev = prev + 0.25
        elif self.how == "rand":
            prev = prev + torch.rand(prev.shape, generator=generator)
        elif self.how == "own generator":
            prev = prev + torch.randn(prev.shape, generator=torch.Generator().manual_seed(0))
        elif self.how == "mixing":
            prev = prev.roll(1, -1)
        elif self.how == "sometimes":
            prev = prev + torch.randn(prev.shape, generator=generator) if float(prev.abs().sum()) > 500 else prev
        elif self.how == "in place":
            self.total = prev if timestep > 850 else self.total.add_(prev)
            prev = self.total.clone()
        return (prev,)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("constant", "adds a constant at node 0"),
        ("rand", "draws noise by torch.rand at node 0; only standard normal draws"),
        ("own generator", "draws noise by a generator of its own at node 0"),
        ("mixing", "no option of its configuration explains it"),
        ("sometimes", "noise draws at node"),
    ],
)
def test_odd_schedulers_are_refused_by_name(how, match):
    scheduler = Odd(clip_sample=False)
    scheduler.how = how
    with pytest.raises(UnsupportedSchedulerError, match=match) as error:
        scheme_from(scheduler, 6)
    assert "Odd" in str(error.value)


def test_tensors_changed_in_place_are_copied():
    scheduler = Odd(clip_sample=False)
    scheduler.how = "in place"
    ready = prepared(scheduler, 8)
    stepper = Stepper(ready, ready.timesteps)
    rehearsal = stepper.rehearse()
    assert rehearsal.mutates
    run, x = stepper.fresh(), torch.randn(1, 1, 2, 2)
    for node in range(3):
        run.step(node, x, x)
    branch = run.copy()
    other = branch.step(3, x, x)
    assert torch.equal(run.step(3, x, x), other)
    assert torch.equal(branch.copy().step(4, x, x), run.step(4, x, x))
    assert not stepper.rehearse(Dtypes()).returned[0].is_complex


def test_small_signal_and_held_tables():
    for scheduler, kind in (
        (DDIMScheduler(), "small-signal"),
        (DPMSolverMultistepScheduler(thresholding=True), "small-signal"),
    ):
        ready = prepared(scheduler, 8)
        table = small_signal_table(Stepper(ready, ready.timesteps))
        assert table.kind == kind
    linear = scheme_from(DDIMScheduler(clip_sample=False), 8)
    ready = prepared(DDIMScheduler(), 8)
    np.testing.assert_allclose(small_signal_table(Stepper(ready, ready.timesteps)).scheme.a, linear.a, rtol=1e-6)
    odd = Odd(clip_sample=False)
    odd.how = "constant"
    ready = prepared(odd, 8)
    held = small_signal_table(Stepper(ready, ready.timesteps))
    assert held.kind == "held"
    np.testing.assert_array_equal(held.scheme.a, 1.0)
    assert np.isfinite(held.scheme.b).all()


def test_survey_page():
    records = survey((4,), only=["DDIMScheduler", "KarrasVeScheduler"])
    page = survey_markdown([*records, SurveyRecord("X", "a|b", 4, "refused", "c|d\ne")])
    assert f"diffusers {diffusers.__version__}" in page
    assert "paracore diffusers schedulers --markdown" in page
    assert "c\\|d e" in page
    assert {r.verdict for r in records} == {"exact", "replayed", "refused"}
