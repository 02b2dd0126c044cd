"""What holds for every composition, for DEER, quasi-DEER, ELK and quasi-ELK mixed with random other parts."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.checkpoint import save_checkpoint
from paracore.engine import Engine
from paracore.errors import CheckpointError
from paracore.parts import AllRows
from paracore.schemes import flow_euler
from paracore.testing.adversarial import random_composition
from paracore.testing.given import cases
from paracore.testing.problems import KINDS, Counting, make_case, random_case
from paracore_newton import BlockSampler, finite_differences
from paracore_newton.damped import BlocksFilter, DiagonalFilter, Kalman
from paracore_newton.diagonal import Diagonal
from paracore_newton.exact import Blocks

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
SEEDS = st.integers(0, 2**31 - 1)
KINDS_OF_PART = st.sampled_from(["deer", "elk", "quasi-deer", "quasi-elk"])


def random_sampler(seed, case, which, *, tolerance=0.0, adversarial=0.3):
    """A random composition around one of our Jacobian parts, with random options."""
    rng = np.random.default_rng([seed, 11])
    base = random_composition(seed, case.problem, tolerance=tolerance, adversarial=adversarial)
    clip = [None, 0.0, 0.7, 1.0][int(rng.integers(4))]
    signs = int(rng.integers(1000))
    part = {
        "deer": Blocks(),
        "elk": BlocksFilter(),
        "quasi-deer": Diagonal(signs, clip),
        "quasi-elk": DiagonalFilter(signs, clip),
    }[which]
    changes = {"jacobian": part}
    if rng.random() < 0.6:
        changes["damping"] = Kalman(float(10 ** rng.uniform(-4, 8)))
    if rng.random() < 0.5:
        changes["selection"] = AllRows()
    composition = attrs.evolve(base, window=int(rng.choice([1, 2, 4, 8])), **changes)
    return BlockSampler(composition) if isinstance(part, (Blocks, BlocksFilter)) else Engine(composition)


def solve(case, sampler, evaluator=None, **options):
    evaluator = case.evaluator(jvp=True) if evaluator is None else evaluator
    return paracore.solve(sampler, case.problem, evaluator, **options)


@settings(max_examples=30)
@given(cases(dtypes=DTYPES, max_steps=8, max_batch=2), SEEDS, KINDS_OF_PART)
def test_tolerance_zero_is_the_sequential_sampler_bit_for_bit(case, seed, which):
    result = solve(case, random_sampler(seed, case, which), trajectory=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert {s.name for s in result.status} == {"EXACT"}
    assert (result.rounds <= result.steps).all()


@settings(max_examples=30)
@given(cases(dtypes=DTYPES, max_steps=10), SEEDS, KINDS_OF_PART)
def test_at_most_n_rounds_and_finite_samples_at_any_tolerance(case, seed, which):
    counting = Counting(case.evaluator(max_batch=None, jvp=True))
    result = solve(case, random_sampler(seed, case, which, tolerance=None), counting)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.sample).all()
    evaluations = np.zeros(case.problem.batch, dtype=int)
    for _, samples in counting.requests:
        evaluations += np.bincount(samples, minlength=case.problem.batch)
    np.testing.assert_array_equal(evaluations, result.evaluations)
    assert len(counting.requests) == result.total_rounds
    assert result.largest_request == max(len(nodes) for nodes, _ in counting.requests)


@settings(max_examples=12)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES), KINDS_OF_PART)
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype, which):
    case = random_case(seed, kind=kind, steps=5, batch=2, dtype=dtype)
    sampler = random_sampler(seed, case, which, tolerance=None, adversarial=0.2)
    together = solve(case, sampler, trajectory=True)
    for b in range(2):
        alone = solve(case.alone(b), sampler, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        for name in ("rounds", "evaluations", "front", "residual", "interpolated"):
            assert getattr(alone, name)[0] == getattr(together, name)[b], name


@settings(max_examples=12)
@given(cases(dtypes=DTYPES, max_steps=6, max_batch=2, lockstep=True), SEEDS, KINDS_OF_PART)
def test_lockstep_problems_stay_exact(case, seed, which):
    result = solve(case, random_sampler(seed, case, which), trace=True)
    assert torch.equal(result.sample, case.reference())
    assert all(len(set(t.front.tolist())) == 1 for t in result.trace)


@settings(max_examples=8)
@given(SEEDS, KINDS_OF_PART, st.booleans())
def test_a_checkpoint_between_any_two_requests_gives_the_same_bits(tmp_path_factory, seed, which, exact):
    case = random_case(seed, steps=5, batch=2, dtype=DTYPES[seed % 3])
    sampler = random_sampler(seed, case, which, tolerance=0.0 if exact else None)
    evaluator, path = case.evaluator(jvp=True), tmp_path_factory.mktemp("state") / "state.pt"
    unbroken = solve(case, sampler, evaluator)
    state = sampler.start(case.problem)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), path)
        state = sampler.restore(case.problem, paracore.load_checkpoint(path))
        again = sampler.request(state)
        assert torch.equal(again.states, request.states)
        assert torch.equal(again.tangents, request.tangents)
        state = sampler.advance(state, evaluator.evaluate(request))
    resumed = sampler.result(state)
    assert torch.equal(resumed.sample, unbroken.sample)
    np.testing.assert_array_equal(resumed.evaluations, unbroken.evaluations)
    np.testing.assert_array_equal(resumed.rounds, unbroken.rounds)


def test_a_checkpoint_of_another_composition_is_refused():
    case = make_case(flow_euler(4), batch=1)
    first, second = paracore.sampler("elk", variance=3.0), paracore.sampler("elk", variance=4.0)
    data = first.plain(first.start(case.problem))
    with pytest.raises(CheckpointError, match=r"variance=3.0"):
        second.restore(case.problem, data)


@settings(max_examples=10)
@given(cases(max_steps=6, max_batch=2), SEEDS, KINDS_OF_PART)
def test_the_facts_hold_on_finite_differences(case, seed, which):
    result = solve(case, random_sampler(seed, case, which), finite_differences(case.evaluator()))
    assert torch.equal(result.sample, case.reference())
    assert (result.rounds <= result.steps).all()


class Wild:
    """Values and products of nonsense away from the front."""

    capabilities = frozenset({"jvp"})

    def __init__(self, case, seed):
        self.inner, self.seed, self.calls = case.evaluator(jvp=True), seed, 0

    def evaluate(self, request):
        self.calls += 1
        outputs = self.inner.evaluate(request)
        values, jvps = outputs.values.clone(), outputs.jvps.clone()
        front = {int(b): int(request.nodes[request.samples == b].min()) for b in request.samples.unique()}
        for i, (node, sample) in enumerate(zip(request.nodes.tolist(), request.samples.tolist(), strict=True)):
            rng = np.random.default_rng([self.seed, self.calls, node, sample])  # copies of a row agree
            noise = [np.nan, np.inf, -np.inf, 1e30, 0.0]
            if rng.random() < 0.4:
                jvps[i] = float(rng.choice(noise))
            if node > front[sample] and rng.random() < 0.2:
                values[i] = float(rng.choice(noise[:3]))
        return paracore.Outputs(values, jvps, outputs.calls)


@settings(max_examples=20)
@given(cases(dtypes=DTYPES, max_steps=6, max_batch=2), SEEDS, KINDS_OF_PART)
def test_wild_values_and_products_leave_the_exact_chain_right(case, seed, which):
    result = solve(case, random_sampler(seed, case, which), Wild(case, seed))
    assert torch.equal(result.sample, case.reference())
    assert (result.rounds <= result.steps).all()
