"""ROPA's parts and presets: against an independent transcription, the facts that hold for every composition, errors."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.checkpoint import from_plain, to_plain
from paracore.engine import Engine
from paracore.errors import CapabilityError, ConfigurationError
from paracore.parts import AbsoluteChange, AllRows, EveryKth, Hold, LookAhead
from paracore.schemes import ddim, ddpm, flow_euler
from paracore.testing.adversarial import random_composition
from paracore.testing.given import cases
from paracore.testing.problems import Counting, exponential_scheme, make_case, random_case, random_table
from paracore_ropa.band import couplings, substitute
from paracore_ropa.banded import Banded, BandedLML
from paracore_ropa.damping import GainRatio, StepRatio
from paracore_ropa.gmres import GMRES
from paracore_ropa.guess import NoiseGuess
from paracore_ropa.l_curve import LCurve, corner
from paracore_ropa.lml import LML
from paracore_ropa.look_ahead import AdaptiveLookAhead
from paracore_ropa.sparsity import ResidualSparsity, _place
from reference.ropa import ropa as transcription

SEEDS = st.integers(0, 2**31 - 1)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.fixture(scope="module", autouse=True)
def _forward_mode_warns_once():
    import warnings

    with warnings.catch_warnings():  # the first forward-mode derivative imports torch.jit, which warns
        warnings.simplefilter("ignore")
        torch.func.jvp(lambda x: x, (torch.ones(1),), (torch.ones(1),))


def iterates(sampler, case, rounds):
    """``(front, states by node)`` of the first sample after each round."""
    state, evaluator, out = sampler.start(case.problem), case.evaluator(jvp=True), []
    while (request := sampler.request(state)) is not None and len(out) < rounds:
        state = sampler.advance(state, evaluator.evaluate(request))
        out.append((int(state.front[0]), {int(state.at[0]) + r: row[0].numpy() for r, row in enumerate(state.states)}))
    return out


def one_sample(case):
    """The network, the scalars and the score of a memory-free scheme, as arrays for one sample."""
    scheme = case.problem.scheme

    def network(x, n):
        time = torch.full((1,), float(scheme.time[n]), dtype=torch.float64)
        rows = paracore.Rows(node=torch.tensor([n]), sample=torch.tensor([0]))
        return case.network(torch.from_numpy(x)[None], time, rows)[0].numpy()

    def score(x, f, n):
        alpha, sigma = scheme.levels.alpha[n], scheme.levels.sigma[n]
        if scheme.prediction == "noise":
            return -f / sigma
        assert scheme.prediction == "velocity"  # noise - data, x = alpha data + sigma noise
        return -((x + alpha * f) / (alpha + sigma)) / sigma

    return network, scheme.a[:, 0], scheme.b[:, 0], score


PAIRS = [
    ("step-ratio", "paper"),
    ("gain-ratio", "norm-preserving"),
    ("takeaway", "unit"),
    ("l-curve", None),
    ("none", None),
    ("none", "paper"),
    ("gain-ratio", None),
    ("step-ratio", None),
]


@pytest.mark.parametrize("scheme", [flow_euler(11, shift=2.0), ddim(11)], ids=["flow", "ddim"])
@pytest.mark.parametrize(("damping", "scaling"), PAIRS)
def test_the_engine_makes_the_iterates_of_algorithm_1(scheme, damping, scaling):
    """Including the Jacobian at the next look-ahead, and the front's row as the engine takes it."""
    for seed in (0, 1):
        linear, warmup = seed == 1 and scheme.prediction == "velocity", 3 * seed
        case = make_case(scheme, seed=seed, batch=1, dim=4, stiffness=0.6, linear=linear)
        network, a, b, score = one_sample(case)
        guesses = NoiseGuess(seed=seed)
        entering = guesses.enter(whole(case), np.ones((scheme.steps + 1, 1), dtype=bool), None, None)
        expected = transcription(
            network,
            a,
            b,
            case.problem.x0[0].numpy(),
            lambda node, entering=entering: entering[node][0].numpy(),
            window=5,
            largest=4,
            gamma=None if scaling is None else 0.3,
            scaling=scaling or "paper",
            score=score,
            g=scheme.levels.g,
            damping=damping,
            warmup=warmup,
        )
        options = {"window": 5, "tolerance": 0.0, "largest": 4, "scaling": scaling or "paper", "warmup": warmup}
        base = paracore.sampler("ropa-paper", damping="gain-ratio" if damping == "takeaway" else damping, **options)
        parts = {"initializer": guesses}
        if scaling is None:
            parts["preconditioner"] = paracore.registry.make("preconditioner", "none")
        if damping == "takeaway":
            parts["damping"] = GainRatio(ratio="takeaway")
        got = iterates(Engine(attrs.evolve(base.composition, **parts)), case, scheme.steps)
        compared, scale = 0, 1.0
        for (front, states), (at, x) in zip(got, expected, strict=False):
            scale = max(scale, float(np.abs(x[: at + 5]).max()))
            if front != at or front >= scheme.steps:
                break  # two rows were exact at once
            for node, row in states.items():
                if node <= min(at + 4, scheme.steps):
                    np.testing.assert_allclose(row, x[node], rtol=0, atol=1e-9 * scale, err_msg=f"{front} {node}")
            compared += 1
        assert compared >= scheme.steps - 3


def whole(case):
    """A window over all nodes, before the first round."""
    scheme, zero = case.problem.scheme, np.zeros(case.problem.batch, dtype=np.int64)
    rows = [case.problem.x0] * (scheme.steps + 1)
    gain = scheme.form_gain("network")
    return paracore.Window(
        scheme, case.problem.tape(), zero, zero, zero == 0, scheme.steps, rows, [], [], gain, tolerance=0.0
    )


# -- single parts ---------------------------------------------------------------------------------------------------


def drive(sampler, case, rounds, evaluator=None):
    state, evaluator = sampler.start(case.problem), evaluator or case.evaluator(jvp=True)
    for _ in range(rounds):
        request = sampler.request(state)
        if request is None:
            break
        state = sampler.advance(state, evaluator.evaluate(request))
    return state


def composition(**parts):
    base = {
        "residual": LookAhead(),
        "stopping": AbsoluteChange(),
        "initializer": Hold(),
        "selection": AllRows(),
        "window": 6,
        "tolerance": 0.0,
    }
    return paracore.Composition(**{**base, **parts})


def test_look_ahead_follows_eq_13():
    part = AdaptiveLookAhead(alpha=1.2, beta=0.8, start=2, largest=4)
    case = make_case(flow_euler(20), batch=2, dim=3)
    sampler = Engine(composition(residual=part, jacobian=Banded()))
    state, evaluator = sampler.start(case.problem, trace=True), case.evaluator()
    seen = []
    while (request := sampler.request(state)) is not None:
        old = state
        state = sampler.advance(state, evaluator.evaluate(request))
        seen.append((old.parts["residual"], state.parts["residual"], old.at))
    widths = np.concatenate([t.look_ahead.ravel() for t in state.trace])
    assert set(widths.tolist()) == {1, 2, 3, 4}
    for before, after, _ in seen[1:4]:
        assert np.abs(after["width"][:5] - np.vstack([before["width"][1:]])[:5]).max() <= 1  # one row further on


def test_look_ahead_does_nothing_under_a_full_band_while_it_stays():
    """The Jacobian keeps what the residual has: any constant look-ahead gives the chain, bit for bit."""
    case = make_case(ddim(15), batch=2, dim=3)
    for width in (0, 1, 3):
        parts = {"residual": LookAhead(width), "jacobian": Banded(), "tolerance": 1e-3}
        with_band = paracore.solve(Engine(composition(**parts)), case.problem, case.evaluator(), trajectory=True)
        chain = paracore.solve(Engine(composition(tolerance=1e-3)), case.problem, case.evaluator(), trajectory=True)
        assert torch.equal(with_band.trajectory, chain.trajectory)


def test_the_band_without_its_linear_part_is_the_jacobi_iteration():
    case = make_case(ddim(15), batch=2, dim=3)
    for width in (1, 2):
        parts = {"residual": LookAhead(width), "tolerance": 1e-3}
        band = paracore.solve(
            Engine(composition(jacobian=Banded(linear=False), **parts)), case.problem, case.evaluator()
        )
        jacobi = paracore.sampler("jacobi", window=6, tolerance=1e-3).composition.jacobian
        other = paracore.solve(Engine(composition(jacobian=jacobi, **parts)), case.problem, case.evaluator())
        assert torch.equal(band.sample, other.sample)


@pytest.mark.parametrize("kind", ["ddim", "table-memory", "multistep"])
@pytest.mark.parametrize("form", ["network", "data"])
def test_substitution_solves_the_banded_system(kind, form):
    """Against a dense solve, with damping, memory, a form that moves held outputs, and secant responses."""
    case = random_case(4, kind=kind, steps=12, batch=2)
    caught = {}

    @attrs.frozen
    class Spy(Banded):
        def solve(self, round, weights, rhs, damping, state):
            caught["now"] = (round, weights, rhs, self._responses(round, state))
            return Banded.solve(self, round, weights, rhs, damping, state)

    sampler = Engine(composition(jacobian=Spy(response="secant"), output_form=form))
    if kind == "table-memory" and form == "data":
        with pytest.raises(paracore.errors.SchemeError, match="needs noise levels"):
            sampler.start(case.problem)
        return
    drive(sampler, case, 4)
    round, weights, rhs, response = caught["now"]
    assert np.abs(response).max() > 0
    factors = couplings(round, weights, response, linear=True, band=0)
    damping = np.random.default_rng(0).uniform(0, 1, round.age.shape)
    moves = torch.stack(substitute(factors, rhs, damping))
    rows = round.window.rows
    for b in range(2):
        matrix = np.eye(rows) + np.diag(damping[:, b])
        matrix[:, : rows - 1] -= factors[:, 1:, b]
        np.testing.assert_allclose(moves[:, b].numpy(), np.linalg.solve(matrix, rhs[:, b].numpy()), atol=1e-9)


def test_gmres_with_many_products_is_newton():
    """On a linear network one solve with enough products gives the solution of the window."""
    case = make_case(exponential_scheme(24), batch=2, dim=3, stiffness=0.3, linear=True)
    part = GMRES(iterations=12, restart=12, tolerance=1e-12)
    counting = Counting(case.evaluator(jvp=True))
    sampler = Engine(composition(jacobian=part, tolerance=1e-3, window=8))
    state, right = sampler.start(case.problem), None
    truth = case.reference(trajectory=True)
    while (request := sampler.request(state)) is not None:
        krylov = state.krylov is not None
        state = sampler.advance(state, counting.evaluate(request))
        if krylov and state.krylov is None:
            at = int(state.at[0])
            errors = [float((row[0] - truth[at + r, 0]).abs().max()) for r, row in enumerate(state.states[:6])]
            right = min(right, max(errors)) if right is not None else max(errors)
    result = sampler.result(state)
    assert any(counting.tangents)
    assert right is not None
    assert right < 1e-4
    assert (result.rounds <= 24).all()
    assert result.network_calls == counting.calls
    assert int(result.evaluations.sum()) == sum(len(n) for n, _ in counting.requests)


@pytest.mark.parametrize("restart", [4, 15])
@pytest.mark.parametrize("width", [1, 2, 0])
def test_gmres_solves_the_window_with_the_true_jacobian(restart, width):
    """Against a dense solve, per sample: damped, with a look-ahead, held outputs in another form, across restarts."""
    case = make_case(flow_euler(12), batch=2, dim=3, linear=True, stiffness=0.7)
    caught = {}

    @attrs.frozen
    class Spy(Banded):
        def solve(self, round, weights, rhs, damping, state):
            caught["now"] = (round, weights, rhs)
            return Banded.solve(self, round, weights, rhs, damping, state)

    drive(Engine(composition(jacobian=Spy(), residual=LookAhead(width), output_form="data", window=5)), case, 3)
    round, weights, rhs = caught["now"]
    rows, damping = round.window.rows, np.random.default_rng(0).uniform(0, 0.5, round.age.shape)
    round.spare = np.array([1000, 1000])
    matrix = case.network.matrix
    solve = GMRES(iterations=60, restart=restart, tolerance=1e-12).solve(round, weights, rhs, damping, None)
    tangents, who = next(solve)
    try:
        while True:
            assert who.dtype == np.bool_
            products = (tangents[..., None, :] * matrix).sum(-1)
            products[:, ~torch.from_numpy(who)] = 0.0
            tangents, who = solve.send(products)
    except StopIteration as end:
        got = end.value
    for b in range(2):
        full = np.kron(np.eye(rows) + np.diag(damping[:, b]), np.eye(3))
        couple = np.kron(weights.x[:, 1:, b], np.eye(3)) + np.kron(weights.f[:, 1:, b], matrix.numpy())
        full[:, : 3 * (rows - 1)] -= couple
        move = np.linalg.solve(full, rhs[:, b].numpy().ravel()).reshape(rows, 3)
        expected = torch.stack(round.window.state_rows[1:])[:, b].numpy() - move
        np.testing.assert_allclose(got[:, b].numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("restart", [1, 3])
def test_gmres_asks_in_the_states_dtype(dtype, restart):
    """Combinations of directions are wider than half precision: what is asked for must not be."""
    case = make_case(flow_euler(8), seed=2, batch=2, dim=3, dtype=dtype, stiffness=1.0)
    counting = Counting(case.evaluator(jvp=True))
    composition = paracore.compose(
        window=4, tolerance=0.1, residual=LookAhead(1), jacobian=GMRES(iterations=6, restart=restart, tolerance=1e-3)
    )
    result = paracore.solve(composition, case.problem, counting)
    assert result.ok
    assert torch.isfinite(result.sample).all()
    assert sum(counting.tangents) > 1  # combined directions, too, were asked for


def test_gmres_reserve_keeps_rounds_back():
    case = make_case(exponential_scheme(24), batch=1, dim=3, stiffness=0.3, linear=True)
    rounds = {}
    for reserve in (0, 1000):
        counting = Counting(case.evaluator(jvp=True))
        parts = {"jacobian": GMRES(reserve=reserve), "tolerance": 1e-3, "window": 8}
        paracore.solve(Engine(composition(**parts)), case.problem, counting)
        rounds[reserve] = sum(counting.tangents)
    assert rounds[0] > 0
    assert rounds[1000] == 0


@pytest.mark.parametrize("model", ["mixture", "digits"])
def test_gmres_runs_on_models_with_forward_derivatives(model):
    made = paracore.registry.make("model", model)
    scheme = flow_euler(8)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn((1, *made.shape), generator=generator)
    labels = torch.zeros(1, dtype=torch.int64)
    evaluator = paracore.evaluators.batched(made.denoiser(scheme, labels, 2.0), jvp=True)
    problem = paracore.Problem(scheme, x0)
    sampler = Engine(composition(jacobian=GMRES(iterations=2, restart=2), tolerance=0.5, window=4))
    counting = Counting(evaluator)
    result = paracore.solve(sampler, problem, counting)
    assert result.ok
    assert any(counting.tangents)
    exact = paracore.sequential(problem, evaluator)
    assert float((result.sample - exact).norm() / exact.norm()) < 0.5
    # a product against differences
    request = paracore.Request(
        nodes=torch.tensor([2]),
        samples=torch.tensor([0]),
        states=x0,
        times=torch.from_numpy(scheme.time[2:3]),
        tangents=torch.randn(x0.shape, generator=generator).flip(-1),  # not what a fresh tensor looks like
    )
    out, step = evaluator.evaluate(request), 1e-2
    ahead = evaluator.evaluate(attrs.evolve(request, states=x0 + step * request.tangents, tangents=None)).values
    back = evaluator.evaluate(attrs.evolve(request, states=x0 - step * request.tangents, tangents=None)).values
    slope = (ahead - back) / (2 * step)
    assert float((out.jvps - slope).norm() / slope.norm()) < 0.05


@pytest.mark.parametrize("scaling", ["paper", "norm-preserving", "unit"])
def test_the_correction_is_eq_15(scaling):
    case = make_case(flow_euler(10), batch=3, dim=5)
    caught = {}

    @attrs.frozen
    class Spy(LML):
        def apply(self, round, rhs, damping, state):
            caught["now"] = (round, rhs, LML.apply(self, round, rhs, damping, state))
            return caught["now"][2]

    part = Spy(gamma=0.0, scaling=scaling, factor=0.3)
    drive(Engine(composition(preconditioner=part, jacobian=Banded())), case, 2)
    round, rhs, out = caught["now"]
    for r in range(1, round.window.rows):
        for b in range(3):
            s, v = round.score[r, b], rhs[r, b]
            bracket = torch.eye(5, dtype=torch.float64) - torch.outer(s, s) / (0.3 + s @ s)
            expected = bracket @ v
            if scaling == "paper":
                g = case.problem.scheme.levels.g[round.window.nodes[r, b]]
                expected = expected / (0.3 * g**2 * (s @ s))
            elif scaling == "norm-preserving":
                expected = expected * v.norm() / expected.norm()
            torch.testing.assert_close(out[r, b], expected)


def test_the_correction_leaves_unaligned_rows_alone():
    case = make_case(flow_euler(10), batch=1, dim=40)
    plain = paracore.solve(Engine(composition(jacobian=Banded(), tolerance=1e-3)), case.problem, case.evaluator())
    parts = {"jacobian": Banded(), "tolerance": 1e-3, "preconditioner": LML(gamma=1.0)}
    never = paracore.solve(Engine(composition(**parts)), case.problem, case.evaluator())
    torch.testing.assert_close(plain.sample, never.sample, atol=1e-9, rtol=0)
    assert plain.rounds.tolist() == never.rounds.tolist()


def test_the_correction_in_the_jacobian_replaces_the_coupling():
    """Eq. 16 with a projection: rows aligned with the score follow their own node in its complement only."""
    case = make_case(flow_euler(10), batch=1, dim=4)
    for scaling in ("paper", "norm-preserving", "unit"):
        part = BandedLML(gamma=0.0, scaling=scaling, factor=1.0)
        result = paracore.solve(Engine(composition(jacobian=part)), case.problem, case.evaluator())
        assert torch.equal(result.sample, case.reference())
    never = Engine(composition(jacobian=BandedLML(gamma=1.0), tolerance=1e-3))
    plain = Engine(composition(tolerance=1e-3))
    torch.testing.assert_close(
        paracore.solve(never, case.problem, case.evaluator()).sample,
        paracore.solve(plain, case.problem, case.evaluator()).sample,
        atol=1e-9,
        rtol=0,
    )


def test_step_ratio_meets_its_limit_and_stops_at_its_attempts():
    case = make_case(flow_euler(12), batch=2, dim=3)
    for policy, most in ((StepRatio(), 1e-3 * 2.0**20), (StepRatio(attempts=2), 4e-3)):
        sampler = Engine(composition(jacobian=Banded(linear=False), damping=policy))
        state = drive(sampler, case, 3)
        factor = state.parts["damping"]["factor"]
        assert factor.max() <= most * (1 + 1e-12)
        if policy.attempts == 20:
            inner = factor[np.isfinite(factor) & (factor > 1e-3)]
            np.testing.assert_allclose(inner, 1e-3 * 2.0**12)  # the first above 7/3: a step of 1/(1+4.1)


def test_the_corner_of_an_uncoupled_l_curve_is_at_one():
    grid = np.geomspace(1e-4, 1e2, 13)
    moves = (1 / (1 + grid))[:, None] * np.array([1.0, 1e-9, 1e9])[None]
    assert corner(grid[:, None] * moves, moves).tolist() == [8.0, 8.0, 8.0]
    assert grid[8] == pytest.approx(1.0)
    case = make_case(flow_euler(12), batch=2, dim=3)
    sampler = Engine(composition(jacobian=Banded(linear=False), damping=LCurve()))
    state, evaluator = sampler.start(case.problem, trace=True), case.evaluator()
    for _ in range(3):
        state = sampler.advance(state, evaluator.evaluate(sampler.request(state)))
    assert all(t.damping == pytest.approx(1.0) for t in state.trace)


def test_gain_ratio_doubles_and_halves_within_its_bounds():
    case = make_case(flow_euler(12), batch=2, dim=3)
    for policy in (GainRatio(), GainRatio(ratio="takeaway"), GainRatio(first=1.0, lowest=0.5, highest=2.0)):
        sampler = Engine(composition(jacobian=Banded(), damping=policy))
        state, evaluator, seen = sampler.start(case.problem, trace=True), case.evaluator(), set()
        while (request := sampler.request(state)) is not None:
            state = sampler.advance(state, evaluator.evaluate(request))
        for trace in state.trace:
            seen |= set(np.round(np.log2(trace.damping[trace.damping > 0] / policy.first), 6).ravel().tolist())
            assert trace.damping.max() <= policy.highest
        assert len(seen) > 1


def test_sparsity_skips_rows_counts_them_and_keeps_within_its_width():
    case = make_case(flow_euler(60), batch=3, dim=3, stiffness=0.5)
    for window in (2, 3, 5):
        counting = Counting(case.evaluator())
        sampler = paracore.sampler("ropa", window=window, tolerance=0.01)
        result = paracore.solve(sampler, case.problem, counting)
        assert (result.interpolated > 0).all()
        assert (result.evaluations < 60).all()
        for nodes, samples in counting.requests:
            assert np.bincount(samples).max() <= window
            assert len(set(zip(nodes, samples, strict=True))) == len(nodes)
        picard = paracore.solve(
            paracore.sampler("picard", window=window, tolerance=0.01), case.problem, case.evaluator()
        )
        assert result.rounds.sum() < picard.rounds.sum()
        exact = case.reference()
        assert float(((result.sample - exact).norm(dim=1) / exact.norm(dim=1)).mean()) < 0.01


def test_sparsity_is_dense_at_spacing_one_and_at_tolerance_zero():
    case = make_case(flow_euler(30), batch=2, dim=3)
    for tolerance in (0.0, 0.01):
        dense = {"widest": 1} if tolerance else {}
        ours = paracore.solve(
            paracore.sampler("ropa", window=5, tolerance=tolerance, **dense), case.problem, case.evaluator()
        )
        picard = paracore.sampler("picard", window=5, tolerance=tolerance)
        other = paracore.solve(picard, case.problem, case.evaluator())
        assert not ours.interpolated.any()
        torch.testing.assert_close(ours.sample, other.sample, atol=1e-3, rtol=0)
        if tolerance == 0:
            assert torch.equal(ours.sample, case.reference())


def test_the_correction_is_secants_and_can_be_left_out():
    for window in (1, 8, 16):
        parts = paracore.sampler("ropa", window=window).composition
        assert parts.jacobian == paracore.compose(jacobian="secant(memory=2)").composition.jacobian
    plain = paracore.sampler("ropa", correction="none", stopping="error-target").composition
    assert plain.jacobian == paracore.compose().composition.jacobian
    assert plain.stopping == paracore.compose().composition.stopping


@pytest.mark.parametrize(
    ("window", "steps", "widest"),
    [(2, 40, 4), (3, 40, 2), (5, 40, 2), (1, 20, 4), (5, 100, 4), (6, 100, 2), (23, 100, 1)],
)
def test_a_widest_of_zero_goes_by_the_window(window, steps, widest):
    case = make_case(flow_euler(steps), batch=1, dim=3, stiffness=0.5)
    automatic, fixed = ResidualSparsity(widest=0), ResidualSparsity(widest=widest)
    assert automatic.span(window, steps) == fixed.span(window, steps)
    auto, same = (
        paracore.solve(paracore.sampler("ropa", window=window, selection=part), case.problem, case.evaluator())
        for part in (automatic, fixed)
    )
    assert torch.equal(auto.sample, same.sample)
    np.testing.assert_array_equal(auto.evaluations, same.evaluations)
    if widest == 1:  # wider than the reach
        assert not auto.interpolated.any()


@pytest.mark.parametrize(("steps", "ahead"), [(3, 1), (20, 4), (50, 8)])
def test_a_reach_of_zero_goes_by_the_steps_and_the_window(steps, ahead):
    case = make_case(flow_euler(steps), batch=2, dim=3, stiffness=0.5)
    span = max(2, ahead + 1)
    assert ResidualSparsity().span(2, steps) == ResidualSparsity(reach=ahead).span(2, steps) == span
    given = [
        paracore.solve(paracore.sampler("ropa", window=2, reach=reach), case.problem, case.evaluator())
        for reach in (0, ahead)
    ]
    assert torch.equal(given[0].sample, given[1].sample)
    np.testing.assert_array_equal(given[0].evaluations, given[1].evaluations)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 35)
)
def test_what_the_knots_leave_of_a_window_goes_to_skipped_rows(rows, spacing, width):
    knots, moved = [knot for knot, _ in rows], [move for _, move in rows]
    last = len(rows) - 1
    placed = _place(knots, moved, spacing, last, width)
    assert placed[0] == 0
    assert len(placed) == len(set(placed)) <= width
    assert max(placed) <= last
    settled = {row for row in range(last + 1) if knots[row] and not moved[row]}
    assert not settled & set(placed[1:])
    if len(placed) < width:  # everything there was
        assert set(placed) | settled >= set(range(last + 1))
    covered, at = set(placed) | settled, 0
    for row in range(1, last + 1):  # the plan comes first: no gap wider than the spacing while evaluations last
        at = row if row in covered else at
        if row - at >= spacing:
            assert len(placed) == width
            break
    stale = [row for row in range(1, last + 1) if knots[row] and moved[row]]
    if not set(stale) <= set(placed):
        assert len(placed) == width


def test_a_sparser_share_leaves_a_smaller_floor():
    case = make_case(flow_euler(60), batch=4, dim=3, stiffness=1.0)
    exact, skipped = case.reference(), []
    for share in (1e-9, 0.2, 20.0):
        sampler = paracore.sampler("ropa", window=3, tolerance=0.01, share=share)
        skipped.append(int(paracore.solve(sampler, case.problem, case.evaluator()).interpolated.sum()))
    assert skipped[0] == 0
    assert skipped[0] <= skipped[1] <= skipped[2]
    assert skipped[2] > 0
    assert torch.isfinite(exact).all()


def test_a_share_of_zero_goes_by_scheme_and_window():
    def skipped(scheme, window, share):
        case = make_case(scheme, batch=4, dim=3, stiffness=1.0)
        sampler = paracore.sampler("picard", window=window, selection=ResidualSparsity(share=share))
        return paracore.solve(sampler, case.problem, case.evaluator()).interpolated.tolist()

    for scheme, window, share in ((flow_euler(60), 3, 10.0), (flow_euler(60), 4, 8.0), (ddpm(60), 3, 2.0)):
        assert skipped(scheme, window, 0.0) == skipped(scheme, window, share)
    assert skipped(ddpm(60), 3, 0.0) != skipped(ddpm(60), 3, 10.0)


@pytest.mark.parametrize("prediction", ["noise", "data", "v-prediction"])
def test_rows_are_interpolated_in_the_form_that_is_held(prediction):
    """Data that stays where it is gives the skipped rows exactly, whatever the network returns and the noise is."""
    scheme = ddpm(40, prediction=prediction)
    data = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3)

    def denoiser(x, t, rows):
        return scheme.output_from_data(rows.node, x, data[rows.sample])

    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    x0 = torch.stack([torch.randn(3, generator=g, dtype=torch.float64) for g in generators])
    problem = paracore.Problem(scheme, x0, generators)
    evaluator = paracore.evaluators.batched(denoiser)
    exact = paracore.solve(paracore.sampler("picard", window=1), problem, evaluator, trajectory=True).trajectory
    for form, near in (("auto", True), ("data", True), ("network", prediction == "data")):
        for selection in (ResidualSparsity(widest=4, share=1e9), EveryKth(stride=3)):
            sampler = paracore.compose(
                window=3, tolerance=1e6, output_form=form, selection=selection, stopping=AbsoluteChange()
            )
            result = paracore.solve(sampler, problem, evaluator, trajectory=True)
            assert (result.interpolated > 0).all()
            error = (result.trajectory - exact).abs().max().item()
            assert (error < 1e-9) == near, (form, type(selection).__name__, error)


# -- facts ----------------------------------------------------------------------------------------------------------


def random_parts(seed, case, tolerance):
    """Our parts with random options, among others from the core, adversarial ones too."""
    rng = np.random.default_rng([seed, 11])
    levels = case.problem.scheme.levels is not None
    base = random_composition(seed, case.problem, tolerance=tolerance, adversarial=0.2)

    def pick(*options):
        return options[int(rng.integers(len(options)))]

    scaling, relative = pick("paper", "norm-preserving", "unit"), bool(rng.random() < 0.5)
    lml = {
        "gamma": pick(0.0, 0.3, 0.85),
        "scaling": scaling,
        "relative": relative,
        "factor": pick(None, 0.0, 1e-2, 1.0),
    }
    jacobians = [
        Banded(linear=pick(True, False), band=pick(0, 1, 3), response=pick("none", "secant")),
        Banded(),
        GMRES(iterations=pick(1, 4), restart=1, tolerance=pick(0.0, 0.1)),
        GMRES(iterations=6, restart=3, tolerance=1e-3),
        *([BandedLML(**lml)] if levels else []),
    ]
    dampings = [
        GainRatio(ratio=pick("listing", "takeaway")),
        StepRatio(scope=pick("row", "sample"), carry=pick(True, False)),
    ]
    changes = {
        "residual": AdaptiveLookAhead(start=pick(0, 1, 2), largest=pick(0, 2, 4)),
        "jacobian": pick(*jacobians),
        "damping": pick(*dampings, LCurve(points=5)),
        "selection": ResidualSparsity(widest=pick(0, 1, 2, 4), reach=pick(0, 1, 3, 10), share=pick(0.1, 2.0, 1e6)),
        "initializer": NoiseGuess(seed=3),
        **({"preconditioner": LML(**lml)} if levels else {}),
    }
    return attrs.evolve(base, **{k: v for k, v in changes.items() if rng.random() < 0.6})


def solve(case, composition, **options):
    return paracore.solve(Engine(composition), case.problem, case.evaluator(jvp=True), **options)


@settings(max_examples=50)
@given(cases(dtypes=DTYPES), SEEDS)
def test_tolerance_zero_is_the_sequential_sampler_bit_for_bit(case, seed):
    result = solve(case, random_parts(seed, case, 0.0))
    assert torch.equal(result.sample, case.reference())
    assert {s.name for s in result.status} == {"EXACT"}
    assert (result.rounds <= result.steps).all()


@settings(max_examples=50)
@given(cases(dtypes=DTYPES), SEEDS)
def test_at_most_n_rounds_and_finite_samples_at_any_tolerance(case, seed):
    composition = random_parts(seed, case, None)
    counting = Counting(case.evaluator(jvp=True))
    result = paracore.solve(Engine(composition), case.problem, counting)
    assert result.ok
    assert (result.rounds <= result.steps).all()
    assert torch.isfinite(result.sample).all()
    for _, samples in counting.requests:
        assert np.bincount(samples).max() <= max(
            composition.window, composition.selection.span(composition.window, case.problem.scheme.steps)
        )


@settings(max_examples=25)
@given(
    SEEDS, st.sampled_from(["flow", "ddim", "multistep", "ddpm", "table-memory", "edm-heun"]), st.sampled_from(DTYPES)
)
def test_a_sample_does_not_depend_on_its_batch_mates(seed, kind, dtype):
    case = random_case(seed, kind=kind, batch=3, dtype=dtype)
    composition = random_parts(seed, case, None)
    together = solve(case, composition, trajectory=True)
    for b in range(3):
        alone = solve(case.alone(b), composition, trajectory=True)
        assert torch.equal(alone.trajectory[:, 0], together.trajectory[:, b])
        for name in ("rounds", "evaluations", "front", "residual", "interpolated"):
            assert getattr(alone, name)[0] == getattr(together, name)[b], name


@settings(max_examples=20)
@given(SEEDS, st.booleans())
def test_a_checkpoint_resumes_to_the_same_bits(seed, lockstep):
    case = random_case(seed, lockstep=lockstep, dtype=DTYPES[seed % 3])
    sampler = Engine(random_parts(seed, case, None))
    evaluator = case.evaluator(jvp=True)
    unbroken = paracore.solve(sampler, case.problem, evaluator)
    state = sampler.start(case.problem)
    while (request := sampler.request(state)) is not None:
        if state.krylov is None:
            state = sampler.restore(case.problem, to_plain(from_plain(sampler.plain(state))))
            request = sampler.request(state)
        state = sampler.advance(state, evaluator.evaluate(request))
    resumed = sampler.result(state)
    assert torch.equal(resumed.sample, unbroken.sample)
    assert resumed.rounds.tolist() == unbroken.rounds.tolist()


@pytest.mark.parametrize("name", ["ropa", "ropa-paper"])
@pytest.mark.parametrize("kind", ["flow", "multistep", "ddpm", "edm-heun"])
def test_the_presets_keep_the_facts(name, kind):
    case = random_case(5, kind=kind, steps=8, batch=2)
    for options in ({"window": 3}, {"tolerance": 0.0}, {"window": 1}):
        result = paracore.solve(paracore.sampler(name, **options), case.problem, case.evaluator())
        assert result.ok
        assert (result.rounds <= result.steps).all()
        if options.get("tolerance") == 0:
            assert torch.equal(result.sample, case.reference())


@pytest.mark.parametrize("damping", ["gain-ratio", "step-ratio", "l-curve"])
@pytest.mark.parametrize("correction", ["none", "lml(scaling=unit)"])
def test_the_preset_with_damping_and_correction(damping, correction):
    case = make_case(flow_euler(8), batch=2, dim=3)
    parts = {"jacobian": "banded", "damping": damping, "preconditioner": correction}
    sampler = paracore.sampler("ropa", residual="adaptive-look-ahead(start=0)", **parts)
    result = paracore.solve(sampler, case.problem, case.evaluator())
    assert result.ok
    assert (result.rounds <= 8).all()
    assert isinstance(sampler.composition.residual, AdaptiveLookAhead)


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveLookAhead(alpha=0.7, beta=0.7), r"AdaptiveLookAhead: alpha is 0.7 and beta 0.7; .*greater"),
        (lambda: AdaptiveLookAhead(alpha=-1.0), r"alpha is -1.0; a number at least 0"),
        (lambda: AdaptiveLookAhead(start=-1), r"AdaptiveLookAhead: start is -1; an integer of at least 0"),
        (lambda: AdaptiveLookAhead(start=5, largest=4), r"start is 5, above largest = 4; lower start"),
        (lambda: Banded(band=-1), r"Banded: band is -1"),
        (lambda: Banded(response="exact"), r"response is 'exact'; allowed: none, secant"),
        (lambda: Banded(limit=-0.1), r"Banded: limit is -0.1"),
        (lambda: BandedLML(gamma=1.5), r"BandedLML: gamma is 1.5; a number between 0.0 and 1.0"),
        (lambda: LML(gamma=-0.1), r"LML: gamma is -0.1; a number between 0.0 and 1.0"),
        (lambda: LML(scaling="none"), r"LML: scaling is 'none'; allowed: paper, norm-preserving, unit"),
        (lambda: LML(factor=-1e-3), r"LML: factor is -0.001; a number at least 0"),
        (lambda: LML(floor=-1.0), r"LML: floor is -1.0"),
        (lambda: GainRatio(first=-1e-3), r"GainRatio: first is -0.001; a number at least 0"),
        (lambda: GainRatio(first=1e3), r"GainRatio: first is 1000.0, outside lowest = 0.0001 and highest = 100.0"),
        (lambda: GainRatio(low=0.5, high=0.1), r"GainRatio: low is 0.5 and high 0.1; low must be smaller"),
        (lambda: GainRatio(change=0.5), r"GainRatio: change is 0.5; a number at least 1"),
        (lambda: GainRatio(ratio="third"), r"ratio is 'third'; allowed: listing, takeaway"),
        (lambda: StepRatio(first=0.0), r"StepRatio: first is 0.0 and change 2.0; no multiple .*choose first > 0"),
        (lambda: StepRatio(first=-1.0), r"StepRatio: first is -1.0; a number at least 0"),
        (lambda: StepRatio(attempts=65), r"StepRatio: attempts is 65; at most 64"),
        (lambda: StepRatio(scope="batch"), r"scope is 'batch'; allowed: row, sample"),
        (lambda: LCurve(lowest=1.0, highest=0.1), r"LCurve: lowest is 1.0 and highest 0.1; 0 < lowest < highest"),
        (lambda: LCurve(lowest=-1.0), r"LCurve: lowest is -1.0; a number at least 0"),
        (lambda: LCurve(points=2), r"LCurve: points is 2; an integer of at least 3"),
        (lambda: LCurve(points=64), r"LCurve: points is 64; at most 63"),
        (lambda: GMRES(restart=9, iterations=8), r"GMRES: restart is 9, above iterations = 8"),
        (lambda: GMRES(iterations=0), r"GMRES: iterations is 0; an integer of at least 1"),
        (lambda: GMRES(tolerance=-1.0), r"GMRES: tolerance is -1.0"),
        (lambda: GMRES(reserve=-1), r"GMRES: reserve is -1"),
        (lambda: NoiseGuess(seed=-1), r"NoiseGuess: seed is -1"),
        (lambda: ResidualSparsity(alpha=0.5), r"ResidualSparsity: alpha is 0.5 and beta 0.7; .*greater than beta"),
        (lambda: ResidualSparsity(reach=-1), r"ResidualSparsity: reach is -1; an integer of at least 0"),
        (lambda: ResidualSparsity(widest=-1), r"ResidualSparsity: widest is -1; an integer of at least 0"),
        (lambda: ResidualSparsity(share=-1.0), r"ResidualSparsity: share is -1.0"),
        (lambda: paracore.sampler("ropa-paper", start=9), r"ropa-paper: start is 9 in a window of 8; .*choose 0"),
        (lambda: paracore.sampler("ropa-paper", alpha=0.5), r"alpha is 0.5 and beta 0.7"),
        (lambda: paracore.sampler("ropa-paper", gamma=2.0), r"LML: gamma is 2.0"),
        (lambda: paracore.sampler("ropa", window=0), r"window is 0"),
        (lambda: paracore.sampler("ropa", widest=-1), r"widest is -1; an integer of at least 0"),
        (lambda: paracore.sampler("ropa", reach=-1), r"reach is -1; an integer of at least 0"),
    ],
)
def test_bad_options_are_refused_when_built(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("part", [{"preconditioner": LML()}, {"jacobian": BandedLML()}])
def test_score_parts_are_refused_on_a_scheme_without_levels(part):
    case = make_case(random_table(np.random.default_rng(0), 6, 0), batch=1)
    name = repr(next(iter(part.values()))).split("(")[0]
    with pytest.raises(CapabilityError, match=rf"{name}.*needs noise levels.*'table-0' has none.*paracore.schemes"):
        Engine(composition(**part)).start(case.problem)
    with pytest.raises(CapabilityError, match=r"LML|ScaledResidual"):
        paracore.sampler("ropa-paper").start(case.problem)


def test_gmres_is_refused_on_an_evaluator_without_products():
    case = make_case(flow_euler(6), batch=1)
    with pytest.raises(CapabilityError, match=r"GMRES.*needs jvp.*Batched.*jvp=True"):
        paracore.solve(paracore.sampler("ropa-paper", solver="gmres"), case.problem, case.evaluator(jvp=False))


def test_the_listing_does_what_the_docs_say():
    """As printed it never converges; mended and damped it does at T = 10 only; undamped it is exact in T rounds."""
    path = Path(__file__).parents[2] / "benchmarks" / "ropa_listing.py"
    spec = importlib.util.spec_from_file_location("ropa_listing", path)
    listing = importlib.util.module_from_spec(spec)
    sys.modules["ropa_listing"] = listing
    spec.loader.exec_module(listing)
    for steps, mended in ((10, "converged"), (20, "stalled")):
        rows = {row["variant"]: row for row in listing.measure(steps, rounds=400, dim=16, seed=0)}
        assert rows["as printed"]["status"] == "stalled"
        assert rows["as printed, no correction"]["status"] == "diverged"
        assert rows["as printed"]["noise_moved_by"] > 10
        assert rows["index mended"]["status"] == mended
        assert rows["index mended"]["noise_moved_by"] == 0
        assert rows["mended, no damping, no correction"]["rounds"] == steps
        assert rows["mended, no damping, no correction"]["error"] < 1e-12


def test_every_registered_name_has_its_citation():
    entries = [e for e in paracore.registry.entries() if e.plugin == "ropa"]
    assert {e.name for e in entries} >= {"ropa", "ropa-paper", "adaptive-look-ahead", "banded", "gmres", "lml"}
    assert all("@" in e.citation for e in entries)
