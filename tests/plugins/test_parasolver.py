"""ParaSolver: against the published iteration written out, and the facts that must hold."""

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
from paracore.errors import CapabilityError, CheckpointError, ConfigurationError, SchemeError
from paracore.schemes import ddim, ddpm, dpm_solver_pp_2m, edm_euler, flow_euler
from paracore.testing.adversarial import BadInitializer, ConstantDamping, random_composition
from paracore.testing.given import cases
from paracore.testing.problems import Counting, exponential_scheme, make_case, random_case
from paracore_parasolver import FineSteps, FrozenData, ParaSolver, SubintervalChange, Subintervals, parasolver, plugin
from paracore_parasolver.partition import starts
from reference.parasolver import parasolver as published

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
LEVELS = ("flow", "ddim", "heun", "multistep", "multistep-flow", "ddim-noise", "ddpm")
ONE_STEP = ("flow", "ddim", "ddim-noise", "ddpm")
SEEDS = st.integers(0, 2**31 - 1)
quick = settings(max_examples=30)
few = settings(quick, max_examples=8)


# -- the published iteration ------------------------------------------------------------------------------------------


def subintervals(steps, count):
    """First nodes: the longer ones first."""
    lengths = [steps // count + (k < steps % count) for k in range(count)]
    return np.concatenate([[0], np.cumsum(lengths)])


def late_variance(levels, first, whole):
    """Posterior variance over each subinterval, one late."""
    alpha, sigma = levels.alpha[first], levels.sigma[first]
    variance = [
        (sigma[k] ** 2 - (alpha[k] / alpha[k + 1]) ** 2 * sigma[k + 1] ** 2) * (sigma[k + 1] / sigma[k]) ** 2
        for k in range(len(first) - 1)
    ]
    if not whole:
        spans = [sum(levels.g[n] ** 2 * levels.span[n] for n in range(begin, end)) for begin, end in pairwise(first)]
        variance = np.where(np.array(variance) > 0, variance, spans)
    return np.append(variance[1:], np.inf)


def reference_for(case, window, tolerance, count, preconditioning):
    problem, scheme = case.problem, case.problem.scheme
    tape, dim = problem.tape(), problem.x0[0].numel()
    rows = [tape.row(n) for n in range(scheme.steps)]
    noise = np.stack([np.zeros(dim) if row is None else row[0].numpy() for row in rows])
    levels, inner = scheme.levels, slice(0, scheme.steps)

    def network(x, node):
        who = paracore.Rows(node=torch.tensor([node]), sample=torch.tensor([0]))
        time = torch.tensor([scheme.time[node]], dtype=torch.float64)
        return case.network(torch.from_numpy(x)[None], time, who)[0].numpy()

    first = subintervals(scheme.steps, count)
    steps = published(
        network,
        scheme.a[:, 0],
        scheme.b[:, 0],
        noise,
        levels.conversion(scheme.prediction, "data", inner),
        levels.conversion("data", scheme.prediction, inner),
        problem.x0[0].numpy(),
        late_variance(levels, first, count == scheme.steps),
        window=window,
        tolerance=tolerance,
        starts=first,
        preconditioning=preconditioning,
    )
    return steps, first


SCHEMES = {
    "ddim": ddim(20),
    "ddim-noise": ddim(21, eta=0.7),
    "ddpm": ddpm(20),
    "flow": flow_euler(20),
    "edm": edm_euler(20),
}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
@pytest.mark.parametrize(
    ("count", "preconditioning"), [(0, 0), (0, 1), (0, 3), (10, 1), (7, 0), (7, 3), (3, 1), (1, 0)]
)
def test_it_gives_the_published_points(linear, scheme, count, preconditioning):
    case = make_case(scheme, batch=1, dim=5, stiffness=0.3 if linear else 1.0, linear=linear, seed=3)
    window, number = 4, count or scheme.steps
    sampler = parasolver(window=window, tolerance=0.1, subintervals=count, preconditioning=preconditioning)
    reference, first = reference_for(case, window, 0.1, number, preconditioning)
    evaluator, state = case.evaluator(), sampler.start(case.problem)
    for rounds, begin, points in reference:
        while state.total_rounds < rounds:
            state = sampler.advance(state, evaluator.evaluate(sampler.request(state)))
        assert state.front[0] == first[begin]
        if state.running.any():
            shown = np.arange(begin, min(begin + window, number) + 1)
            mine, theirs = torch.stack(state.states)[first[shown] - first[begin], 0].numpy(), points[shown]
        else:
            mine, theirs = state.final.numpy(), points[-1:]
        assert np.abs(mine - theirs).max() <= 1e-9 * max(1.0, np.abs(theirs).max())
    assert not state.running.any()


@given(st.integers(1, 60), st.data())
@quick
def test_subintervals_cover_all_steps_the_longer_ones_first(steps, data):
    count = data.draw(st.integers(1, steps))
    first = starts(steps, -(-steps // count), count)
    lengths = np.diff(first)
    assert first[0] == 0
    assert first[-1] == steps
    assert len(lengths) == count
    assert (np.diff(lengths) <= 0).all()
    assert lengths[0] - lengths[-1] <= 1
    np.testing.assert_array_equal(first, subintervals(steps, count))


def test_a_sweep_asks_for_one_row_of_each_subinterval():
    case = make_case(flow_euler(12), batch=1)
    counting = Counting(case.evaluator())
    paracore.solve(parasolver(window=3, tolerance=1e-9, subintervals=4, preconditioning=1), case.problem, counting)
    asked = [nodes for nodes, _ in counting.requests]
    assert asked[:6] == [[0], [1], [2], [3, 6, 9], [4, 7, 10], [5, 8, 11]]
    assert len(asked) <= 12


def test_points_that_enter_have_the_newest_prediction_frozen():
    """Two consecutive points of a DDIM step with a frozen data prediction determine it."""
    case = make_case(ddim(20), batch=2, dim=4)
    sampler, evaluator = parasolver(window=4, tolerance=1e-6, preconditioning=2), case.evaluator()
    state = sampler.start(case.problem)
    for _ in range(2):
        state = sampler.advance(state, evaluator.evaluate(sampler.request(state)))
    levels, exact = case.problem.scheme.levels, case.reference(trajectory=True)
    u, v = levels.conversion("noise", "data", slice(0, 20))
    time = torch.full((2,), case.problem.scheme.time[1], dtype=torch.float64)
    output = case.network(exact[1], time, paracore.Rows(torch.tensor([1, 1]), torch.arange(2)))
    newest = u[1] * exact[1] + v[1] * output  # from the last node that was evaluated
    assert state.at.tolist() == [2, 2]
    for n in range(2, 6):
        ratio = levels.sigma[n + 1] / levels.sigma[n]
        moved = state.states[n - 1] - ratio * state.states[n - 2]
        torch.testing.assert_close(
            moved / (levels.alpha[n + 1] - ratio * levels.alpha[n]), newest, rtol=1e-6, atol=1e-8
        )


def test_the_frozen_start_saves_rounds_against_copies():
    case = make_case(ddim(40), batch=4, dim=6, stiffness=0.7)
    frozen = paracore.solve(parasolver(window=40, preconditioning=1), case.problem, case.evaluator())
    copies = paracore.solve(
        paracore.sampler("parasolver", window=40, preconditioning=1, initializer="copy", selection="all"),
        case.problem,
        case.evaluator(),
    )
    assert frozen.total_rounds <= copies.total_rounds


def test_all_subintervals_given_by_number_are_the_default():
    case = make_case(ddim(20), batch=2)
    by_number, default = (parasolver(window=6, subintervals=n) for n in (20, 0))
    first, second = (paracore.solve(s, case.problem, case.evaluator(), trajectory=True) for s in (by_number, default))
    assert torch.equal(first.trajectory, second.trajectory)
    assert first.total_rounds == second.total_rounds


# -- what holds for every composition ---------------------------------------------------------------------------------


@st.composite
def presets(draw, tolerance, dtypes=DTYPES, lockstep=False):
    """A case, and the preset with options that fit it."""
    case = draw(cases(kinds=ONE_STEP, dtypes=dtypes, lockstep=lockstep))
    steps = case.problem.scheme.steps
    count = draw(st.integers(0, steps))
    return case, parasolver(
        window=draw(st.sampled_from([1, 2, 3, 8])),
        tolerance=10.0 ** draw(st.integers(-5, 1)) if tolerance is None else tolerance,
        subintervals=count,
        preconditioning=draw(st.integers(0, min(3, count or steps))),
    )


@st.composite
def mixed(draw, tolerance, dtypes=DTYPES):
    """A case, and a random composition with parts of this package in it."""
    case = draw(cases(kinds=LEVELS, dtypes=dtypes))
    seed, steps = draw(SEEDS), case.problem.scheme.steps
    made = random_composition(seed, case.problem, tolerance=tolerance, adversarial=draw(st.sampled_from([0.0, 0.4])))
    length = draw(st.integers(1, 4))
    choice = {
        "selection": Subintervals(length, 0, draw(st.integers(0, -(-steps // length)))),
        "jacobian": FineSteps(length),
        "stopping": SubintervalChange(length),
        "initializer": FrozenData(),
    }
    names = draw(st.sets(st.sampled_from(sorted(choice)), min_size=1))
    return case, paracore.Engine(attrs.evolve(made, **{name: choice[name] for name in names}))


def solve(case, sampler, **options):
    return paracore.solve(sampler, case.problem, case.evaluator(), **options)


@quick
@given(st.one_of(presets(0.0), mixed(0.0)))
def test_tolerance_zero_gives_the_sequential_bits(pair):
    case, sampler = pair
    result = solve(case, sampler, trajectory=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert {s.name for s in result.status} == {"EXACT"}
    assert (result.rounds <= result.steps).all()


@settings(quick, max_examples=60)
@given(st.one_of(presets(None), mixed(None)))
def test_at_most_n_rounds_and_finite_samples(pair):
    case, sampler = pair
    result = solve(case, sampler)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.sample).all()


@quick
@given(presets(None))
def test_nothing_interpolated_is_accepted_by_the_preset(pair):
    case, sampler = pair
    assert not solve(case, sampler).interpolated.any()


@few
@given(SEEDS, st.sampled_from(ONE_STEP), st.sampled_from(DTYPES), st.integers(0, 5), st.integers(0, 2))
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype, count, preconditioning):
    case = random_case(seed, kind=kind, steps=11, batch=3, dtype=dtype)
    sampler = parasolver(4, 0.3, count, min(preconditioning, count or 11))
    together = solve(case, sampler, trajectory=True)
    for b in range(3):
        alone = solve(case.alone(b), sampler, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        for name in ("rounds", "evaluations", "residual", "interpolated"):
            assert getattr(alone, name)[0] == getattr(together, name)[b]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_larger_samples_do_not_depend_on_their_batch_mates(dtype):
    case = make_case(ddim(17, eta=0.5), batch=3, event=(3, 7, 11), dtype=dtype)
    for count in (0, 7):
        together = solve(case, parasolver(4, 0.5, count), trajectory=True)
        for b in range(3):
            alone = solve(case.alone(b), parasolver(4, 0.5, count), trajectory=True)
            assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])


@few
@given(st.one_of(presets(None), mixed(None)), st.booleans())
def test_every_checkpoint_resumes_to_the_same_bits(tmp_path_factory, pair, trajectory):
    case, sampler = pair
    evaluator, unbroken = case.evaluator(), solve(case, sampler, trajectory=trajectory)
    path, state = tmp_path_factory.mktemp("state") / "s.pt", sampler.start(case.problem, trajectory=trajectory)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), path)
        state = sampler.restore(case.problem, paracore.load_checkpoint(path))
        assert torch.equal(sampler.request(state).states, request.states)
        state = sampler.advance(state, evaluator.evaluate(request))
    result = sampler.result(state)
    assert torch.equal(result.sample, unbroken.sample)
    assert result.rounds.tolist() == unbroken.rounds.tolist()


def test_a_checkpoint_of_another_partition_is_refused():
    case = make_case(ddim(12))
    one, other = (parasolver(subintervals=n) for n in (6, 4))
    with pytest.raises(CheckpointError, match="this sampler is"):
        other.restore(case.problem, one.plain(one.start(case.problem)))


@few
@given(presets(0.0, lockstep=True), st.sampled_from([0.0, 0.3]))
def test_lockstep_problems_share_their_front(pair, tolerance):
    case, sampler = pair
    if isinstance(sampler, ParaSolver):
        sampler = attrs.evolve(sampler, tolerance=tolerance)
    result = solve(case, sampler, trace=True)
    assert all(len(set(t.front.tolist())) == 1 for t in result.trace)
    if result.residual.max() == 0:
        assert torch.equal(result.sample, case.reference())


@attrs.frozen
class Fragile:
    """A network that overflows away from the trajectory."""

    inner: object
    limit: float

    def __call__(self, x, t, rows):
        wild = x.abs().flatten(1).amax(dim=1) > self.limit
        out = self.inner(x, t, rows)
        return torch.where(wild.reshape(-1, *[1] * (x.ndim - 1)), torch.full_like(out, torch.inf), out)


@pytest.mark.parametrize("mode", ["huge", "mixed", "inf", "random"])
@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("length", [1, 3])
def test_wild_guesses_are_contained(mode, tolerance, length):
    case = make_case(ddim(15), batch=2, dim=4)
    fragile = Fragile(case.network, 2.0 * float(case.reference(trajectory=True).abs().max()))
    sampler = paracore.compose(
        window=4,
        tolerance=tolerance,
        output_form="drift",
        selection=Subintervals(length, preconditioning=1),
        jacobian=FineSteps(length),
        stopping=SubintervalChange(length),
        initializer=BadInitializer(mode, 1),
    )
    result = paracore.solve(sampler, case.problem, paracore.evaluators.batched(fragile, max_batch=1))
    assert result.ok
    assert torch.isfinite(result.sample).all()
    if tolerance == 0:
        assert torch.equal(result.sample, case.reference())


def test_a_broken_network_ends_with_a_status():
    case = make_case(ddim(15), batch=2, dim=4)
    broken = paracore.evaluators.batched(Fragile(case.network, 0.0), max_batch=1)
    for count in (0, 5):
        result = paracore.solve(parasolver(subintervals=count), case.problem, broken, raise_on_failure=False)
        assert {s.name for s in result.status} == {"NONFINITE_OUTPUT"}


def test_a_damping_slows_the_points_down_and_stays_exact():
    case = make_case(flow_euler(12), batch=2)
    parts = {"selection": Subintervals(2), "jacobian": FineSteps(2), "stopping": SubintervalChange(2)}
    plain, damped = (
        paracore.compose(window=3, tolerance=1e-3, output_form="drift", **parts, **extra)
        for extra in ({}, {"damping": ConstantDamping(0.5)})
    )
    assert solve(case, plain).total_rounds <= solve(case, damped).total_rounds <= 12
    exact = attrs.evolve(damped.composition, tolerance=0)
    assert torch.equal(solve(case, paracore.Engine(exact)).sample, case.reference())


# -- refusals, registration -------------------------------------------------------------------------------------------

REFUSED = {
    r"parasolver: subintervals is -1; an integer of at least 0": lambda: parasolver(subintervals=-1),
    r"parasolver: subintervals is True": lambda: parasolver(subintervals=True),
    r"parasolver: preconditioning is 1\.5": lambda: parasolver(preconditioning=1.5),
    r"parasolver: preconditioning is 6, but there are 5 subintervals; use at most 5": lambda: parasolver(
        subintervals=5, preconditioning=6
    ),
    r"window is 0; an integer of at least 1": lambda: parasolver(window=0, subintervals=4),
    r"tolerance is -0\.1": lambda: parasolver(tolerance=-0.1, subintervals=4),
    r"Subintervals: length is 0": lambda: Subintervals(length=0),
    r"Subintervals: count is -1": lambda: Subintervals(count=-1),
    r"Subintervals: preconditioning is -2": lambda: Subintervals(preconditioning=-2),
    r"FineSteps: length is 0": lambda: FineSteps(0),
    r"SubintervalChange: count is 'all'": lambda: SubintervalChange(count="all"),
    r"has no option 'N_sub'": lambda: paracore.sampler("parasolver", N_sub=4),
}


@pytest.mark.parametrize(("message", "build"), REFUSED.items(), ids=list(REFUSED))
def test_bad_options_are_refused_when_the_sampler_is_built(message, build):
    with pytest.raises(ConfigurationError, match=message):
        build()


def start(scheme, sampler):
    case = make_case(scheme)
    return sampler.start(case.problem)


def composed(**parts):
    return paracore.compose(stopping="change", **parts)


LATE = {
    r"ParaSolver: 13 subintervals for 12 steps; use at most 12 \(0: one step each\)": lambda: start(
        ddim(12), parasolver(subintervals=13)
    ),
    r"Subintervals: preconditioning is 13, but there are 12 subintervals of 12 steps; use at most 12": lambda: start(
        ddim(12), parasolver(preconditioning=13)
    ),
    r"Subintervals: 3 subintervals of 12 steps have up to 4 steps, length is 2; use length=4": lambda: start(
        ddim(12), composed(selection=Subintervals(2, 3))
    ),
    r"FineSteps: 20 subintervals for 12 steps": lambda: start(ddim(12), composed(jacobian=FineSteps(2, 20))),
}


@pytest.mark.parametrize(("message", "build"), LATE.items(), ids=list(LATE))
def test_what_does_not_fit_the_steps_is_refused_at_the_start(message, build):
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_schemes_that_it_cannot_work_with_are_refused():
    with pytest.raises(SchemeError, match="form 'drift' needs one past state"):
        start(dpm_solver_pp_2m(12), parasolver())
    for part in (parasolver(), parasolver(subintervals=3), composed(initializer=FrozenData())):
        with pytest.raises(CapabilityError, match="needs noise levels"):
            start(exponential_scheme(6), part)
    flat = attrs.evolve(ddim(4).levels, alpha=np.array([0.0, 0.5, 0.7, 0.9, 1.0]))
    with pytest.raises(SchemeError, match="divides by alpha = 0 at node 0"):
        start(attrs.evolve(ddim(4), levels=flat), composed(initializer=FrozenData()))


def test_replacing_a_part_needs_a_composition():
    replaced = paracore.sampler("parasolver", stopping="error-target", tolerance=0.01)
    assert isinstance(replaced, paracore.Engine)
    with pytest.raises(ConfigurationError, match="is no composition"):
        paracore.sampler("parasolver", subintervals=4, stopping="error-target")


def test_names_and_citations():
    assert isinstance(paracore.registry.make("selection", "subintervals(length=2)"), Subintervals)
    assert isinstance(paracore.registry.make("jacobian", "fine-steps(length=2)"), FineSteps)
    assert isinstance(paracore.registry.make("stopping", "subinterval-change"), SubintervalChange)
    assert isinstance(paracore.registry.make("initializer", "frozen-data"), FrozenData)
    hooks = ("samplers", "selections", "jacobians", "stopping_rules", "initializers")
    named = {name for hook in hooks for name in getattr(plugin, f"paracore_{hook}")()}
    assert set(plugin.paracore_citations()) == named
    assert all("@" in entry and "title" in entry for entry in plugin.paracore_citations().values())
