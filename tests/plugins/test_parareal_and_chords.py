"""The facts that hold for every sampler, for the two that are no compositions (docs: mathematics, section 4)."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import paracore
from paracore.checkpoint import load_checkpoint, save_checkpoint
from paracore.errors import CheckpointError, SolveInterrupted
from paracore.status import Status
from paracore.testing.given import cases
from paracore.testing.problems import KINDS, Counting, make_case, random_case

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
NORMS = ("l1", "rms", "max", "relative", "l2-over-size")
SEEDS = st.integers(0, 2**31 - 1)
TOLERANCES = (0.0, 1e-6, 1e-3, 0.1, 10.0)


def examples(count):
    return settings(max_examples=count)


def random_sampler(seed, steps, tolerance=None):
    """One of the two with random options that fit N steps."""
    rng = np.random.default_rng([seed, steps])
    chosen = float(rng.choice(TOLERANCES[1:])) if tolerance is None else tolerance
    options = {"tolerance": chosen, "norm": str(rng.choice(NORMS))}
    if rng.random() < 0.5:
        blocks = int(rng.integers(1, steps + 1)) if rng.random() < 0.7 else None
        shortest = steps // (blocks or max(1, round(steps**0.5)))
        window = int(rng.integers(1, 9)) if rng.random() < 0.5 else None
        return paracore.sampler(
            "srds", blocks=blocks, coarse=int(rng.integers(1, shortest + 1)), window=window, **options
        )
    stop = str(rng.choice(["core-index", "residual"]))
    if rng.random() < 0.5:
        rest = sorted(rng.choice(np.arange(1, steps), size=int(rng.integers(0, steps)), replace=False).tolist())
        index = int(rng.integers(0, len(rest) + 2))
        return paracore.sampler("chords", starts=[0, *rest], stop=stop, index=index, **options)
    cores = int(rng.integers(1, 11))
    options |= {"index": int(rng.integers(0, cores + 1)), "rule": str(rng.choice(["even", "greedy"]))}
    return paracore.sampler("chords", cores=cores, stop=stop, **options)


def solve(case, sampler, evaluator=None, **options):
    return paracore.solve(sampler, case.problem, evaluator or case.evaluator(), **options)


def drive(sampler, state, evaluator, rounds=None):
    while rounds != 0 and (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        rounds = None if rounds is None else rounds - 1
    return state


def same(a, b):
    assert torch.equal(a.sample, b.sample)
    assert a.status == b.status
    if a.trajectory is not None:
        assert torch.equal(a.trajectory, b.trajectory)
    for name in ("front", "rounds", "evaluations", "residual"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("network_calls", "total_rounds", "largest_request", "steps"):
        assert getattr(a, name) == getattr(b, name)
    for x, y in zip(a.trace or (), b.trace or (), strict=True):
        for field in attrs.fields(type(x)):
            np.testing.assert_array_equal(getattr(x, field.name), getattr(y, field.name))


@examples(40)
@given(cases(dtypes=DTYPES, max_steps=16), SEEDS)
def test_tolerance_zero_is_the_sequential_sampler_bit_for_bit(case, seed):
    sampler = random_sampler(seed, case.problem.scheme.steps, tolerance=0.0)
    result = solve(case, sampler, trajectory=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert torch.equal(result.sample, result.trajectory[-1])
    assert {s.name for s in result.status} == {"EXACT"}
    assert (result.rounds == result.steps).all()
    assert not result.residual.any()


@pytest.mark.slow
@examples(600)
@given(cases(dtypes=DTYPES, max_steps=30, max_batch=5), SEEDS)
def test_tolerance_zero_at_length(case, seed):
    test_tolerance_zero_is_the_sequential_sampler_bit_for_bit.hypothesis.inner_test(case, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [14, pytest.param(25, marks=pytest.mark.slow)])
def test_every_kind_of_scheme(kind, dtype, steps):
    case = random_case(3, kind=kind, steps=steps, batch=2, dtype=dtype)
    scale = float(case.reference().double().abs().max())
    for name in ("srds", "srds(window=4)", "srds(blocks=3,coarse=2)", "chords", "chords(cores=3)"):
        exact = solve(case, paracore.sampler(name, tolerance=0))
        assert torch.equal(exact.sample, case.reference())
        assert exact.total_rounds == case.problem.scheme.steps
        loose = solve(case, paracore.sampler(name, tolerance=scale * 1e-2))
        assert loose.ok
        assert torch.isfinite(loose.sample).all()


@examples(50)
@given(cases(dtypes=DTYPES, max_steps=16), SEEDS)
def test_at_most_n_rounds_and_finite_samples_with_any_options(case, seed):
    sampler = random_sampler(seed, case.problem.scheme.steps)
    counting = Counting(case.evaluator())
    result = solve(case, sampler, counting, trajectory=True)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.trajectory).all()
    assert torch.equal(result.trajectory[-1], result.sample)
    assert (result.front == result.steps).all()
    assert result.largest_request == max(len(nodes) for nodes, _ in counting.requests)
    for nodes, samples in counting.requests:
        assert max(nodes) < result.steps
        if sampler.window is not None:
            assert np.bincount(samples).max() <= sampler.window


@pytest.mark.slow
@examples(500)
@given(cases(dtypes=DTYPES, max_steps=30, max_batch=5), SEEDS)
def test_any_options_at_length(case, seed):
    test_at_most_n_rounds_and_finite_samples_with_any_options.hypothesis.inner_test(case, seed)


@examples(20)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES), st.integers(2, 20))
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype, steps):
    case = random_case(seed, kind=kind, steps=steps, batch=3, dtype=dtype)
    sampler = random_sampler(seed, case.problem.scheme.steps)
    together = solve(case, sampler, trajectory=True)
    for b in range(3):
        alone = solve(case.alone(b), sampler, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        for name in ("rounds", "evaluations", "front", "residual"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[b])
        assert alone.status[0] == together.status[b]


@pytest.mark.slow
@examples(150)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES), st.integers(2, 30))
def test_batch_mates_at_length(seed, kind, dtype, steps):
    test_a_sample_does_not_depend_on_its_batch_mates.hypothesis.inner_test(seed, kind, dtype, steps)


@examples(40)
@given(cases(dtypes=DTYPES, lockstep=True), SEEDS, st.booleans())
def test_lockstep_samples_share_their_nodes(case, seed, exact):
    sampler = random_sampler(seed, case.problem.scheme.steps, tolerance=0.0 if exact else None)
    counting = Counting(case.evaluator())
    result = solve(case, sampler, counting, trace=True)
    if exact:
        assert torch.equal(result.sample, case.reference())
    assert len(set(result.rounds.tolist())) == len(set(result.status)) == 1
    assert all(len(set(t.front.tolist())) == 1 for t in result.trace)
    for nodes, samples in counting.requests:
        assert sorted(set(samples)) == list(range(case.problem.batch))
        for node in set(nodes):
            asked = [s for n, s in zip(nodes, samples, strict=True) if n == node]
            assert len(set(np.bincount(asked, minlength=case.problem.batch).tolist())) == 1


@examples(40)
@given(cases(max_batch=3, max_steps=16), SEEDS)
def test_finished_samples_leave_the_request(case, seed):
    counting = Counting(case.evaluator())
    result = solve(case, random_sampler(seed, case.problem.scheme.steps), counting)
    last, rounds, evaluations = (np.zeros(case.problem.batch, dtype=int) for _ in range(3))
    for k, (_, samples) in enumerate(counting.requests):
        for b in set(samples):
            rounds[b] += 1
            last[b] = k
            evaluations[b] += samples.count(b)
    np.testing.assert_array_equal(rounds, result.rounds)
    np.testing.assert_array_equal(last + 1, rounds)
    np.testing.assert_array_equal(evaluations, result.evaluations)
    assert len(counting.requests) == result.total_rounds
    assert counting.calls == result.network_calls


@examples(25)
@given(cases(dtypes=DTYPES), SEEDS)
def test_determinism_and_the_callers_tensors(case, seed):
    sampler = random_sampler(seed, case.problem.scheme.steps)
    x0 = case.problem.x0.clone()
    generators = [g.get_state() for g in case.problem.generator or []]
    same(solve(case, sampler, trajectory=True, trace=True), solve(case, sampler, trajectory=True, trace=True))
    assert torch.equal(case.problem.x0, x0)
    for g, before in zip(case.problem.generator or [], generators, strict=True):
        assert torch.equal(g.get_state(), before)


# -- checkpoints and interruptions --------------------------------------------------------------------------------


@examples(12)
@given(SEEDS, st.sampled_from([0.0, None]), st.booleans(), st.booleans())
def test_between_any_two_requests_lies_a_checkpoint(tmp_path_factory, seed, tolerance, lockstep, kept):
    case = random_case(seed, lockstep=lockstep, dtype=DTYPES[seed % 3])
    sampler = random_sampler(seed, case.problem.scheme.steps, tolerance)
    evaluator, path = case.evaluator(), tmp_path_factory.mktemp("state") / "state.pt"
    options = {"trajectory": kept, "trace": kept, "preview": kept}
    unbroken = sampler.result(drive(sampler, sampler.start(case.problem, **options), evaluator))
    state = sampler.start(case.problem, **options)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), path)
        state = sampler.restore(case.problem, load_checkpoint(path))
        assert torch.equal(sampler.request(state).states, request.states)
        state = sampler.advance(state, evaluator.evaluate(request))
    save_checkpoint(sampler.plain(state), path)
    same(sampler.result(sampler.restore(case.problem, load_checkpoint(path))), unbroken)


@pytest.mark.slow
@examples(150)
@given(SEEDS, st.sampled_from([0.0, None]), st.booleans(), st.booleans())
def test_checkpoints_at_length(tmp_path_factory, seed, tolerance, lockstep, kept):
    again = test_between_any_two_requests_lies_a_checkpoint.hypothesis.inner_test
    again(tmp_path_factory, seed, tolerance, lockstep, kept)


@pytest.mark.parametrize("name", ["srds", "chords"])
def test_a_checkpoint_of_something_else_is_refused(name):
    case = random_case(12, kind="ddpm", steps=8, batch=2)
    sampler, evaluator = paracore.sampler(name, tolerance=1e-2), case.evaluator()
    data = sampler.plain(drive(sampler, sampler.start(case.problem, trace=True), evaluator, 2))
    with pytest.raises(CheckpointError, match=r"was made by (SRDS|Chords)\(.*this sampler is"):
        paracore.sampler(name, tolerance=1e-1).restore(case.problem, data)
    with pytest.raises(CheckpointError, match="another problem"):
        sampler.restore(attrs.evolve(case.problem, x0=case.problem.x0 + 1), data)
    for key in ("tracks", "memory", "front", "final", "tape", "trace"):
        with pytest.raises(CheckpointError):
            sampler.restore(case.problem, {k: v for k, v in data.items() if k != key})
    for key, value in {"final": 3, "tape": None, "trace": 1, "extra": 1}.items():
        with pytest.raises(CheckpointError, match="damaged"):
            sampler.restore(case.problem, {**data, key: value})
    with pytest.raises(CheckpointError, match=r"samples are \(1,"):
        sampler.restore(case.problem, {**data, "final": data["final"][:1]})


class Interrupting:
    """Raises ``KeyboardInterrupt`` before its n-th answer."""

    def __init__(self, inner, at):
        self.inner, self.left, self.capabilities = inner, at, inner.capabilities

    def evaluate(self, request):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.inner.evaluate(request)


@examples(20)
@given(SEEDS, st.integers(0, 12), st.sampled_from([0.0, None]))
def test_an_interrupted_run_gives_what_was_accepted_and_goes_on(seed, at, tolerance):
    case = random_case(seed)
    sampler = random_sampler(seed, case.problem.scheme.steps, tolerance)
    options = {"trajectory": True, "trace": True}
    unbroken = solve(case, sampler, **options)
    assume(at < unbroken.total_rounds)
    with pytest.raises(SolveInterrupted) as stop:
        solve(case, sampler, Interrupting(case.evaluator(), at), **options)
    partial, truth = stop.value.result, case.reference(trajectory=True)
    assert partial.total_rounds == at
    for b, front in enumerate(partial.front):
        if front == partial.steps:
            assert partial.status[b] is unbroken.status[b]
            assert torch.equal(partial.sample[b], unbroken.sample[b])
        else:
            assert partial.status[b] is Status.INTERRUPTED
            assert torch.equal(partial.sample[b], truth[front, b])
            assert torch.equal(partial.trajectory[: front + 1, b], truth[: front + 1, b])
            assert not partial.trajectory[front + 1 :, b].any()
    same(solve(case, sampler, state=stop.value.state), unbroken)


@pytest.mark.slow
@examples(200)
@given(SEEDS, st.integers(0, 12), st.sampled_from([0.0, None]))
def test_interruptions_at_length(seed, at, tolerance):
    test_an_interrupted_run_gives_what_was_accepted_and_goes_on.hypothesis.inner_test(seed, at, tolerance)


@pytest.mark.parametrize("seed", range(8))
def test_advancing_twice_from_one_state_gives_the_same(seed):
    case = random_case(seed, kind=["ddpm", "multistep", "flow", "heun"][seed % 4], steps=14, batch=2)
    sampler, evaluator = random_sampler(seed, case.problem.scheme.steps), case.evaluator()
    state = sampler.start(case.problem, trajectory=True)
    while (request := sampler.request(state)) is not None:
        outputs = evaluator.evaluate(request)
        sampler.advance(state, outputs)
        state = sampler.advance(state, outputs)
    same(sampler.result(state), solve(case, sampler, trajectory=True))


# -- non-finite numbers -------------------------------------------------------------------------------------------


class Poisoned:
    """Answers some rows with nonsense, never those of the exact chain (the rows at a request's first node)."""

    def __init__(self, inner, seed, chance, value):
        self.inner, self.capabilities = inner, inner.capabilities
        self.rng, self.chance, self.value = np.random.default_rng(seed), chance, value
        self.hit = 0

    def evaluate(self, request):
        outputs = self.inner.evaluate(request)
        first = int((request.nodes == request.nodes[0]).long().cumprod(0).sum())
        values = outputs.values.clone()
        for row in range(min(first, len(set(request.samples.tolist()))), len(values)):
            if self.rng.random() < self.chance:
                values[row], self.hit = self.value, self.hit + 1
        return attrs.evolve(outputs, values=values)


@examples(40)
@given(
    cases(dtypes=DTYPES, max_steps=20),
    SEEDS,
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([float("nan"), float("inf"), -1e38]),
    st.sampled_from([0.0, None]),
)
def test_elsewhere_than_at_the_front_nonsense_is_contained(case, seed, chance, value, tolerance):
    sampler = random_sampler(seed, case.problem.scheme.steps, tolerance)
    counting = Counting(case.evaluator(), keep=True)
    poisoned = Poisoned(counting, seed, chance, value)
    result = solve(case, sampler, poisoned, raise_on_failure=False, trajectory=True)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert all(torch.isfinite(states).all() for states in counting.states)
    assert torch.isfinite(result.sample).all()
    for b, status in enumerate(result.status):
        if status is Status.EXACT:
            assert torch.equal(result.sample[b], case.reference()[b])
    if chance == 1.0 and value != -1e38:
        # A coarse shot that was asked for may be all there is; else only the exact chain is left.
        shot = getattr(sampler, "stop", None) == "core-index" and sampler.index == 0
        assert shot or set(result.status) == {Status.EXACT}


@examples(30)
@given(cases(max_steps=20, lockstep=True), SEEDS, st.sampled_from([0.05, 0.3]))
def test_in_lockstep_a_track_ends_for_all_samples_or_for_none(case, seed, chance):
    sampler = random_sampler(seed, case.problem.scheme.steps)
    counting = Counting(case.evaluator())
    result = solve(case, sampler, Poisoned(counting, seed, chance, float("nan")))
    assert len(set(result.status)) == 1
    for nodes, samples in counting.requests:
        for node in set(nodes):
            asked = [s for n, s in zip(nodes, samples, strict=True) if n == node]
            assert len(set(np.bincount(asked, minlength=case.problem.batch).tolist())) == 1


@pytest.mark.parametrize("name", ["srds", "chords", "srds(window=3)"])
@pytest.mark.parametrize("lockstep", [False, True])
def test_at_the_front_the_sample_ends_and_the_others_do_not_notice(name, lockstep):
    case = random_case(4, kind="ddpm", steps=16, batch=3, lockstep=lockstep)
    sampler = paracore.sampler(name, tolerance=1e-7)
    truth = case.reference(trajectory=True)

    class Broken:
        capabilities = frozenset()

        def evaluate(self, request):
            outputs = case.evaluator().evaluate(request)
            values = outputs.values.clone()
            values[(request.nodes == 5) & (request.samples == 1)] = float("nan")
            return attrs.evolve(outputs, values=values)

    result = solve(case, sampler, Broken(), raise_on_failure=False, trajectory=True)
    assert result.status[1] is Status.NONFINITE_OUTPUT
    assert result.front[1] == 5
    assert torch.equal(result.sample[1], truth[5, 1])
    assert torch.equal(result.trajectory[:6, 1], truth[:6, 1])
    assert not result.trajectory[6:, 1].any()
    assert result.rounds[1] == 6
    if not lockstep:
        whole = solve(case, sampler, trajectory=True)
        for b in (0, 2):
            assert result.status[b] is whole.status[b]
            assert torch.equal(result.trajectory[:, b], whole.trajectory[:, b])
            assert result.evaluations[b] == whole.evaluations[b]


@pytest.mark.parametrize("name", ["srds", "chords"])
def test_a_step_that_overflows_ends_the_sample(name):
    case = make_case(paracore.schemes.flow_euler(9), batch=2)
    scheme = paracore.schemes.Scheme.create(
        np.ones(9), np.array([0.1] * 4 + [1e308] + [0.1] * 4), np.linspace(1, 0, 9, endpoint=False)
    )
    problem = attrs.evolve(case.problem, scheme=scheme)

    class Big:
        capabilities = frozenset()

        def evaluate(self, request):
            return paracore.Outputs(torch.full_like(request.states, 100.0))

    result = paracore.solve(paracore.sampler(name), problem, Big(), raise_on_failure=False)
    assert set(result.status) == {Status.NONFINITE_STATE}
    assert result.front.tolist() == [4, 4]
    assert torch.isfinite(result.sample).all()


# -- what is shown on the way -------------------------------------------------------------------------------------


class Watching(paracore.Observer):
    wants_preview = True

    def __init__(self):
        self.events = []

    def round_finished(self, event):
        self.events.append(event)


@pytest.mark.parametrize("name", ["srds", "chords(index=2)"])
def test_previews_are_the_data_prediction_and_then_complete_samples(name):
    case = make_case(paracore.schemes.flow_euler(25), batch=2, dim=3)
    watching = Watching()
    result = solve(case, paracore.sampler(name), observers=[watching])
    assert all(e.preview.shape == result.sample.shape for e in watching.events)
    assert torch.equal(watching.events[-1].preview, result.sample)
    assert watching.events[-1].front.tolist() == [25, 25]
    plain = attrs.evolve(case.problem, scheme=attrs.evolve(case.problem.scheme, levels=None))
    watching = Watching()
    paracore.solve(paracore.sampler(name), plain, case.evaluator(), observers=[watching])
    assert all(e.preview is None for e in watching.events)


@pytest.mark.parametrize("name", ["srds", "chords"])
def test_the_trace_says_which_nodes_were_evaluated(name):
    case = random_case(7, kind="multistep", steps=25, batch=2)
    counting = Counting(case.evaluator())
    result = solve(case, paracore.sampler(name), counting, trace=True)
    assert len(result.trace) == result.total_rounds
    np.testing.assert_array_equal(sum(t.accepted for t in result.trace), result.front)
    for trace, (nodes, samples) in zip(result.trace, counting.requests, strict=True):
        for b in range(2):
            found = set((np.flatnonzero(trace.evaluated[:, b]) + trace.front.max()).tolist())
            assert found == {n for n, s in zip(nodes, samples, strict=True) if s == b}


@pytest.mark.parametrize("window", [2, 3])
def test_the_trace_leaves_out_what_a_narrow_window_let_fall_behind(window):
    """Tasks that the exact chain has overtaken are still evaluated, at nodes before the front."""
    case = make_case(paracore.schemes.flow_euler(13), batch=2)
    counting = Counting(case.evaluator())
    result = solve(case, paracore.sampler("srds", coarse=2, window=window, tolerance=1e-9), counting, trace=True)
    behind = 0
    for trace, (nodes, _) in zip(result.trace, counting.requests, strict=True):
        ahead = {n for n in nodes if n >= trace.front.max()}
        behind += len(set(nodes) - ahead)
        assert set((np.flatnonzero(trace.evaluated[:, 0]) + trace.front.max()).tolist()) == ahead
    assert behind > 0


def test_memory_does_not_grow_with_the_number_of_iterations():
    """Ingredients are let go once they have been used."""
    case = make_case(paracore.schemes.flow_euler(100), batch=1, dim=2)
    sampler, evaluator = paracore.sampler("srds", tolerance=0), case.evaluator()
    state = sampler.start(case.problem)
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        kept = [len(state.memory[name]) for name in ("fine", "coarse", "sound")]
        assert sum(kept) <= 6 * 10
        assert len(state.tracks) <= 12
