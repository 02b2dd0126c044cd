"""Stopping rules against plain formulas, initial guesses against the scheme's long jump."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import torch

import paracore
from paracore.engine import Engine
from paracore.harness import relative_error
from paracore.parts import (
    AbsoluteChange,
    AllRows,
    Copy,
    DampedLinear,
    ErrorTarget,
    FixedRounds,
    Hold,
    Linear,
    LookAhead,
    NoiseScaledChange,
    ScaledResidual,
)
from paracore.schemes import History, ddim, ddpm, dpm_solver_pp_2m, edm_heun, flow_euler, flow_heun
from paracore.strategies import Initializer, StoppingRule
from paracore.testing.adversarial import BadInitializer
from paracore.testing.problems import exponential_scheme, make_case, random_case

TOLERANCE = 0.05


@attrs.frozen(eq=False)
class Spy(StoppingRule):
    """Asks a rule, and keeps what it saw and said, as plain numpy."""

    rule: StoppingRule
    seen: list[dict[str, Any]]

    @property
    def reads_changes(self):  # type: ignore[override]
        return self.rule.reads_changes

    @property
    def reads_growth(self):  # type: ignore[override]
        return self.rule.reads_growth

    def start(self, problem, rows):
        return self.rule.start(problem, rows)

    def converged(self, round, state):
        verdict = self.rule.converged(round, state)
        window = round.window
        self.seen.append(
            {
                "verdict": verdict,
                "nodes": window.nodes.copy(),
                "valid": window.valid.copy(),
                "rounds": window.rounds.copy(),
                "x": torch.stack(window.state_rows).numpy(),
                "f": torch.stack(round.outputs).numpy(),
                "anchor": torch.stack(round.anchors).numpy(),
                "chain": torch.stack(round.chain).numpy(),
                "evaluated": round.evaluated.copy(),
                "fresh": round.age.copy(),
            }
        )
        return verdict

    def observe(self, round, accepted, state):
        self.seen[-1]["accepted"] = accepted
        return self.rule.observe(round, accepted, state)


def watch(rule, scheme=None, window=6, batch=2, **options):
    case = make_case(scheme or flow_euler(18, shift=2.0), seed=2, batch=batch, dim=3, stiffness=1.0)
    seen: list[dict[str, Any]] = []
    parts = {"residual": LookAhead(), "initializer": Hold(), "selection": AllRows(), "stopping": Spy(rule, seen)}
    composition = paracore.Composition(**{**parts, "window": window, "tolerance": TOLERANCE, **options})
    paracore.solve(Engine(composition), case.problem, case.evaluator())
    assert len(seen) > 2
    verdicts = np.concatenate([e["verdict"][e["valid"]] for e in seen])
    assert verdicts.any()
    assert not verdicts.all()
    return case.problem.scheme, seen


def rms(x):
    return np.sqrt((x.reshape(*x.shape[:2], -1) ** 2).mean(axis=-1))


def agree(entry, expected):
    np.testing.assert_array_equal(entry["verdict"][entry["valid"]], expected[entry["valid"]])


@pytest.mark.parametrize(("absolute", "relative"), [(1.0, 0.0), (0.0, 1.0), (0.2, 0.5)])
def test_absolute_change(absolute, relative):
    _, seen = watch(AbsoluteChange(absolute, relative))
    for e in seen:
        gap, size = rms(e["chain"][:-1] - e["anchor"]), rms(e["chain"])
        size = np.concatenate([size[1:2], size[1:-1]])  # row 0 is exact whatever its size
        expected = gap <= TOLERANCE * (absolute + relative * size)
        expected[0] = True
        e["verdict"][0] = True
        agree(e, expected)


@pytest.mark.parametrize("g", ["diffusion", "step"])
def test_scaled_residual(g):
    scheme, seen = watch(ScaledResidual(g), scheme=ddpm(18) if g == "step" else None, initializer=Copy())
    levels = scheme.levels
    for e in seen:
        node = np.minimum(e["nodes"], scheme.steps - 1)
        a, b = scheme.a[node, 0][..., None], scheme.b[node, 0][..., None]
        residual = e["x"][1:] - a * e["x"][:-1] - b * e["f"]
        if g == "step":
            continue  # the noise is not in this formula; the scale is checked below
        agree(e, rms(residual) <= TOLERANCE * levels.g[node])
    t = 1 - np.linspace(0, 1, 19)[:-1]
    if g == "diffusion":
        t = 2 * t / (1 + t)
        np.testing.assert_allclose(levels.g[1:], np.sqrt(2 * t / (1 - t).clip(0.01))[1:], rtol=1e-9)


def test_noise_scaled_change():
    scheme, seen = watch(NoiseScaledChange(), scheme=ddim(18), initializer=Copy())
    s, a = scheme.levels.sigma, scheme.levels.alpha
    ratio = a[:-1] / a[1:]
    variance = (s[:-1] ** 2 - ratio**2 * s[1:] ** 2) * s[1:] ** 2 / s[:-1] ** 2
    shifted = np.append(variance[1:], np.inf)
    for e in seen:
        node = np.minimum(e["nodes"], scheme.steps - 1)
        change = ((e["chain"][1:] - e["x"][1:]) ** 2).mean(axis=-1)
        passes = change <= TOLERANCE**2 * shifted[node]
        expected = np.zeros_like(passes)
        for b in range(passes.shape[1]):
            for r in range(len(passes)):
                expected[r, b] = True
                if not passes[r, b]:
                    break
        agree(e, expected)


@pytest.mark.parametrize("window", [6, 18])
def test_fixed_rounds(window):
    _, seen = watch(FixedRounds(5), window=window)
    for e in seen:
        done = int(e["rounds"][0])
        due = -(-18 * done // 5) if window < 18 else (18 if done >= 5 else 0)
        agree(e, e["nodes"] + 1 <= due)


def test_error_target_is_monotone_and_books_what_it_spends():
    case = make_case(flow_euler(18, shift=2.0), seed=2, batch=2, dim=3, stiffness=1.0)
    estimates, rounds = [], []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        sampler = paracore.compose(window=6, tolerance=tolerance, stopping=ErrorTarget())
        result = paracore.solve(sampler, case.problem, case.evaluator())
        assert (result.error_estimate >= 0).all()
        assert (result.error_estimate <= (8 / 6) ** 0.4 * tolerance).all()
        estimates.append(result.error_estimate)
        rounds.append(result.rounds)
    assert (np.diff(rounds, axis=0) >= 0).all()
    assert (estimates[0] > estimates[-1]).all()
    exact = paracore.solve(paracore.compose(window=6, tolerance=0), case.problem, case.evaluator())
    assert not exact.error_estimate.any()


def test_error_target_spends_nothing_on_exact_rows():
    case = make_case(flow_euler(8), batch=2)
    result = paracore.solve(paracore.compose(window=1, tolerance=0.1), case.problem, case.evaluator())
    assert result.error_estimate.tolist() == [0.0, 0.0]


def _first_moves(case: Any, rule: ErrorTarget, rounds: int) -> list[np.ndarray]:
    """What the rule makes of each of the first rounds' rows, ``(P, B)``; none is accepted by it."""
    seen: list[np.ndarray] = []

    @attrs.frozen(eq=False)
    class Reading(ErrorTarget):
        def converged(self, round: Any, state: Any) -> Any:
            seen.append(self._look(round, state)[0])
            return np.zeros(round.gap.shape, dtype=np.bool_)

    reading = Reading(**attrs.asdict(rule))
    paracore.solve(paracore.compose(window=4, tolerance=0.1, stopping=reading), case.problem, case.evaluator())
    return seen[:rounds]


def test_error_target_counts_the_first_rounds_less_where_it_is_told_to():
    """``early`` takes ``early^k`` of the exponent away in round k: nothing of it acts in round 0, half in round 1."""
    case = make_case(flow_euler(12), seed=3, batch=2, dim=4, stiffness=1.0)
    whole = _first_moves(case, ErrorTarget(), 4)
    bare = _first_moves(case, ErrorTarget(early=1.0), 4)  # 1 - 1^k: never anything
    part = _first_moves(case, ErrorTarget(early=0.5), 4)
    np.testing.assert_allclose(part[0], bare[0])
    for k in (1, 2, 3):
        exponent, less = (np.log(moves[k][1:3] / bare[k][1:3]) for moves in (whole, part))
        below = exponent < 5.99  # the rule's exponent is at most 6
        assert below.any()
        assert (exponent > 0).all()
        np.testing.assert_allclose(less[below], exponent[below] * (1 - 0.5**k), rtol=1e-6)


def test_error_target_tilts_where_it_is_told_to():
    """``tilt`` multiplies moves by ``exp(tilt (tau - 0.8))``."""
    case = make_case(flow_euler(12), seed=3, batch=2, dim=4, stiffness=1.0)
    whole, tilted = (_first_moves(case, ErrorTarget(growth=0.1, tilt=tilt), 3) for tilt in (0.0, 1.5))
    levels = case.problem.scheme.levels
    for k, (plain, other) in enumerate(zip(whole, tilted, strict=True)):
        tau = (levels.sigma / (levels.alpha + levels.sigma))[k + 1 : k + 4, None]
        np.testing.assert_allclose(other[1:], plain[1:] * np.exp(1.5 * (tau - 0.8)), rtol=1e-6)


def test_error_target_charges_the_last_step_for_gaps_where_it_is_told_to():
    """``clean`` is the least that a step which leaves no noise passes on; other rows keep their moves."""
    case = make_case(flow_euler(4), seed=3, batch=2, dim=4, stiffness=1.0)
    assert case.problem.scheme.clean.tolist() == [False] * 3 + [True]
    plain, same, more, most = (_first_moves(case, ErrorTarget(clean=c), 1)[0] for c in (0.0, 1e-9, 1e3, 2e3))
    np.testing.assert_allclose(same, plain)
    np.testing.assert_allclose(more[:-1], plain[:-1])
    assert (more[-1] > plain[-1]).all()
    np.testing.assert_allclose(most[-1], 2 * more[-1])


@pytest.mark.parametrize("rate", [-3.0, -0.5, 0.5, 3.0])
def test_error_target_counts_directions_where_it_is_told_to(rate):
    """``directed`` multiplies moves by ``exp(directed (slope + 1.3) tau)``, the slope between -2 and 4: outputs that
    answer against a move of their state make errors cheaper, those that answer along it dearer."""
    scheme = flow_euler(12)
    x0 = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sign = np.sign(scheme.b[0, 0])
    assert sign == -1.0  # time runs down: an output along the state takes from it

    case = make_case(scheme, seed=3, batch=2, dim=4, stiffness=1.0)
    problem = paracore.Problem(scheme, x0)
    linear = attrs.evolve(case, problem=problem, network=lambda x, t, rows: sign * rate * x)
    plain, other = (_first_moves(linear, ErrorTarget(growth=0.0, directed=d), 4) for d in (1e-12, 0.5))
    tau = scheme.levels.sigma / (scheme.levels.alpha + scheme.levels.sigma)
    for k in range(4):
        slope = np.log(other[k][1:] / plain[k][1:]) / (0.5 * tau[k + 1 : k + 4, None]) - 1.3
        np.testing.assert_allclose(slope, np.broadcast_to(slope[0, 0], slope.shape), rtol=1e-6)
        if k == 0:
            np.testing.assert_allclose(slope, -1.3)  # nothing was seen
        else:
            assert -2.0 - 1e-9 <= slope[0, 0] <= 4.0 + 1e-9
            assert np.sign(slope[0, 0]) == np.sign(rate)
            assert abs(rate) < 1 or abs(slope[0, 0]) > 1.9  # response to data of unit variance: about 1


def test_error_target_takes_directions_that_nobody_reads_as_unseen():
    """Within a rule that does not ask for them: moves stay as they are at the slope that changes nothing."""
    case = make_case(flow_euler(12), seed=3, batch=2, dim=4, stiffness=1.0)
    seen: list[Any] = []

    @attrs.frozen(eq=False)
    class Deaf(ErrorTarget):
        reads_growth = False

        def converged(self, round: Any, state: Any) -> Any:
            seen.append(self._look(round, state)[1]["slope"])
            return super().converged(round, state)

    sampler = paracore.compose(window=4, tolerance=0.1, stopping=Deaf(directed=0.5))
    paracore.solve(sampler, case.problem, case.evaluator())
    assert len(seen) > 2
    assert np.isnan(seen).all()


@pytest.mark.parametrize("form", ["network", "velocity"])
@pytest.mark.parametrize("scheme", [flow_euler(14), ddim(14), dpm_solver_pp_2m(14)], ids=lambda s: s.name)
def test_output_growth_is_the_change_along_the_move(scheme, form):
    """``sign(b) <df, dx> / <dx, dx>`` of every node evaluated twice, against differences noted by hand."""
    case = make_case(scheme, seed=5, batch=2, dim=3, stiffness=1.0)
    u = scheme.form_gain(form)[0]
    last: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    checked = [0]

    class Reading(AbsoluteChange):
        reads_changes = True
        reads_growth = True

        def converged(self, round: Any, state: Any) -> Any:
            for r, b in np.argwhere(round.evaluated & round.window.valid):
                node = int(round.window.nodes[r, b])
                x, f = round.anchors[r][b].numpy(), round.outputs[r][b].numpy()
                if (node, b) in last:
                    dx, df = x - last[node, b][0], f - last[node, b][1]
                    df = df - u[node] * dx  # what holding the form foretells
                    expected = np.sign(scheme.b[node, 0]) * (df @ dx) / (dx @ dx) if dx.any() else np.nan
                    np.testing.assert_allclose(round.output_growth[r, b], expected, rtol=1e-7, atol=1e-9)
                    checked[0] += bool(dx.any())
                else:
                    assert np.isnan(round.output_growth[r, b])
                last[node, int(b)] = x, f
            return super().converged(round, state)

    sampler = paracore.compose(window=5, tolerance=1e-3, stopping=Reading(), jacobian="none", output_form=form)
    paracore.solve(sampler, case.problem, case.evaluator())
    assert checked[0] > 20


def test_output_growth_is_read_only_where_it_is_asked_for():
    """Without ``reads_growth`` it is all NaN."""
    case, seen = make_case(flow_euler(12), seed=5, batch=2, dim=3, stiffness=1.0), []

    class Reading(ErrorTarget):
        def converged(self, round: Any, state: Any) -> Any:
            seen.append(np.isfinite(round.output_growth).any())
            return super().converged(round, state)

    for directed in (0.0, 0.5):
        sampler = paracore.compose(window=4, tolerance=1e-2, stopping=Reading(directed=directed))
        paracore.solve(sampler, case.problem, case.evaluator())
        assert any(seen) == (directed > 0)
        seen.clear()


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("model", ["mixture", "gaussian"])
def test_error_target_sees_what_the_stages_of_a_heun_step_pass_on(model, window):
    """Held predictions take most of an earlier error away: counted so, errors were up to twice the target."""
    made, scheme = paracore.registry.make("model", model), edm_heun(25)
    generators = [torch.Generator().manual_seed(5000 + i) for i in range(12)]
    x0 = torch.stack([torch.randn(made.shape, generator=g) for g in generators]) * scheme.levels.sigma[0]
    labels = torch.arange(12) % made.classes if made.classes else None
    evaluator = paracore.evaluators.batched(made.denoiser(scheme, labels, 1.0))
    problem = paracore.Problem(scheme, x0)
    exact = paracore.sequential(problem, evaluator)
    result = paracore.solve(paracore.sampler("picard", window=window), problem, evaluator)
    assert np.mean(relative_error(result.sample, exact)) < 0.0115


def test_error_target_survives_responses_that_overflow():
    """Two evaluations 1e200 apart: the response is infinite, exact rows still go on, nothing warns."""
    calls = [0]

    def network(x, t, rows):
        calls[0] += 1
        wild = (rows.node > 4).to(x)[:, None] * (1e200 if calls[0] % 2 else -1e200)
        return torch.tanh(x) + wild * (x.abs() > 1e3)

    problem = make_case(flow_euler(10), batch=2).problem
    sampler = paracore.compose(window=5, tolerance=1e-2, initializer=BadInitializer("random", 1))
    result = paracore.solve(sampler, problem, paracore.evaluators.batched(network))
    assert torch.isfinite(result.sample).all()
    assert np.isfinite(result.error_estimate).all()


# -- initial guesses ------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Guess(Initializer):
    """Asks an initializer, and keeps the entering states with what they were made from."""

    inner: Initializer
    seen: list[Any]

    def enter(self, window, rows, last, state):
        out = self.inner.enter(window, rows, last, state)
        if last is not None:
            for b in range(window.batch):
                self.seen.append((b, window, rows[:, b].copy(), last, [o[b] for o in out]))
        return out


SCHEMES = {
    "flow": lambda: flow_euler(16, shift=2.0),
    "ddim": lambda: ddim(16),
    "ddpm": lambda: ddpm(16),
    "multistep": lambda: dpm_solver_pp_2m(16),
    "heun": lambda: flow_heun(8),
    "edm-heun": lambda: edm_heun(8),
    "table": lambda: random_case(3, kind="table-memory", steps=16).problem.scheme,
}


def guesses(scheme, initializer, batch=1, form="network"):
    case = make_case(scheme, seed=4, batch=batch, dim=3, stiffness=1.0)
    seen: list[Any] = []
    parts = {"residual": LookAhead(), "stopping": AbsoluteChange(), "selection": AllRows()}
    options = {"initializer": Guess(initializer, seen), "window": 5, "tolerance": 0.3, "output_form": form}
    paracore.solve(Engine(paracore.Composition(**parts, **options)), case.problem, case.evaluator())
    entering = [s for s in seen if (s[2] & (np.arange(len(s[2])) + s[1].front[s[0]] <= scheme.steps)).any()]
    assert entering
    return case, entering


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_hold_is_the_long_jump_of_the_scheme(name, batch):
    scheme = SCHEMES[name]()
    case, entering = guesses(scheme, Hold(), batch)
    tape, depth, checked = case.problem.tape(), scheme.memory + 1, 0
    noise = [tape.row(n) for n in range(scheme.steps)]
    for b, window, rows, last, out in entering:
        front = int(window.front[b])
        first = int(np.argmax(rows))
        start = front + first - 1  # node of the newest known state; its output is the newest one, held
        states = [window.state_rows[first - 1 - i][b] for i in range(min(depth, first))]
        states += [x[b] for x in window.past_x][: depth - len(states)]
        newest = len(last.outputs) - 1
        # the newest output stands at the newest known state, and behind it the outputs that the rows have
        known = [last.outputs[newest][b], *(last.outputs[newest - i][b] for i in range(depth - 1))]
        if int(last.window.front[b]) + newest != start - 1:
            continue
        for r in range(first, len(rows)):
            node = front + r
            if not rows[r] or node > scheme.steps:
                continue
            drawn = [None if z is None else z[b : b + 1] for z in noise[start:node]]
            jump = scheme.held(
                History(tuple(s[None] for s in states), tuple(f[None] for f in known)), start, node, drawn
            )
            torch.testing.assert_close(out[r], jump.states[0][0], rtol=1e-10, atol=1e-10 * float(out[r].abs().max()))
            checked += 1
    assert checked > 3


def test_copy_enters_the_newest_state():
    _, entering = guesses(exponential_scheme(12), Copy())
    for b, window, rows, _, out in entering:
        newest = window.state_rows[int(np.argmax(rows)) - 1][b]
        assert all(torch.equal(out[r], newest) for r in np.flatnonzero(rows))


def test_before_any_output_states_scale_with_the_noise():
    case = make_case(flow_euler(12), batch=2)
    state = paracore.compose(window=6).start(case.problem)
    for r in range(7):
        torch.testing.assert_close(state.states[r], case.problem.x0 * (1 - r / 12))
    bare = make_case(exponential_scheme(12))
    assert all(torch.equal(s, bare.problem.x0) for s in paracore.compose(window=6).start(bare.problem).states)


@pytest.mark.parametrize("trend", [0.0, 0.5, 1.0])
def test_linear_extrapolates_outputs_in_time(trend):
    scheme = exponential_scheme(14, power=1.5)
    initializer = Linear() if trend == 1.0 else DampedLinear(trend)
    _, entering = guesses(scheme, initializer, batch=2)
    for b, window, rows, last, out in entering:
        f1, f0 = last.outputs[-1][b], last.outputs[-2][b]
        n1 = int(last.window.front[b]) + last.window.rows - 1
        t1, t0 = scheme.time[min(n1, 13)], scheme.time[min(n1 - 1, 13)]
        first = int(np.argmax(rows))
        x = window.state_rows[first - 1][b]
        for r in range(first, len(rows)):
            node = int(window.front[b]) + r - 1
            if node >= 14 or not rows[r]:
                break
            factor = (scheme.time[node] - t1) / (t1 - t0)
            factor = factor if trend == 1.0 else min(factor, 1.0)
            x = x + scheme.b[node, 0] * (f1 + trend * factor * (f1 - f0))
            torch.testing.assert_close(out[r], x, rtol=1e-10, atol=1e-10)


def test_hold_in_another_form():
    """What is held is the data prediction: every guess is on the noise line of the newest state."""
    scheme = flow_euler(16)
    _, entering = guesses(scheme, Hold(), form="data")
    sigma = scheme.levels.sigma
    for b, window, rows, last, out in entering:
        node = min(int(last.window.front[b]) + last.window.rows - 1, 15)
        data = last.anchors[-1][b] - sigma[node] * last.outputs[-1][b]
        first = int(np.argmax(rows))
        start = int(window.front[b]) + first - 1
        x = window.state_rows[first - 1][b]
        for r in np.flatnonzero(rows):
            there = int(window.front[b]) + int(r)
            if there <= 16:
                ratio = sigma[there] / sigma[start]
                torch.testing.assert_close(out[r], x * ratio + (1 - ratio) * data, rtol=1e-9, atol=1e-10)


def test_the_error_target_holds_where_a_network_does_not_follow_the_held_form():
    """A network that ignores its state, held as if it predicted data: nothing was seen of it in the first rounds."""
    scheme = ddpm(50)
    x0 = torch.randn(4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = paracore.Problem(scheme, x0, [torch.Generator().manual_seed(i) for i in range(4)])
    fixed = torch.randn(16, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    evaluator = paracore.evaluators.batched(lambda x, t, rows: fixed * (1 + t[:, None] / 1000) + 0.01 * torch.tanh(x))
    exact = paracore.sequential(problem, evaluator)
    result = paracore.solve(paracore.sampler("picard", window=8, form="data"), problem, evaluator)
    error = (result.sample - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(error.mean()) <= 0.01
