"""What each part is for, on problems whose answers are known."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paracore_example import Collocation, TwoStepParareal, VariableOrder
from paracore_example.polynomials import fitted, interpolated

import paracore

MOST_DEGREE = 4


class Powers:
    """``f(x, t) = (1, t, t^2, t^3)`` whatever the state: outputs are cubic in time."""

    def __call__(self, x, t, rows):
        return torch.stack([t**k for k in range(x.shape[1])], dim=1).to(x)


class Rough:
    """Outputs that jump from node to node, with nothing to extrapolate."""

    def __call__(self, x, t, rows):
        return torch.sin(40.0 * rows.node.to(x)[:, None] ** 2) + 0.1 * torch.tanh(x)


def euler(steps, power=1.5):
    """Euler's steps at unequal times."""
    time = np.linspace(0.0, 1.0, steps + 1) ** power
    return paracore.schemes.Scheme.create(np.ones(steps), np.diff(time), time[:-1], name="euler")


def problem(steps=40, batch=2):
    x0 = torch.randn(batch, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return paracore.Problem(euler(steps), x0)


def solved(sampler, network, case):
    evaluator = paracore.evaluators.batched(network, max_batch=1)
    result = paracore.solve(sampler, case, evaluator)
    exact = paracore.sequential(case, evaluator)
    return result, float((result.sample - exact).abs().max())


times = st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True).map(lambda v: np.array(sorted(v)) / 40.0)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(times, st.integers(0, MOST_DEGREE), st.integers(0, 2**31 - 1))
def test_fits_reproduce_polynomials_of_their_order(known, order, seed):
    degree = min(order, len(known) - 1)
    polynomial = np.polynomial.Polynomial(np.random.default_rng(seed).uniform(-1.0, 1.0, degree + 1))
    targets = known[-1] + np.array([0.025, 0.1])
    assert fitted(known, targets, order) @ polynomial(known) == pytest.approx(polynomial(targets), abs=1e-6)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, MOST_DEGREE), st.integers(0, 2**31 - 1))
def test_interpolation_reproduces_polynomials_up_to_its_degree(before, after, degree, seed):
    rng = np.random.default_rng(seed)
    left, right = -np.cumsum(rng.uniform(0.5, 1.0, before)), np.cumsum(rng.uniform(0.5, 1.0, after))
    polynomial = np.polynomial.Polynomial(rng.uniform(-1.0, 1.0, min(degree, before + after - 1) + 1))
    weights = interpolated(left, right, 0.0, degree)
    if weights is not None:  # refused: too large
        assert weights[0] @ polynomial(left) + weights[1] @ polynomial(right) == pytest.approx(
            polynomial(0.0), abs=1e-9
        )


def test_interpolation_refuses_equal_times_and_large_weights():
    assert interpolated(np.array([-1.0]), np.array([1.0, 1.0]), 0.0, 2) is None
    assert interpolated(np.array([-1.0, -1.01, -1.02]), np.array([9.0]), 4.0, 3) is None
    assert interpolated(np.array([-1.0]), np.array([1.0]), 0.0, 2) is not None


def driven(initializer, network, case):
    """The last scores, and how far the states of the last request were from the sequential trajectory."""
    sampler = paracore.compose(initializer=initializer, window=8)
    evaluator = paracore.evaluators.batched(network, max_batch=1)
    exact = paracore.sequential(case, evaluator, trajectory=True)
    state = sampler.start(case)
    while (request := sampler.request(state)) is not None:
        off = (request.states - exact[request.nodes, request.samples]).abs().amax(dim=1)
        state = sampler.advance(state, evaluator.evaluate(request))
    scores = state.parts["initializer"]
    return None if scores is None else scores["error"], off


def test_the_guess_finds_the_order_and_then_misses_nothing():
    _, held = driven("hold", Powers(), problem())
    scores, found = driven(VariableOrder(), Powers(), problem())
    assert (np.argmin(scores, axis=0) == 3).all()
    assert held.max() > 1e-3
    assert found.max() < 1e-9


def test_rough_outputs_are_not_extrapolated():
    scores, _ = driven(VariableOrder(), Rough(), problem())
    assert np.isfinite(scores).all()
    assert (np.argmin(scores, axis=0) <= 1).all()
    assert (scores[3] > 10.0 * scores[0]).all()  # a cubic would have run away


def test_each_sample_has_its_own_order():
    class Both(Rough):
        def __call__(self, x, t, rows):
            smooth = (rows.sample == 0)[:, None]
            return torch.where(smooth, Powers()(x, t, rows), super().__call__(x, t, rows))

    case = problem()
    scores, _ = driven(VariableOrder(), Both(), case)
    assert np.argmin(scores[:, 0]) == 3
    assert np.argmin(scores[:, 1]) <= 1
    alone, _ = driven(VariableOrder(), Powers(), attrs.evolve(case, x0=case.x0[:1]))
    assert np.array_equal(alone[:, 0], scores[:, 0])


def test_collocation_of_cubic_outputs_leaves_no_error():
    case = problem()
    settings = {"window": 4, "tolerance": 0.01, "initializer": "hold"}
    lines, far = solved(paracore.compose(selection="every-kth(stride=3)", **settings), Powers(), case)
    cubics, near = solved(paracore.compose(selection=Collocation(stride=3), **settings), Powers(), case)
    assert (lines.interpolated > 0).all()
    assert (cubics.interpolated > 0).all()
    assert near < 0.2 * far


def test_one_iteration_of_second_order_is_nearer():
    case = problem(steps=72)
    network = lambda x, t, rows: Powers()(x, t, rows) - x  # noqa: E731
    rounds, errors = {}, {}
    for order in (1, 2):
        result, errors[order] = solved(TwoStepParareal(order=order, tolerance=10.0), network, case)
        rounds[order] = result.total_rounds
        assert result.status == (paracore.Status.CONVERGED,) * case.batch
    assert rounds[1] == rounds[2] < 36
    assert errors[2] < 0.5 * errors[1]


@pytest.mark.parametrize("window", [1, 2, 5, None])
def test_two_step_parareal_is_the_sequential_sampler_at_tolerance_zero(window):
    case = problem(steps=31)
    network = lambda x, t, rows: torch.tanh(x) + t[:, None]  # noqa: E731
    result, error = solved(TwoStepParareal(window=window, tolerance=0.0), network, case)
    assert error == 0.0
    assert result.total_rounds == 31
    assert window is None or result.largest_request <= window * case.batch


def test_options_are_refused_with_what_is_allowed():
    with pytest.raises(paracore.errors.ConfigurationError, match="blocks=15 or fewer"):
        TwoStepParareal(blocks=16).start(problem(steps=31))
    with pytest.raises(paracore.errors.ConfigurationError, match="use 1"):
        TwoStepParareal(order=3)


def test_the_code_of_the_readme_runs():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
