"""Problems with known answers, held against the sequential sampler, and hypothesis strategies over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore import sequential
from paracore.composition import KINDS as STRATEGIES
from paracore.errors import ProblemError, UnknownNameError
from paracore.testing.adversarial import BadDamping, random_composition
from paracore.testing.exact import LEVELLED, mixture_case
from paracore.testing.given import adversarial, batches, gaussians, linear, mixtures, references, windows
from paracore.testing.hosts import base
from paracore.testing.problems import KINDS, exponential_scheme, make_case, random_case
from paracore.testing.reference import REFERENCES, dense_trajectory, linear_reference, reference, some

SIZES = ((1, 1), (2, 3), (12, 2))
ROUNDING = 1e-12


def off(found: torch.Tensor, known: torch.Tensor) -> float:
    return float((found.to(known) - known).abs().max() / known.abs().max())


@pytest.mark.parametrize("name", REFERENCES)
def test_the_sequential_sampler_follows_the_known_trajectory(name):
    for steps, batch in SIZES:
        known = reference(name, steps=steps, batch=batch, seed=steps)
        problem = known.case.problem
        found = sequential(problem, known.case.evaluator(), trajectory=True)
        assert known.trajectory.shape == (problem.scheme.steps + 1, *problem.x0.shape)
        assert off(found, known.trajectory) < ROUNDING
        assert known.error(found[-1]) < ROUNDING


def test_every_kind_of_scheme_has_a_linear_reference_and_some_are_stochastic():
    made = [linear_reference(kind) for kind in KINDS]
    assert {f"linear-{kind}" for kind in KINDS} <= set(REFERENCES)
    assert sum(known.case.problem.scheme.stochastic for known in made) >= 3
    assert sum(known.case.problem.scheme.memory > 0 for known in made) >= 3


def test_formulas():
    decay = reference("decay", steps=10)
    np.testing.assert_allclose(decay.sample, 0.9**10 * decay.case.problem.x0, rtol=1e-14)
    turned = reference("rotation", steps=1000)
    angle, x0 = 1.0, turned.case.problem.x0
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=torch.float64)
    np.testing.assert_allclose(turned.sample, x0 @ turn, rtol=2e-3, atol=2e-3)
    drift = reference("drift")
    np.testing.assert_allclose(drift.sample - drift.case.problem.x0, [[0.5, -1.0, 2.0]] * 2, rtol=1e-14)


def test_gaussian_samples_tend_to_the_data():
    known = reference("gaussian", steps=2000, batch=500)
    assert abs(float(known.sample.mean()) - 1.5) < 0.03
    assert abs(float(known.sample.std()) - 0.5) < 0.02


def test_formulas_agree_with_the_dense_solve():
    for name in ("decay", "rotation", "drift", "gaussian"):
        known = reference(name, steps=7)
        network = known.case.network
        solved = dense_trajectory(known.case.problem, network.matrices, network.offsets)
        assert off(solved, known.trajectory) < ROUNDING


def test_an_error_is_seen():
    known = reference("linear-multistep")
    worse = sequential(known.case.problem, known.case.evaluator()) * 1.001
    assert known.error(worse) > 1e-5


def test_wrong_arguments():
    with pytest.raises(UnknownNameError, match="did you mean 'decay'"):
        reference("decai")
    with pytest.raises(UnknownNameError, match="unknown kind of scheme 'flows'"):
        linear_reference("flows")
    with pytest.raises(UnknownNameError, match="unknown kind of scheme 'table'"):
        mixture_case("table")
    with pytest.raises(UnknownNameError, match="did you mean 'damping'"):
        adversarial("dampings")
    problem = paracore.Problem(exponential_scheme(3), torch.ones(1, 2))
    with pytest.raises(ProblemError, match=r"\(3, 2, 2\) and \(3, 2\) are needed"):
        dense_trajectory(problem, torch.ones(3, 3, 3), torch.ones(3, 2))
    for samples in ([], [2], [-1]):
        with pytest.raises(ProblemError, match="some of 0 to 1 are needed"):
            some(make_case(exponential_scheme(3)), samples)


@settings(max_examples=15)
@given(linear(), st.data())
def test_samplers_reach_the_closed_form_whatever_their_parts_say(known, data):
    problem = known.case.problem
    composition = random_composition(data.draw(st.integers(0, 999)), problem, tolerance=0.0)
    result = paracore.solve(paracore.Engine(composition), problem, known.case.evaluator(jvp=True))
    assert known.error(result.sample) < ROUNDING


@settings(max_examples=10)
@given(references())
def test_references_in_all_sizes(known):
    assert known.error(sequential(known.case.problem, known.case.evaluator())) < ROUNDING


@settings(max_examples=10)
@given(st.one_of(mixtures(), gaussians()), st.data())
def test_batches_leave_answers_alone(case, data):
    picked = data.draw(batches(case))
    chosen = [int((case.problem.x0 == x).all(dim=1).nonzero()[0]) for x in picked.problem.x0]
    assert torch.equal(picked.reference(), case.reference()[chosen])
    window = data.draw(windows(case))
    assert 1 <= window <= case.problem.scheme.steps + 3
    result = paracore.solve(paracore.Engine(base(window=window, tolerance=0.0)), picked.problem, picked.evaluator())
    assert torch.equal(result.sample, picked.reference())


def test_batches_of_stochastic_problems_keep_their_noise():
    case = random_case(4, kind="ddpm", batch=3, steps=5)
    assert torch.equal(some(some(case, [2, 0, 1]), [1, 0]).reference(), case.reference()[[0, 2]])
    assert torch.equal(some(case, [2, 1]).alone(1).reference(), case.reference()[[1]])


@pytest.mark.parametrize("kind", LEVELLED)
def test_one_component_samples_the_data(kind):
    case = mixture_case(kind, components=1, steps=30, batch=400, dim=1, spread=0.5, seed=3)
    sample, mean = sequential(case.problem, case.evaluator(max_batch=None)), case.network.means[0]
    assert abs(float(sample.mean()) - float(mean)) < 0.15
    assert abs(float(sample.std()) - 0.5) < 0.15


def test_samples_of_a_mixture_lie_at_its_components():
    case = mixture_case("flow", components=3, steps=60, batch=60, dim=2, spread=0.05, seed=1)
    sample = sequential(case.problem, case.evaluator(max_batch=None))
    distance = torch.cdist(sample, case.network.means)
    assert float(distance.min(dim=1).values.max()) < 0.4
    assert len(set(distance.argmin(dim=1).tolist())) > 1


@pytest.mark.parametrize("kind", STRATEGIES)
def test_adversarial_parts_are_of_their_kind(kind):
    @settings(max_examples=5)
    @given(adversarial(kind))
    def of_the_kind(part):
        assert isinstance(part, STRATEGIES[kind])

    of_the_kind()


@settings(max_examples=10)
@given(linear(kinds=("flow", "multistep", "ddpm")), adversarial("damping"))
def test_nonsense_changes_nothing_at_tolerance_zero(known, part):
    assert isinstance(part, BadDamping)
    engine = paracore.Engine(base(damping=part, window=4, tolerance=0.0))
    result = paracore.solve(engine, known.case.problem, known.case.evaluator())
    assert known.error(result.sample) < ROUNDING
