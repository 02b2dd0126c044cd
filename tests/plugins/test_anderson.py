"""Anderson acceleration and ParaTAA: against the published formulas written out, and the facts that must hold."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.checkpoint import save_checkpoint
from paracore.errors import CapabilityError, ConfigurationError
from paracore.parts import Copy, EveryKth, LookAhead, WarmStart
from paracore.schemes import ddim, ddpm, dpm_solver_pp_2m, flow_euler
from paracore.strategies import ResidualConstruction
from paracore.testing.adversarial import BadInitializer, random_composition
from paracore.testing.given import cases
from paracore.testing.problems import Case, exponential_scheme, make_case, random_case
from paracore_anderson import Anderson, FirstOrderResidual, anderson, plugin, taa
from reference.anderson import triangular_anderson

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
SEEDS = st.integers(0, 2**31 - 1)
quick = settings(max_examples=30)
few = settings(quick, max_examples=8)


# -- the published iteration ------------------------------------------------------------------------------------------


def arrays(case):
    """A one-sample case as plain numpy: scalars, weighted noise, network, initial state."""
    problem, scheme = case.problem, case.problem.scheme
    tape, dim = problem.tape(), problem.x0[0].numel()
    rows = [tape.row(n) for n in range(scheme.steps)]
    noise = np.stack([np.zeros(dim) if row is None else row[0].numpy() for row in rows])

    def network(x, node):
        who = paracore.Rows(node=torch.tensor([node]), sample=torch.tensor([0]))
        time = torch.tensor([scheme.time[node]], dtype=torch.float64)
        return case.network(torch.from_numpy(x)[None], time, who)[0].numpy()

    return network, scheme.a[:, 0], scheme.b[:, 0], noise, problem.x0[0].numpy()


def bounds(scheme, tolerance, g="step", floor=1.0):
    alpha, sigma = scheme.levels.alpha, scheme.levels.sigma
    step = [
        (sigma[n] ** 2 - (alpha[n] / alpha[n + 1]) ** 2 * sigma[n + 1] ** 2) * sigma[n + 1] ** 2 / sigma[n] ** 2
        for n in range(scheme.steps)
    ]
    scale = np.sqrt(step) if g == "step" else scheme.levels.g
    return tolerance * np.maximum(floor, scale)


def follow(sampler, case, reference):
    """Drive the sampler beside the reference; the largest relative distance of any iterate, and the rounds."""
    evaluator, state = case.evaluator(), sampler.start(case.problem)
    worst, rounds = 0.0, 0
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        front, x = next(reference)
        rounds += 1
        assert front == state.front[0]
        mine = torch.stack(state.states)[:, 0].numpy() if state.running.any() else state.final.numpy()
        theirs = x[front : front + len(mine)]
        worst = max(worst, float(np.abs(mine - theirs).max() / max(1.0, np.abs(theirs).max())))
    assert next(reference, None) is None
    return worst, rounds


SCHEMES = {"ddim": ddim(20), "ddim-noise": ddim(20, eta=1.0), "flow": flow_euler(20), "ddpm": ddpm(16)}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("memory", "history"), [(1, "newest"), (2, "newest"), (4, "newest"), (3, "oldest")])
def test_taa_gives_the_published_iterates(linear, scheme, order, memory, history):
    case = make_case(scheme, batch=1, dim=5, stiffness=0.3 if linear else 1.0, linear=linear, seed=3)
    options = {"window": 7, "order": order, "memory": memory, "history": history, "regularisation": 1e-3}
    sampler = paracore.sampler("taa", tolerance=1e-3, **options)
    worst, _ = follow(sampler, case, triangular_anderson(*arrays(case), bounds(scheme, 1e-3), **options))
    assert worst <= 1e-9


@pytest.mark.parametrize("memory", [2, 4])
@pytest.mark.parametrize("scheme", [ddim(20), flow_euler(20)], ids=["ddim", "flow"])
def test_anderson_gives_the_published_iterates(memory, scheme):
    case = make_case(scheme, batch=1, dim=5, seed=3)
    sampler = paracore.sampler(
        "anderson", window=7, tolerance=1e-3, memory=memory, stopping="first-order-residual", initializer="copy"
    )
    options = {"window": 7, "order": 7, "memory": memory, "regularisation": 1e-3, "gram": "window"}
    worst, _ = follow(sampler, case, triangular_anderson(*arrays(case), bounds(scheme, 1e-3), **options))
    assert worst <= 1e-9


def test_the_papers_stopping_rule():
    case = make_case(ddim(20), batch=1, dim=5, seed=3)
    sampler = paracore.sampler("taa", window=7, tolerance=1e-2, g="diffusion", floor=0.0)
    options = {"window": 7, "order": 7, "memory": 2, "regularisation": 1e-3}
    bound = bounds(case.problem.scheme, 1e-2, "diffusion", 0.0)
    worst, _ = follow(sampler, case, triangular_anderson(*arrays(case), bound, **options))
    assert worst <= 1e-9


def test_without_the_successor_one_row_less_is_accepted():
    case = make_case(ddim(20), batch=1, dim=5, seed=3)
    sampler = paracore.sampler("taa", window=7, tolerance=1e-3, stopping=FirstOrderResidual(successor=False))
    options = {"window": 7, "order": 7, "memory": 2, "regularisation": 1e-3, "successor": False}
    worst, rounds = follow(
        sampler, case, triangular_anderson(*arrays(case), bounds(case.problem.scheme, 1e-3), **options)
    )
    assert worst <= 1e-9
    assert rounds >= paracore.solve(taa(window=7), case.problem, case.evaluator()).total_rounds


def test_the_published_acceptance_ends_near_the_engines():
    """The authors accept the order-k update, the engine the chain: at order k = window the two are one."""
    case = make_case(ddim(20), batch=1, dim=5, seed=3)
    for order in (0, 3):
        options = {"window": 7, "order": order, "memory": 2, "regularisation": 1e-3}
        *_, last = triangular_anderson(*arrays(case), bounds(case.problem.scheme, 1e-3), exact=False, **options)
        sample = paracore.solve(taa(window=7, order=order), case.problem, case.evaluator()).sample[0].numpy()
        assert np.abs(last[1][-1] - sample).max() <= (1e-12 if order == 0 else 1e-2)


def test_memory_one_is_the_plain_fixed_point_iteration():
    case = make_case(ddim(20), batch=2, dim=5)
    common = {"window": 6, "tolerance": 1e-3, "stopping": "first-order-residual", "initializer": "copy"}
    one = paracore.sampler("taa", memory=1, **common)
    plain = paracore.compose(residual="look-ahead", jacobian="identity", **common)
    first, second = (paracore.solve(s, case.problem, case.evaluator(), trajectory=True) for s in (one, plain))
    assert torch.equal(first.trajectory, second.trajectory)


# -- history ----------------------------------------------------------------------------------------------------------


def test_the_newest_history_needs_no_more_rounds_than_the_oldest_where_the_window_slides():
    scheme = ddim(40)
    case = make_case(scheme, batch=1, dim=200, stiffness=1.0, seed=1)
    rounds = {
        (history, memory): paracore.solve(
            taa(window=10, memory=memory, history=history), case.problem, case.evaluator()
        ).total_rounds
        for history in ("newest", "oldest")
        for memory in (2, 5)
    }
    assert rounds["newest", 2] == rounds["oldest", 2]  # one difference is both
    assert rounds["newest", 5] < rounds["oldest", 5]


@attrs.frozen
class Switching(ResidualConstruction):
    """A look-ahead that changes at a given round, for all rows or from a node on."""

    before: int
    after: int
    at: int = 3

    def look_ahead(self, window, state):
        width = np.where(window.rounds < self.at, self.before, self.after)
        return np.broadcast_to(width, window.nodes.shape).astype(np.int64)

    def weights(self, window, state):
        return paracore.schemes.look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))


def history_counts(residual, rounds):
    case = make_case(flow_euler(30), batch=1, dim=3)
    part = Anderson(memory=10)
    sampler = paracore.compose(
        window=6, tolerance=1e-9, residual=residual, jacobian=part, stopping="change", initializer=Copy()
    )
    state, evaluator, seen = sampler.start(case.problem), case.evaluator(), []
    for _ in range(rounds):
        at = int(state.at[0])
        state = sampler.advance(state, evaluator.evaluate(sampler.request(state)))
        kept = state.parts["jacobian"]["count"][:, 0]
        seen.append({at + r: int(n) for r, n in enumerate(kept)})
    return seen


def test_history_follows_a_row_and_survives_a_moving_front():
    for k, counts in enumerate(history_counts(LookAhead(3), 6)):
        first = min(counts)
        for node, count in counts.items():
            joined = max(0, node - 5)  # the front moves by one node a round
            assert first == k
            assert count == k + 1 - joined


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3), (1, 4)])
def test_history_is_dropped_when_the_look_ahead_changes(before, after):
    same, switched = history_counts(LookAhead(before), 3), history_counts(Switching(before, after), 3)
    assert same[:2] == switched[:2]
    for row, (node, count) in enumerate(switched[2].items()):
        cut_off = row + 1 <= min(before, after)  # by the front, under both: the residual is the same one
        assert count == (same[2][node] if cut_off else 1)
        assert same[2][node] > 1 or row == 5


# -- warm start -------------------------------------------------------------------------------------------------------


def prompts(seed=0, change=0.05):
    """Two problems with the same noise under networks that differ a little."""
    first = make_case(ddim(30), batch=2, dim=6, seed=seed, stiffness=1.0)
    moved = attrs.evolve(first.network, condition=first.network.condition + change)
    return first, Case(first.problem, moved, "another prompt", first.alone)


def test_a_warm_start_from_another_prompts_trajectory_saves_rounds():
    first, second = prompts()
    kept = paracore.solve(taa(window=30), first.problem, first.evaluator(), trajectory=True).trajectory
    cold = paracore.solve(taa(window=30), second.problem, second.evaluator())
    sampler = paracore.sampler("taa", window=30, initializer=WarmStart(kept))
    warm = paracore.solve(sampler, second.problem, second.evaluator())
    assert warm.total_rounds < cold.total_rounds
    reference = second.reference()
    assert (warm.sample - reference).norm() <= 5e-3 * reference.norm()
    exact = paracore.sampler("taa", window=30, tolerance=0, initializer=WarmStart(kept))
    assert torch.equal(paracore.solve(exact, second.problem, second.evaluator()).sample, reference)


# -- what holds for every composition ---------------------------------------------------------------------------------


@st.composite
def mixed(draw, tolerance, dtypes=(torch.float64,), lockstep=False):
    """A case, and a random composition with parts of this package in it."""
    case = draw(cases(dtypes=dtypes, lockstep=lockstep))
    seed = draw(SEEDS)
    made = random_composition(seed, case.problem, tolerance=tolerance, adversarial=draw(st.sampled_from([0.0, 0.4])))
    part = Anderson(
        memory=draw(st.integers(1, 5)),
        regularisation=draw(st.sampled_from([1e-8, 1e-3, 1.0])),
        gram=draw(st.sampled_from(["triangular", "window"])),
        history=draw(st.sampled_from(["newest", "oldest"])),
    )
    changes = {"jacobian": part}
    if draw(st.booleans()):
        changes["residual"] = draw(st.sampled_from([LookAhead(0), LookAhead(2), Switching(1, 3), Switching(3, 2, 2)]))
    if case.problem.scheme.levels is not None and draw(st.booleans()):
        changes["stopping"] = FirstOrderResidual(
            g=draw(st.sampled_from(["step", "diffusion"])),
            floor=draw(st.sampled_from([0.0, 1.0])),
            successor=draw(st.booleans()),
        )
    return case, attrs.evolve(made, **changes)


def solve(case, composition, evaluator=None, **options):
    evaluator = evaluator or case.evaluator()
    return paracore.solve(paracore.Engine(composition), case.problem, evaluator, **options)


@quick
@given(mixed(0.0, DTYPES))
def test_tolerance_zero_gives_the_sequential_bits(pair):
    case, composition = pair
    result = solve(case, composition, trajectory=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert (result.rounds <= result.steps).all()


@quick
@given(mixed(None, DTYPES))
def test_at_most_n_rounds_and_finite_samples(pair):
    case, composition = pair
    result = solve(case, composition)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.sample).all()


@few
@given(SEEDS, st.sampled_from(["ddim", "flow", "heun", "multistep", "ddpm", "table-noise"]), st.sampled_from(DTYPES))
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype):
    case = random_case(seed, kind=kind, batch=3, dtype=dtype)
    made = random_composition(seed, case.problem, tolerance=None, adversarial=0.2)
    gram, history = ("triangular", "window")[seed % 2], ("newest", "oldest")[seed // 2 % 2]
    composition = attrs.evolve(made, jacobian=Anderson(1 + seed % 4, 1e-3, gram, history))
    together = solve(case, composition, trajectory=True)
    for b in range(3):
        alone = solve(case.alone(b), composition, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        assert alone.rounds[0] == together.rounds[b]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_larger_samples_do_not_depend_on_their_batch_mates(dtype):
    case = make_case(ddim(16), batch=3, event=(3, 7, 11), dtype=dtype)
    for sampler in (taa(window=6, order=3, memory=3), anderson(window=6, memory=3)):
        together = paracore.solve(sampler, case.problem, case.evaluator(), trajectory=True)
        for b in range(3):
            alone = paracore.solve(sampler, case.alone(b).problem, case.alone(b).evaluator(), trajectory=True)
            assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])


@few
@given(mixed(None, DTYPES), st.booleans())
def test_every_checkpoint_resumes_to_the_same_bits(tmp_path_factory, pair, trajectory):
    case, composition = pair
    sampler, evaluator = paracore.Engine(composition), case.evaluator()
    unbroken = solve(case, composition, trajectory=trajectory)
    path, state = tmp_path_factory.mktemp("state") / "s.pt", sampler.start(case.problem, trajectory=trajectory)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), path)
        state = sampler.restore(case.problem, paracore.load_checkpoint(path))
        assert torch.equal(sampler.request(state).states, request.states)
        state = sampler.advance(state, evaluator.evaluate(request))
    result = sampler.result(state)
    assert torch.equal(result.sample, unbroken.sample)
    assert result.rounds.tolist() == unbroken.rounds.tolist()


@few
@given(mixed(0.0, lockstep=True))
def test_lockstep_problems_stay_exact(pair):
    case, composition = pair
    assert torch.equal(solve(case, composition).sample, case.reference())


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
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("gram", ["triangular", "window"])
def test_wild_guesses_are_contained(mode, tolerance, gram):
    case = make_case(ddim(15), batch=2, dim=4)
    limit = 2.0 * float(case.reference(trajectory=True).abs().max())
    fragile = paracore.evaluators.batched(Fragile(case.network, limit), max_batch=1)
    sampler = paracore.sampler(
        "taa", window=6, tolerance=tolerance, jacobian=Anderson(3, gram=gram), initializer=BadInitializer(mode, 1)
    )
    result = paracore.solve(sampler, case.problem, fragile)
    assert result.ok
    assert torch.isfinite(result.sample).all()
    if tolerance == 0:
        assert torch.equal(result.sample, case.reference())


def test_a_broken_network_ends_with_a_status():
    case = make_case(ddim(15), batch=2, dim=4)
    broken = paracore.evaluators.batched(Fragile(case.network, 0.0), max_batch=1)
    result = paracore.solve(taa(window=6), case.problem, broken, raise_on_failure=False)
    assert {s.name for s in result.status} == {"NONFINITE_OUTPUT"}


def test_every_scheme_of_the_library_is_solved():
    for scheme in (dpm_solver_pp_2m(12), flow_euler(12), ddpm(12)):
        case = make_case(scheme, batch=2)
        for sampler in (taa(window=5, order=3), anderson(window=5, memory=3)):
            assert paracore.solve(sampler, case.problem, case.evaluator()).ok


def test_strided_selections_and_dampings_go_together_with_it():
    case = make_case(flow_euler(24), batch=2)
    sampler = paracore.sampler("anderson", window=4, tolerance=3e-2, selection=EveryKth(2))
    assert paracore.solve(sampler, case.problem, case.evaluator()).ok


# -- refusals, registration -------------------------------------------------------------------------------------------

REFUSED = {
    r"taa: order is 9, the window 8.*order of 1 to 8, or 0": lambda: taa(order=9),
    r"anderson: order is 5, the window 4": lambda: anderson(window=4, order=5),
    r"LookAhead: width is -1": lambda: taa(order=-1),
    r"Anderson: memory is 0; an integer of at least 1 is needed": lambda: taa(memory=0),
    r"Anderson: memory is 1\.5": lambda: anderson(memory=1.5),
    r"Anderson: regularisation is 0; a finite number above 0 is needed": lambda: taa(regularisation=0),
    r"Anderson: regularisation is -1": lambda: anderson(regularisation=-1),
    r"Anderson: regularisation is inf": lambda: taa(regularisation=float("inf")),
    r"Anderson: regularisation is nan": lambda: taa(regularisation=float("nan")),
    r"Anderson: history is 'latest'; allowed: newest, oldest": lambda: taa(history="latest"),
    r"Anderson: gram is 'full'; allowed: triangular, window": lambda: Anderson(gram="full"),
    r"FirstOrderResidual: g is 'noise'; allowed: step, diffusion": lambda: taa(g="noise"),
    r"FirstOrderResidual: floor is -1": lambda: taa(floor=-1),
    r"FirstOrderResidual: floor is inf": lambda: taa(floor=float("inf")),
    r"window is 0; an integer of at least 1": lambda: taa(window=0),
    r"tolerance is -1; a number of at least 0": lambda: anderson(tolerance=-1),
    r"option memory is 'two'; int is needed": lambda: paracore.sampler("taa", memory="two"),
    r"taa.* has no option 'lambda'": lambda: paracore.sampler("taa", **{"lambda": 1}),
}


@pytest.mark.parametrize(("message", "build"), REFUSED.items(), ids=list(REFUSED))
def test_bad_options_are_refused_when_the_sampler_is_built(message, build):
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_a_scheme_without_levels_is_refused_by_the_stopping_rule():
    case = make_case(exponential_scheme(5))
    with pytest.raises(CapabilityError, match=r"stopping FirstOrderResidual.*needs noise levels"):
        taa().start(case.problem)
    assert paracore.solve(anderson(), case.problem, case.evaluator()).ok


def test_names_and_citations():
    assert isinstance(paracore.registry.make("jacobian", "anderson(memory=3, gram=window)"), Anderson)
    assert isinstance(paracore.registry.make("stopping", "first-order-residual(floor=0)"), FirstOrderResidual)
    named = {*plugin.paracore_samplers(), *plugin.paracore_jacobians(), *plugin.paracore_stopping_rules()}
    assert set(plugin.paracore_citations()) == named
    assert all("@" in entry and "title" in entry for entry in plugin.paracore_citations().values())
