"""Parts of all packages mixed at random, as third parties will mix them: the facts of the engine hold."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
import paracore.testing.problems
from paracore.testing.given import cases
from paracore.testing.mixtures import registered_mixture

LEVELS = ("flow", "ddim", "ddim-noise", "multistep")
NEEDS_A_TRAJECTORY = "warm-start"
SEEDS = st.integers(0, 2**31 - 1)


def test_every_kind_has_parts_of_several_packages():
    for kind in ("jacobian", "damping", "stopping", "initializer", "selection"):
        assert len({e.plugin for e in paracore.registry.entries(kind)}) > 1


def test_most_mixtures_are_allowed():
    case = paracore.testing.problems.random_case(0, kind="ddim", steps=8, batch=1)
    made = [registered_mixture(seed, case.problem, 0.01) for seed in range(50)]
    assert sum(sampler is not None for sampler in made) > 25


@settings(max_examples=60)
@given(cases(kinds=LEVELS, max_steps=10), SEEDS)
def test_tolerance_zero_is_the_sequential_sampler(case, seed):
    sampler = registered_mixture(seed, case.problem, 0.0)
    if sampler is None:
        return
    result = paracore.solve(sampler, case.problem, case.evaluator(jvp=True))
    assert torch.equal(result.sample, case.reference())
    assert (result.rounds <= case.problem.scheme.steps).all()


@settings(max_examples=60)
@given(cases(kinds=LEVELS, max_steps=10), SEEDS, st.sampled_from([1e-4, 1e-2, 1.0]))
def test_at_most_n_rounds_and_finite_or_a_status(case, seed, tolerance):
    sampler = registered_mixture(seed, case.problem, tolerance)
    if sampler is None:
        return
    result = paracore.solve(sampler, case.problem, case.evaluator(jvp=True), raise_on_failure=False)
    assert (result.rounds <= case.problem.scheme.steps).all()
    for sample, status in zip(result.sample, result.status, strict=True):
        assert status.failed or torch.isfinite(sample).all()
