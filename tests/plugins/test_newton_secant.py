"""Block secants: against an independent transcription, and the facts that hold for every composition."""

from __future__ import annotations

from itertools import pairwise

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.checkpoint import save_checkpoint
from paracore.engine import Engine
from paracore.errors import ConfigurationError
from paracore.request import Rows
from paracore.schemes import ddim, ddpm, dpm_solver_pp_2m, flow_euler, flow_heun
from paracore.testing.adversarial import random_composition
from paracore.testing.given import cases
from paracore.testing.problems import KINDS, Counting, make_case, random_case
from paracore_newton import secant
from paracore_newton.secant import Secant
from reference.secant import Secants, response

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
SEEDS = st.integers(0, 2**31 - 1)
WHICH = st.sampled_from(["secant", "front", "mixed"])
SCHEMES = {
    "flow": lambda: flow_euler(10, shift=2.0),
    "ddim": lambda: ddim(10),
    "multistep": lambda: dpm_solver_pp_2m(10, family="flow"),
    "heun": lambda: flow_heun(5),
    "noise": lambda: ddpm(10),
}


# -- the transcription ----------------------------------------------------------------------------------------------


def plain_case(case, form):
    """Network, table and noise of a case with one sample, written in a form, as numpy."""
    problem = case.problem
    scheme, tape = problem.scheme, problem.tape()
    u, v = scheme.form_gain(form)
    zero = torch.zeros_like(problem.x0[0])
    noise = [tape.row(n) for n in range(scheme.steps)]
    c = [(zero if row is None else row[0]).numpy() for row in noise]

    def network(node, x):
        rows = Rows(node=torch.tensor([node]), sample=torch.tensor([0]))
        out = case.network(torch.from_numpy(x)[None], torch.tensor([scheme.time[node]]), rows)[0].numpy()
        return (out - u[node] * x) / v[node]

    table = scheme.in_form(form)
    return network, table.a, table.b, c, problem.x0[0].numpy()


def iterates(sampler, case):
    """``(front, states)`` before the first and after every round: node of row 0, and the rows of the one sample."""
    evaluator, state = case.evaluator(max_batch=None), sampler.start(case.problem)
    seen = [(int(state.at[0]), torch.stack(state.states)[:, 0].numpy())]
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        seen.append((int(state.at[0]), torch.stack(state.states)[:, 0].numpy()))
    return seen[:-1]  # a finished solve keeps the sample alone


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("memory", [1, 2, 4])
@pytest.mark.parametrize(("window", "form"), [(10, "network"), (4, "network"), (6, "data")])
@pytest.mark.parametrize("unseen", ["nearest", "held"])
def test_iterates_are_those_of_the_transcription(kind, linear, memory, window, form, unseen):
    case = make_case(SCHEMES[kind](), batch=1, dim=5, stiffness=0.8, linear=linear, seed=3)
    window = min(window, case.problem.scheme.steps)
    jacobian = f"secant(memory={memory}, unseen={unseen})"
    sampler = paracore.compose(jacobian=jacobian, window=window, tolerance=0.0, initializer="copy", output_form=form)
    seen = iterates(sampler, case)
    expected = Secants(*plain_case(case, form), window, memory, nearest=int(unseen == "nearest"))
    for (front, _), (following, states) in pairwise(seen):
        expected.round(front, following)
        wanted = np.stack(expected.x[following : following + len(states)])
        assert len(wanted) == len(states)
        assert np.abs(states - wanted).max() <= 1e-9 * np.abs(wanted).max()
    assert len(seen) > 3


def test_as_many_differences_as_directions_give_the_jacobian():
    rng = np.random.default_rng(0)
    jacobian, v = rng.normal(size=(3, 3)), rng.normal(size=3)
    pairs = [(x, jacobian @ x) for x in rng.normal(size=(4, 3))]
    np.testing.assert_allclose(response(pairs, v, 3, 1e-13), jacobian @ v, rtol=1e-8)


def test_where_outputs_move_with_their_states_secants_save_rounds():
    case = make_case(ddim(50), batch=2, dim=6, stiffness=6.0, linear=True, seed=1)
    rounds = {}
    for part in ("none", "secant"):
        sampler = paracore.compose(jacobian=part, window=16, tolerance=1e-3)
        rounds[part] = paracore.solve(sampler, case.problem, case.evaluator(max_batch=None)).rounds.mean()
    assert rounds["secant"] < 0.9 * rounds["none"]


def test_near_nodes_lend_their_differences():
    """On a linear network every node has the same Jacobian: nodes that were just seen respond as well as others."""
    case = make_case(flow_euler(50), batch=4, dim=6, stiffness=12.0, linear=True, seed=1)
    rounds = {}
    for unseen in ("nearest", "held"):
        sampler = paracore.compose(jacobian=f"secant(unseen={unseen})", window=8, tolerance=1e-2)
        rounds[unseen] = paracore.solve(sampler, case.problem, case.evaluator(max_batch=None)).rounds.mean()
    assert rounds["nearest"] < 0.9 * rounds["held"]


def test_nodes_borrow_from_the_nearest_one_before_them():
    usable = np.array([[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1, 0]], dtype=bool).T
    far = np.array([[-1, 1, 2, 2, 2, 2, 2], [-1] * 7, [0, 0, 0, 0, 0, 5, 5]]).T
    three = np.array([[-1, 1, 2, 2, 2, 2, -1], [-1] * 7, [0, 0, 0, 0, -1, 5, 5]]).T
    np.testing.assert_array_equal(Secant()._source(usable, 200), far)
    np.testing.assert_array_equal(Secant()._source(usable, 50), three)
    held = np.where(usable, np.arange(7)[:, None], -1)
    np.testing.assert_array_equal(Secant(unseen="held")._source(usable, 50), held)


def test_samples_borrow_for_themselves(monkeypatch):
    """Samples of one batch stand at different nodes and borrow from different rows; alone they end the same."""
    merged, make = [], secant._of_each

    def counted(blocks, row, source):
        merged.append(len(set(source[source >= 0].tolist())) > 1)
        return make(blocks, row, source)

    monkeypatch.setattr(secant, "_of_each", counted)
    case = make_case(flow_euler(40), batch=5, dim=6, stiffness=8.0, linear=False, seed=2)
    sampler = paracore.sampler("ropa", window=4)
    together = paracore.solve(sampler, case.problem, case.evaluator(max_batch=1))
    assert sum(merged) > 5
    for b in range(5):
        alone = case.alone(b)
        result = paracore.solve(sampler, alone.problem, alone.evaluator(max_batch=1))
        assert torch.equal(result.sample[0], together.sample[b])
        assert result.rounds[0] == together.rounds[b]


def test_secants_cost_no_evaluations():
    case = make_case(flow_euler(12), batch=2, dim=3)
    counting = Counting(case.evaluator())
    result = paracore.solve(paracore.sampler("secant", window=5), case.problem, counting)
    assert not paracore.sampler("secant").needs | paracore.sampler("front").needs
    assert result.network_calls == counting.calls == int(result.evaluations.sum())
    assert not any(counting.tangents)


def test_the_front_skips_rows_where_the_window_is_small_and_none_at_tolerance_zero():
    case = make_case(flow_euler(50), batch=2, dim=3)
    for window, stride in ((2, 3), (4, 2), (8, 1)):
        auto, fixed = (paracore.sampler("front", window=window, stride=k) for k in (0, stride))
        result, same = solve(case, auto), solve(case, fixed)
        assert torch.equal(result.sample, same.sample)
        assert (result.interpolated > 0).all() == (stride > 1)
        exact = solve(case, paracore.sampler("front", window=window, tolerance=0.0))
        assert not exact.interpolated.any()


@pytest.mark.parametrize(("window", "smooth", "noisy"), [(2, 4, 2), (4, 3, 2), (8, 2, 1), (16, 1, 1)])
def test_the_front_skips_half_as_much_where_fresh_noise_makes_outputs_rough(window, smooth, noisy):
    for scheme, stride in ((ddim(100), smooth), (ddpm(100), noisy)):
        case = make_case(scheme, batch=1, dim=3)
        counting = Counting(case.evaluator())
        paracore.solve(paracore.sampler("front", window=window), case.problem, counting)
        gaps = [np.diff(sorted(nodes)).tolist() for nodes, _ in counting.requests]
        assert [stride] * (window - 1) in gaps
        assert max(max(gap, default=1) for gap in gaps) == stride


def test_the_first_round_is_that_of_held_outputs():
    case = make_case(flow_euler(10), batch=1, dim=3)
    ours, picard = (paracore.compose(jacobian=part, window=5, tolerance=0.0) for part in ("secant", "none"))
    (_, (_, first), (_, second), *_), (_, (_, same), (_, other), *_) = iterates(ours, case), iterates(picard, case)
    np.testing.assert_array_equal(first, same)
    assert (second != other).any()


# -- the facts ------------------------------------------------------------------------------------------------------


def random_sampler(seed, case, which, *, tolerance=0.0):
    """A preset with random options, or the part in a random composition."""
    rng = np.random.default_rng([seed, 17])
    base = random_composition(seed, case.problem, tolerance=tolerance, adversarial=0.3)
    window, memory = int(rng.choice([1, 2, 3, 5, 8])), int(rng.integers(1, 5))
    if which == "mixed":
        part = Secant(memory, float(10 ** rng.uniform(-8, 0)), str(rng.choice(["nearest", "held"])))
        return Engine(attrs.evolve(base, window=window, jacobian=part))
    options = {"window": window, "tolerance": base.tolerance, "memory": memory, "form": base.output_form}
    options["guess"] = str(rng.choice(["hold", "copy", "linear", "damped-linear"]))
    if which == "front":
        options |= {"stride": int(rng.integers(0, 4)), "trend": float(rng.uniform(0.0, 1.0))}
    return paracore.sampler(which, **options)


def solve(case, sampler, **options):
    return paracore.solve(sampler, case.problem, case.evaluator(), **options)


@settings(max_examples=24)
@given(cases(dtypes=DTYPES, max_steps=8, max_batch=2), SEEDS, WHICH)
def test_tolerance_zero_is_the_sequential_sampler_bit_for_bit(case, seed, which):
    result = solve(case, random_sampler(seed, case, which), trajectory=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert {s.name for s in result.status} == {"EXACT"}
    assert (result.rounds <= result.steps).all()


@settings(max_examples=24)
@given(cases(dtypes=DTYPES, max_steps=10), SEEDS, WHICH)
def test_at_most_n_rounds_and_finite_samples_at_any_tolerance(case, seed, which):
    result = solve(case, random_sampler(seed, case, which, tolerance=None))
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.sample).all()


@settings(max_examples=24)
@given(SEEDS, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES), WHICH)
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype, which):
    case = random_case(seed, kind=kind, steps=8, batch=2, dtype=dtype)
    sampler = random_sampler(seed, case, which, tolerance=None)
    together = solve(case, sampler, trajectory=True)
    for b in range(2):
        alone = solve(case.alone(b), sampler, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        for name in ("rounds", "evaluations", "front", "residual", "interpolated"):
            assert getattr(alone, name)[0] == getattr(together, name)[b], name


@pytest.mark.parametrize("name", ["secant", "front"])
@pytest.mark.parametrize("memory", [1, 3, 5])
def test_samples_whose_fronts_part_do_not_see_each_other(name, memory):
    case = make_case(flow_euler(30), batch=4, dim=7, stiffness=4.0, seed=5)
    sampler = paracore.sampler(name, window=4, memory=memory)
    together = solve(case, sampler)
    assert len(set(together.rounds.tolist())) > 1
    for b in range(4):
        assert torch.equal(solve(case.alone(b), sampler).sample[0], together.sample[b])


@settings(max_examples=8)
@given(SEEDS, WHICH, st.booleans())
def test_a_checkpoint_between_any_two_requests_gives_the_same_bits(tmp_path_factory, seed, which, exact):
    case = random_case(seed, steps=6, batch=2, dtype=DTYPES[seed % 3])
    sampler = random_sampler(seed, case, which, tolerance=0.0 if exact else None)
    evaluator, path = case.evaluator(), tmp_path_factory.mktemp("state") / "state.pt"
    unbroken = solve(case, sampler)
    state = sampler.start(case.problem)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), path)
        state = sampler.restore(case.problem, paracore.load_checkpoint(path))
        assert torch.equal(sampler.request(state).states, request.states)
        state = sampler.advance(state, evaluator.evaluate(request))
    resumed = sampler.result(state)
    assert torch.equal(resumed.sample, unbroken.sample)
    np.testing.assert_array_equal(resumed.evaluations, unbroken.evaluations)
    np.testing.assert_array_equal(resumed.rounds, unbroken.rounds)


class Wild:
    """Values of nonsense away from the front."""

    capabilities = frozenset()

    def __init__(self, case, seed):
        self.inner, self.seed, self.calls = case.evaluator(), seed, 0

    def evaluate(self, request):
        self.calls += 1
        outputs = self.inner.evaluate(request)
        values = outputs.values.clone()
        front = {int(b): int(request.nodes[request.samples == b].min()) for b in request.samples.unique()}
        for i, (node, sample) in enumerate(zip(request.nodes.tolist(), request.samples.tolist(), strict=True)):
            rng = np.random.default_rng([self.seed, self.calls, node])  # the same for all samples
            if node > front[sample] and rng.random() < 0.3:
                values[i] = float(rng.choice([np.nan, np.inf, 1e30, 3e38, -3e38]))
        return attrs.evolve(outputs, values=values)


@settings(max_examples=20)
@given(cases(dtypes=DTYPES, max_steps=7, max_batch=2), SEEDS, WHICH)
def test_wild_values_leave_the_exact_chain_right(case, seed, which):
    result = paracore.solve(random_sampler(seed, case, which), case.problem, Wild(case, seed))
    assert torch.equal(result.sample, case.reference())
    assert (result.rounds <= result.steps).all()


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Secant(memory=0), "Secant: memory is 0; an integer of at least 1 is needed"),
        (lambda: Secant(regularisation=0.0), "Secant: regularisation is 0.0; a number at least 1e-12 is needed"),
        (lambda: Secant(unseen="mean"), "Secant: unseen is 'mean'; allowed: nearest, held"),
        (lambda: paracore.sampler("secant", memory=0), "Secant: memory is 0; an integer of at least 1"),
        (lambda: paracore.compose(jacobian="secant(regularisation=0)"), "Secant: regularisation is 0; a number"),
        (lambda: paracore.sampler("front", memory=-2), "Secant: memory is -2; an integer of at least 1"),
        (lambda: paracore.sampler("front", stride=-1), "EveryKth: stride is -1; an integer of at least 0 is needed"),
        (lambda: paracore.sampler("front", window=0), "window is 0"),
    ],
)
def test_messages_of_wrong_options(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
