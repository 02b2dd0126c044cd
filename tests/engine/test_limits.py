"""Closed forms, met in the limit of many steps and of a vanishing error target."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

import paracore
from paracore.schemes import Scheme
from paracore.testing.problems import LinearNetwork, exponential_scheme, make_case


def heun(steps, end):
    h = end / steps
    a, b = np.zeros((2 * steps, 2)), np.zeros((2 * steps, 2))
    a[0::2, 0], b[0::2, 0] = 1, h
    a[1::2, 1], b[1::2, 0], b[1::2, 1] = 1, h / 2, h / 2
    return Scheme.create(a, b, np.repeat(np.arange(steps) * h, 2), name="heun")


def adams_bashforth(steps, end):
    h = end / steps
    b = np.full((steps, 2), [1.5 * h, -0.5 * h])
    b[0] = h, 0
    return Scheme.create(np.ones(steps), b, np.arange(steps) * h, name="ab2")


SCHEMES = {"euler": (exponential_scheme, 1), "heun": (heun, 2), "adams-bashforth": (adams_bashforth, 2)}


def euler(steps, end):
    return exponential_scheme(steps, end=end)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("stiffness", [0.5, 2.0])
@pytest.mark.parametrize("tolerance", [0.0, 1e-9])
def test_the_matrix_exponential_in_the_limit_of_many_steps(name, stiffness, tolerance):
    build, order = SCHEMES[name]
    errors = []
    for steps in (20, 40, 80):
        scheme = euler(steps, 1.0) if name == "euler" else build(steps, 1.0)
        case = make_case(scheme, seed=1, batch=2, dim=4, stiffness=stiffness, linear=True)
        assert isinstance(case.network, LinearNetwork)
        exact = case.problem.x0 @ torch.from_numpy(scipy.linalg.expm(case.network.matrix.numpy())).T
        sampler = paracore.compose(window=16, tolerance=tolerance)
        result = paracore.solve(sampler, case.problem, case.evaluator(None))
        errors.append(float((result.sample - exact).norm() / exact.norm()))
        assert result.rounds.max() <= scheme.steps if tolerance == 0 else result.rounds.max() < scheme.steps
    slopes = np.diff(np.log2(errors))
    np.testing.assert_allclose(slopes, -order, atol=0.35)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("jacobian", ["none", "identity"])
@pytest.mark.parametrize("stopping", ["error-target", "change", "scaled-residual"])
def test_the_error_vanishes_with_the_target(jacobian, stopping):
    from paracore.schemes import flow_euler

    case = make_case(flow_euler(24), seed=3, batch=3, dim=4, stiffness=1.0)
    reference = case.reference()
    errors, rounds = [], []
    for tolerance in (1e-1, 1e-3, 1e-5, 1e-7, 1e-10):
        sampler = paracore.compose(window=8, tolerance=tolerance, jacobian=jacobian, stopping=stopping)
        result = paracore.solve(sampler, case.problem, case.evaluator())
        errors.append(float((result.sample - reference).norm() / reference.norm()))
        rounds.append(result.total_rounds)
        if stopping == "error-target":
            assert errors[-1] <= 3 * tolerance
    assert rounds == sorted(rounds)
    assert errors[-1] <= 1e-9
    assert errors[2] <= 1e-3
    assert rounds[0] < 24
