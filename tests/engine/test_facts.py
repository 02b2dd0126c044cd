"""The facts that hold for every composition, adversarial ones too (docs: mathematics, section 4)."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.engine import Engine
from paracore.parts import AbsoluteChange, AllRows, Copy, EveryKth, Hold, LookAhead, WarmStart
from paracore.schemes import flow_euler
from paracore.testing.adversarial import BadJacobian, BadSelection, BadStopping, ConstantDamping, random_composition
from paracore.testing.given import cases, pairs
from paracore.testing.problems import KINDS, Counting, exponential_scheme, make_case, random_case
from paracore.window import per_sample

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
SEEDS = st.integers(0, 2**31 - 1)


def solve(case, composition, evaluator=None, **options):
    evaluator = case.evaluator(jvp=True) if evaluator is None else evaluator
    return paracore.solve(Engine(composition), case.problem, evaluator, **options)


def picard(**options):
    options = {"residual": LookAhead(), "stopping": AbsoluteChange(), "initializer": Hold(), **options}
    return paracore.Composition(**{"selection": AllRows(), **options})


@settings(max_examples=120)
@given(pairs(cases(dtypes=DTYPES), tolerance=0.0))
def test_tolerance_zero_is_the_sequential_sampler_bit_for_bit(pair):
    case, composition = pair
    result = solve(case, composition, trajectory=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert torch.equal(result.sample, result.trajectory[-1])
    assert {s.name for s in result.status} == {"EXACT"}
    assert (result.rounds <= result.steps).all()
    assert not result.residual.any()
    assert not result.interpolated.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_scheme_at_tolerance_zero(kind, dtype):
    case = random_case(3, kind=kind, steps=12, batch=2, dtype=dtype)
    for window in (1, 4, 20):
        result = solve(case, picard(window=window, tolerance=0))
        assert torch.equal(result.sample, case.reference())
        assert result.rounds.max() <= case.problem.scheme.steps


def test_the_exact_chain_grows_faster_than_one_row_a_round():
    case = make_case(flow_euler(50), batch=1, dim=4, stiffness=0.5, dtype=torch.float32)
    assert solve(case, picard(window=50, tolerance=0)).total_rounds < 40


@settings(max_examples=120)
@given(pairs(cases(dtypes=DTYPES), tolerance=None))
def test_at_most_n_rounds_and_finite_samples_at_any_tolerance(pair):
    case, composition = pair
    counting = Counting(case.evaluator(jvp=True))
    result = solve(case, composition, counting)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.sample).all()
    assert (result.front == result.steps).all()
    for nodes, samples in counting.requests:
        assert len(set(zip(nodes, samples, strict=True))) == len(nodes)
        assert np.bincount(samples).max() <= composition.window


@settings(max_examples=40)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES), st.booleans())
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype, adversarial):
    case = random_case(seed, kind=kind, batch=3, dtype=dtype)
    composition = random_composition(seed, case.problem, tolerance=None, adversarial=0.4 if adversarial else 0.0)
    together = solve(case, composition, trajectory=True)
    for b in range(3):
        alone = solve(case.alone(b), composition, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        for name in ("rounds", "evaluations", "front", "residual", "interpolated"):
            assert getattr(alone, name)[0] == getattr(together, name)[b], name
        assert alone.status[0] == together.status[b]
        if alone.error_estimate is not None:
            np.testing.assert_array_equal(alone.error_estimate[0], together.error_estimate[b])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["multistep", "heun", "ddim-noise", "table-memory"])
@pytest.mark.parametrize("form", ["network", "data"])
@pytest.mark.parametrize("guess", ["hold", "linear"])
def test_ragged_fronts_do_not_couple_samples(dtype, kind, form, guess):
    case = random_case(11, kind=kind, steps=30, batch=4, dtype=dtype)
    options = {"initializer": guess, "output_form": form, "selection": "every-kth", "stopping": "change"}
    sampler = paracore.compose(window=6, tolerance=3e-2, **options)
    if kind == "table-memory" and form == "data":
        with pytest.raises(paracore.errors.SchemeError, match="needs noise levels"):
            sampler.start(case.problem)
        return
    together = paracore.solve(sampler, case.problem, case.evaluator())
    for b in range(4):
        alone = paracore.solve(sampler, case.alone(b).problem, case.alone(b).evaluator())
        assert torch.equal(alone.sample[0], together.sample[b])
        assert alone.rounds[0] == together.rounds[b]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_with_one_number_per_sample_round_alike_alone_and_together(dtype):
    values, x = np.array([0.3, 0.7, 0.7]), torch.linspace(-2, 2, 21, dtype=dtype).reshape(3, 7)
    together = (x + x * per_sample(values, x)).to(dtype)
    alone = [(x[b : b + 1] + x[b : b + 1] * per_sample(values[b : b + 1], x)).to(dtype) for b in range(3)]
    assert torch.equal(together, torch.cat(alone))


@settings(max_examples=40)
@given(cases(dtypes=DTYPES, lockstep=True), SEEDS)
def test_lockstep_samples_share_their_front_and_stay_exact(case, seed):
    composition = random_composition(seed, case.problem, tolerance=0.0)
    counting = Counting(case.evaluator(jvp=True))
    result = solve(case, composition, counting, trace=True)
    assert torch.equal(result.sample, case.reference())
    assert all(len(set(t.front.tolist())) == 1 for t in result.trace)
    for nodes, samples in counting.requests:  # every node asked for is asked for all samples
        assert all(
            sorted(s for n, s in zip(nodes, samples, strict=True) if n == node) == sorted(set(samples))
            for node in nodes
        )
        assert sorted(set(samples)) == list(range(case.problem.batch))


@settings(max_examples=30)
@given(pairs(cases(dtypes=DTYPES), tolerance=None))
def test_determinism(pair):
    case, composition = pair
    first, second = (solve(case, composition, trajectory=True) for _ in range(2))
    assert torch.equal(first.trajectory, second.trajectory)
    assert first.as_dict() | {"wall_time_s": 0, "solver_time_s": 0} == second.as_dict() | {
        "wall_time_s": 0,
        "solver_time_s": 0,
    }


@pytest.mark.parametrize("kind", ["flow", "multistep", "ddpm"])
def test_lockstep_samples_move_with_the_slowest(kind):
    """The same samples with fronts of their own do not move alike."""
    fronts = {}
    for lockstep in (False, True):
        case = random_case(0, kind=kind, steps=14, batch=3, lockstep=lockstep)
        result = solve(case, picard(window=5, tolerance=3e-2), trace=True)
        fronts[lockstep] = [set(t.front.tolist()) for t in result.trace]
        assert result.ok
    assert any(len(front) > 1 for front in fronts[False])
    assert all(len(front) == 1 for front in fronts[True])


def test_the_callers_tensors_and_generators_are_left_alone():
    case = random_case(5, kind="ddpm", steps=8, batch=2)
    x0, seeds = case.problem.x0.clone(), [g.get_state() for g in case.problem.generator]
    solve(case, picard(window=4, tolerance=0))
    assert torch.equal(case.problem.x0, x0)
    assert all(torch.equal(g.get_state(), s) for g, s in zip(case.problem.generator, seeds, strict=True))


@settings(max_examples=30)
@given(cases(max_batch=3), SEEDS)
def test_finished_samples_leave_the_request(case, seed):
    counting = Counting(case.evaluator(jvp=True))
    result = solve(case, random_composition(seed, case.problem, tolerance=None), counting)
    rounds = np.zeros(case.problem.batch, dtype=int)
    evaluations = np.zeros(case.problem.batch, dtype=int)
    last = np.zeros(case.problem.batch, dtype=int)
    for k, (_, samples) in enumerate(counting.requests):
        for b in set(samples):
            rounds[b] += 1
            last[b] = k
            evaluations[b] += samples.count(b)
    np.testing.assert_array_equal(rounds, result.rounds)
    np.testing.assert_array_equal(last + 1, rounds)  # no sample comes back after it left
    np.testing.assert_array_equal(evaluations, result.evaluations)
    assert len(counting.requests) == result.total_rounds


@settings(max_examples=40)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.floats(1e-4, 1.0), st.integers(1, 4))
def test_what_is_accepted_was_tested(seed, kind, tolerance, stride):
    """Rebuild each accepted step from recorded outputs: evaluated within the tolerance of the accepted state."""
    case = random_case(seed, kind=kind, batch=1)
    scheme = case.problem.scheme
    counting = Counting(case.evaluator(), keep=True)
    composition = picard(window=4, tolerance=tolerance, selection=EveryKth(stride) if stride > 1 else AllRows())
    result = solve(case, composition, counting, trajectory=True)
    seen = {}
    for (nodes, _), states in zip(counting.requests, counting.states, strict=True):
        for node, state in zip(nodes, states, strict=True):
            seen.setdefault(node, []).append(state[None])
    tape, states, outputs, missing = case.problem.tape(), [case.problem.x0], [], 0
    worst = 0.0
    # Which evaluation was used is found by its distance from the accepted state being the closest of all that fit.
    for node in range(scheme.steps):
        target = result.trajectory[node + 1]
        fitting = None
        for anchor in seen.get(node, []):
            time = torch.full((1,), float(scheme.time[node]), dtype=torch.float64)
            f = case.network(anchor, time, _rows(node))
            history = [f, *outputs][: scheme.memory + 1]
            if torch.equal(scheme.step(node, states[: scheme.memory + 1], history, tape.row(node)), target):
                gap = float((anchor - states[0]).pow(2).mean().sqrt())
                fitting = (gap, f) if fitting is None or gap < fitting[0] else fitting
        if fitting is None:
            missing += 1
            break  # an interpolated output: what follows in a multistep table cannot be rebuilt
        worst = max(worst, fitting[0])
        states, outputs = [target, *states][: scheme.memory + 1], [fitting[1], *outputs][: scheme.memory + 1]
    if missing == 0:
        assert result.residual[0] == pytest.approx(worst, rel=1e-6, abs=1e-12)
    assert result.residual[0] <= tolerance * (1 + 1e-9)
    if missing:
        assert result.interpolated[0] > 0
    if stride == 1:
        assert missing == 0
        assert result.interpolated[0] == 0


def _rows(node):
    return paracore.Rows(node=torch.tensor([node]), sample=torch.tensor([0]))


@settings(max_examples=60)
@given(pairs(cases(), tolerance=None), SEEDS)
def test_only_a_prefix_up_to_the_last_evaluated_row_is_accepted(pair, seed):
    case, composition = pair
    composition = attrs.evolve(
        composition, stopping=BadStopping(seed, 0.8), selection=BadSelection("random", seed, 0.4, 2)
    )
    result = solve(case, composition, trace=True)
    for entry in result.trace:
        for b, accepted in enumerate(entry.accepted):
            if accepted > 1:
                assert accepted <= _last_known(result.trace, entry, b)


def _last_known(trace, entry, b):
    """One past the last row that was ever evaluated, counted from this entry's front."""
    known = 0
    for earlier in trace:
        rows = np.flatnonzero(earlier.evaluated[:, b])
        if len(rows):
            known = max(known, int(earlier.front[b] + rows[-1] + 1))
        if earlier is entry:
            break
    return known - int(entry.front[b])


def _storages(state):
    found = {}

    def walk(value):
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, (list, tuple)):
            for v in value:
                walk(v)
        elif isinstance(value, dict):
            for v in value.values():
                walk(v)

    for field in attrs.fields(type(state)):
        if field.name not in ("problem", "tape", "trajectory"):
            walk(getattr(state, field.name))
    walk(list(state.tape._rows.values()))
    return sum(found.values())


@pytest.mark.parametrize("kind", ["flow", "multistep", "ddpm", "table-noise"])
@pytest.mark.parametrize("seed", range(4))
def test_memory_of_a_few_windows(kind, seed):
    case = random_case(seed, kind=kind, steps=30, batch=2)
    window = 5
    composition = attrs.evolve(
        random_composition(seed, case.problem, tolerance=[0.0, None][seed % 2], adversarial=0.5), window=window
    )
    sampler, evaluator = Engine(composition), case.evaluator()
    state = sampler.start(case.problem)
    rows = composition.selection.span(window, case.problem.scheme.steps) + 1 + case.problem.scheme.memory
    unit = case.problem.x0.numel() * case.problem.x0.element_size()
    while (request := sampler.request(state)) is not None:
        assert _storages(state) <= 6 * rows * unit
        state = sampler.advance(state, evaluator.evaluate(request))
    assert state.trajectory is None
    assert state.trace is None


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_rows_that_are_seldom_evaluated_do_not_keep_old_requests_alive(chance):
    case = make_case(flow_euler(40), batch=2, dim=4)
    parts = {"selection": BadSelection("zero", 1, chance, 0), "damping": ConstantDamping(0.2)}
    sampler = Engine(picard(window=16, tolerance=0, **parts))
    state, evaluator = sampler.start(case.problem), case.evaluator()
    window = 17 * case.problem.x0.numel() * case.problem.x0.element_size()
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        assert _storages(state) <= 5 * window


@settings(max_examples=25)
@given(st.integers(2, 20), st.integers(1, 25), st.integers(0, 6), st.floats(0, 1e-2))
def test_warmup_rounds_evaluate_the_front_alone(steps, window, warmup, tolerance):
    case = make_case(exponential_scheme(steps), batch=2, stiffness=0.5)
    counting = Counting(case.evaluator())
    result = solve(case, picard(window=window, warmup=warmup, tolerance=tolerance, initializer=Copy()), counting)
    for k, (nodes, _) in enumerate(counting.requests[:warmup]):
        assert nodes == [k, k]
    assert result.rounds.max() <= steps


def test_a_response_where_nothing_moved_does_not_reach_exact_rows():
    """Guesses from the exact trajectory: every row is evaluated at its final state, whatever the Jacobian part says."""
    case = make_case(flow_euler(12), batch=2, stiffness=1.0)
    exact = WarmStart(case.reference(trajectory=True))
    for jacobian in (BadJacobian("random", with_solve=False), BadJacobian("huge", with_solve=False)):
        result = solve(case, picard(window=4, tolerance=0, initializer=exact, jacobian=jacobian))
        assert torch.equal(result.sample, case.reference())
        assert result.rounds.tolist() == [3, 3]


def test_constant_damping_slows_but_keeps_the_answer():
    case = make_case(flow_euler(30), batch=1, dim=4, stiffness=0.5, dtype=torch.float32)
    plain = solve(case, picard(window=30, tolerance=0))
    damped = solve(case, picard(window=30, tolerance=0, damping=ConstantDamping(1.0)))
    assert torch.equal(plain.sample, damped.sample)
    assert plain.total_rounds < damped.total_rounds <= 30


@pytest.mark.slow
@settings(max_examples=700)
@given(pairs(cases(dtypes=DTYPES, max_steps=30, max_batch=5), tolerance=0.0))
def test_tolerance_zero_at_length(pair):
    case, composition = pair
    assert torch.equal(solve(case, composition).sample, case.reference())


@pytest.mark.slow
@settings(max_examples=120)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES))
def test_batch_mates_at_length(seed, kind, dtype):
    case = random_case(seed, kind=kind, batch=4, steps=25, dtype=dtype)
    composition = random_composition(seed, case.problem, tolerance=None, adversarial=0.3)
    together = solve(case, composition)
    for b in range(4):
        alone = solve(case.alone(b), composition)
        assert torch.equal(alone.sample[0], together.sample[b])
        assert alone.rounds[0] == together.rounds[b]
