"""The loop with stub strategies: who is called when, what is checked, what is told."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch

import paracore
from paracore.engine import Engine
from paracore.errors import CapabilityError, ConfigurationError, DenoiserError, StrategyError
from paracore.parts import AbsoluteChange, AllRows, Copy, EveryKth, FixedRounds, Hold, LookAhead, WarmStart
from paracore.request import Outputs
from paracore.schemes import RowWeights, flow_euler
from paracore.status import Status
from paracore.strategies import (
    DampingPolicy,
    Initializer,
    JacobianApproximation,
    NoDamping,
    Preconditioner,
    ResidualConstruction,
    Selection,
    StoppingRule,
)
from paracore.testing.adversarial import ConstantDamping
from paracore.testing.problems import Counting, exponential_scheme, make_case, random_case


def composition(**options):
    base: dict[str, Any] = {
        "residual": LookAhead(),
        "stopping": AbsoluteChange(),
        "initializer": Hold(),
        "selection": AllRows(),
        "window": 4,
        "tolerance": 1e-3,
    }
    return paracore.Composition(**{**base, **options})


def run(case, **options):
    return paracore.solve(Engine(composition(**options)), case.problem, case.evaluator())


# -- who is called when ---------------------------------------------------------------------------------------------

LOG: list[tuple[str, Any]] = []


def note(name, state):
    LOG.append((name, state))
    return state + 1


class Counts:
    def start(self, problem, rows):
        LOG.append((f"{type(self).__name__}.start", rows))
        return 0


@attrs.frozen
class R(Counts, ResidualConstruction):
    def weights(self, window, state):
        return LookAhead().weights(window, None)

    def adapt(self, round, state):
        return note("adapt", state)


@attrs.frozen
class J(Counts, JacobianApproximation):
    reads_residuals: ClassVar[bool] = True

    def solve(self, round, weights, rhs, damping, state):
        LOG.append(("solve", state))
        assert weights is not None
        assert rhs.shape == (round.window.rows, *round.chain[0].shape)
        return torch.stack(round.chain[1:])

    def observe(self, round, state):
        return note("jacobian", state)


@attrs.frozen
class P(Counts, Preconditioner):
    def apply(self, round, rhs, damping, state):
        LOG.append(("apply", state))
        return rhs

    def observe(self, round, state):
        return note("preconditioner", state)


@attrs.frozen
class D(Counts, DampingPolicy):
    retries: ClassVar[int] = 0

    def factors(self, round, state):
        LOG.append(("factors", state))
        return np.zeros(round.age.shape)

    def review(self, round, trial, state):
        assert trial.shape == (round.window.rows, *round.chain[0].shape)
        return None, note("review", state)


@attrs.frozen
class S(Counts, StoppingRule):
    def converged(self, round, state):
        LOG.append(("converged", state))
        return np.zeros(round.age.shape, dtype=bool)

    def observe(self, round, accepted, state):
        assert accepted.shape == (round.window.batch,)
        return note("stopping", state)


@attrs.frozen
class I(Counts, Initializer):  # noqa: E742
    def enter(self, window, rows, last, state):
        assert (last is None) == (not window.rounds.any())
        return list(window.state_rows)

    def observe(self, round, state):
        return note("initializer", state)


@attrs.frozen
class C(Counts, Selection):
    def rows(self, window, state):
        LOG.append(("rows", state))
        return np.ones(window.nodes.shape, dtype=bool)

    def observe(self, round, state):
        return note("selection", state)


def test_each_hook_is_called_once_a_round_with_its_own_state():
    LOG.clear()
    case = make_case(exponential_scheme(6), batch=2)
    parts = {"residual": R(), "jacobian": J(), "preconditioner": P(), "damping": D()}
    result = run(case, **parts, stopping=S(), initializer=I(), selection=C())
    assert {name for name, rows in LOG if name.endswith(".start") and rows == 4} == {f"{k}.start" for k in "RJPDSIC"}
    rounds = result.total_rounds
    for name in ("adapt", "jacobian", "preconditioner", "stopping", "initializer", "selection", "review"):
        assert [state for n, state in LOG if n == name] == list(range(rounds)), name
    for name in ("solve", "apply", "factors", "converged"):  # read the state that the round before left
        assert [state for n, state in LOG if n == name] == list(range(rounds)), name
    assert [state for n, state in LOG if n == "rows"] == list(range(rounds))


def test_the_stopping_rule_is_not_asked_at_tolerance_zero():
    LOG.clear()
    run(make_case(exponential_scheme(6)), stopping=S(), tolerance=0)
    assert not [name for name, _ in LOG if name == "converged"]


@attrs.frozen
class Retry(DampingPolicy):
    """Sends the trial of one sample back, with a larger factor each time."""

    sample: int = 0
    retries: ClassVar[int] = 3

    def start(self, problem, rows):
        return np.zeros(problem.batch)

    def factors(self, round, state):
        return np.broadcast_to(state, round.age.shape)

    def review(self, round, trial, state):
        retry = np.zeros(round.age.shape, dtype=bool)
        retry[:, self.sample] = state[self.sample] < 5
        return retry, np.where(retry.any(axis=0), state + 1, state)


def test_only_the_samples_that_were_sent_back_are_tried_again():
    case = make_case(exponential_scheme(12), batch=2, stiffness=2.0)
    undamped = composition(damping=ConstantDamping(0.0))
    plain = paracore.solve(Engine(undamped), case.problem, case.evaluator(), trace=True)
    result = paracore.solve(Engine(composition(damping=Retry())), case.problem, case.evaluator(), trace=True)
    assert torch.equal(result.sample[1], plain.sample[1])
    assert result.rounds[1] == plain.rounds[1]
    assert result.rounds[0] > plain.rounds[0]
    assert not any(t.damping[:, 1].any() for t in result.trace)
    np.testing.assert_array_equal([t.damping[0, 0] for t in result.trace][:2], [3, 5])


# -- what is checked ------------------------------------------------------------------------------------------------


def bad_rows(like, what):
    """Rows with one thing wrong."""
    good = [like.clone() for _ in range(4)]
    return {
        "none": None,
        "number": 3.0,
        "few": good[:-1],
        "many": [*good, good[0]],
        "shape": [*good[:-1], good[0][..., :-1]],
        "dtype": [g.float() for g in good],
        "array": [g.numpy() for g in good],
    }[what]


ROWS = ["number", "few", "many", "shape", "dtype", "array"]


@attrs.frozen
class WrongSolve(JacobianApproximation):
    what: str

    def solve(self, round, weights, rhs, damping, state):
        return bad_rows(round.chain[0], self.what)


@attrs.frozen
class WrongProbes(JacobianApproximation):
    what: str

    def probes(self, window, state):
        return bad_rows(window.state_rows[0], self.what)


@attrs.frozen
class WrongApply(Preconditioner):
    what: str

    def apply(self, round, rhs, damping, state):
        return bad_rows(rhs[0], self.what)


@attrs.frozen
class WrongEnter(Initializer):
    what: str

    def enter(self, window, rows, last, state):
        wrong = bad_rows(window.state_rows[0], self.what)
        return [window.state_rows[0], *wrong] if isinstance(wrong, list) else wrong


@attrs.frozen
class WrongFill(Selection):
    what: str

    def rows(self, window, state):
        return np.zeros(window.nodes.shape, dtype=bool)

    def fill(self, round, rows, state):
        return bad_rows(round.outputs[0], self.what)


@pytest.mark.parametrize("what", ROWS)
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("jacobian", WrongSolve),
        ("jacobian", WrongProbes),
        ("preconditioner", WrongApply),
        ("initializer", WrongEnter),
        ("selection", WrongFill),
    ],
)
def test_wrong_rows_are_refused_and_the_part_is_named(kind, part, what):
    case = make_case(exponential_scheme(4), batch=2)
    with pytest.raises(StrategyError, match=rf"^{kind} {part.__name__}\(what='{what}'\) returned"):
        run(case, **{kind: part(what)})


def bad_table(shape, what, value):
    return {
        "none": None,
        "shape": np.full((shape[0] + 1, shape[1]), value),
        "flat": np.full(shape[1], value),
        "dtype": np.full(shape, "x"),
        "ragged": [[value], [value, value]],
    }[what]


@attrs.frozen
class WrongFactors(DampingPolicy):
    what: str

    def factors(self, round, state):
        return bad_table(round.age.shape, self.what, 1.0)


@attrs.frozen
class WrongReview(DampingPolicy):
    what: str

    def factors(self, round, state):
        return np.zeros(round.age.shape)

    def review(self, round, trial, state):
        wrong = bad_table(round.age.shape, self.what, True)
        return (wrong, state) if wrong is not None else None


@attrs.frozen
class WrongConverged(StoppingRule):
    what: str

    def converged(self, round, state):
        return bad_table(round.age.shape, self.what, True)


@attrs.frozen
class WrongSelection(Selection):
    what: str

    def rows(self, window, state):
        return bad_table(window.nodes.shape, self.what, True)


@pytest.mark.parametrize("what", ["none", "shape", "flat", "dtype", "ragged"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("damping", WrongFactors),
        ("damping", WrongReview),
        ("stopping", WrongConverged),
        ("selection", WrongSelection),
    ],
)
def test_wrong_tables_are_refused_and_the_part_is_named(kind, part, what):
    with pytest.raises(StrategyError, match=rf"^{kind} {part.__name__}\(what='{what}'\) returned"):
        run(make_case(exponential_scheme(4), batch=2), **{kind: part(what)})


@attrs.frozen
class WrongLocal(JacobianApproximation):
    what: str

    def local(self, round, state):
        return {"none": lambda r, v: None, "shape": lambda r, v: v[..., :1], "wide": lambda r, v: v[None]}[self.what]


@pytest.mark.parametrize("what", ["none", "shape", "wide"])
def test_a_wrong_local_response_is_refused(what):
    with pytest.raises(StrategyError, match=r"local gave .* at row 1") as caught:
        run(make_case(exponential_scheme(4), batch=2), jacobian=WrongLocal(what))
    assert "WrongLocal" in "".join(caught.value.__notes__)


@attrs.frozen
class Raises(StoppingRule):
    def converged(self, round, state):
        raise ZeroDivisionError("of my own")


def test_an_error_of_a_part_keeps_its_type_and_gets_a_note():
    with pytest.raises(ZeroDivisionError, match="of my own") as caught:
        run(make_case(exponential_scheme(4)), stopping=Raises())
    assert caught.value.__notes__ == ["raised by the stopping Raises()"]


def writes(what):
    def act(round):
        match what:
            case "output":
                round.outputs[1].mul_(2)
            case "anchor":
                round.anchors[1].zero_()
            case "state":
                round.window.state_rows[0].add_(1)
            case "chain":
                round.chain[1].add_(1)
            case "list":
                round.outputs[1] = torch.zeros_like(round.outputs[1])
            case "gap":
                round.gap[...] = 0.0
            case "age":
                round.age[...] = 7
            case "front":
                round.window.front[...] = 0
            case "running":
                round.window.running[...] = False
            case "rebound":
                round.gap = np.zeros_like(round.gap)

    return act


@attrs.frozen
class Writes(StoppingRule):
    what: str

    def converged(self, round, state):
        writes(self.what)(round)
        return np.ones(round.age.shape, dtype=bool)


@pytest.mark.parametrize(
    "what", ["output", "anchor", "state", "chain", "list", "gap", "age", "front", "running", "rebound"]
)
def test_a_part_that_writes_into_what_it_was_shown_is_caught(what):
    with pytest.raises(StrategyError, match=r"stopping Writes\(what='\w+'\) wrote into the engine's"):
        run(make_case(exponential_scheme(6), batch=2, stiffness=2.0), stopping=Writes(what))


@attrs.frozen
class WritesRhs(Preconditioner):
    def apply(self, round, rhs, damping, state):
        return rhs.mul_(0.5)


@attrs.frozen
class WritesStates(Initializer):
    def enter(self, window, rows, last, state):
        window.state_rows[0].mul_(2)
        return list(window.state_rows)


@attrs.frozen
class WritesEntering(Initializer):
    """Writing into the mask it was given does not reach the engine."""

    def enter(self, window, rows, last, state):
        rows[...] = True
        return [torch.zeros_like(row) for row in window.state_rows]


def test_other_parts_that_write():
    case = make_case(exponential_scheme(6), batch=2)
    for kind, part in (("preconditioner", WritesRhs()), ("initializer", WritesStates())):
        with pytest.raises(StrategyError, match=f"{kind} .* wrote into"):
            run(case, **{kind: part})
    result = run(case, initializer=WritesEntering(), tolerance=0)
    assert torch.equal(result.sample, case.reference())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda x, t, rows: None, "returned NoneType"),
        (lambda x, t, rows: x.numpy(), "returned ndarray"),
        (lambda x, t, rows: x[:, :1], r"returned shape \(\d, 1\)"),
        (lambda x, t, rows: x[:1].expand(0, 3), r"returned shape \(0, 3\)"),
        (lambda x, t, rows: x.float(), "returned torch.float32, the states are torch.float64: convert"),
        (lambda x, t, rows: x.to("meta"), "on meta, the states are on cpu"),
    ],
)
def test_a_network_that_answers_wrongly(network, message):
    problem = make_case(exponential_scheme(4), batch=2).problem
    for sampler in (Engine(composition()), Engine(composition(window=1))):
        with pytest.raises(DenoiserError, match=message):
            paracore.solve(sampler, problem, paracore.evaluators.batched(network))


def test_an_evaluator_that_answers_wrongly():
    case = make_case(exponential_scheme(4), batch=2)

    class Wrong:
        capabilities = frozenset()

        def __init__(self, answer):
            self.answer = answer

        def evaluate(self, request):
            return Outputs(self.answer(request.states))

    for answer, message in (
        (lambda x: x[:-1], "returned shape"),
        (lambda x: x.tolist(), "returned list"),
        (lambda x: x.half(), "returned torch.float16"),
    ):
        with pytest.raises(DenoiserError, match=message):
            paracore.solve(Engine(composition()), case.problem, Wrong(answer))


def test_an_error_in_the_network_comes_through():
    def network(x, t, rows):
        raise MemoryError("out of memory")

    with pytest.raises(MemoryError, match="out of memory"):
        paracore.solve(
            Engine(composition()), make_case(exponential_scheme(4)).problem, paracore.evaluators.batched(network)
        )


@attrs.frozen
class Needs(Initializer):
    needs: ClassVar[frozenset[str]] = frozenset({"score"})

    def enter(self, window, rows, last, state):
        return list(window.state_rows)


def test_capabilities_are_checked_at_the_start_and_both_parts_named():
    case = make_case(exponential_scheme(4))
    message = r"initializer Needs\(\) needs noise levels.*scheme 'exponential' has none"
    with pytest.raises(CapabilityError, match=message):
        run(case, initializer=Needs())
    assert run(make_case(flow_euler(4)), initializer=Needs()).ok
    with pytest.raises(CapabilityError, match="stopping ScaledResidual"):
        run(case, stopping=paracore.registry.make("stopping", "scaled-residual"))
    with pytest.raises(ConfigurationError, match="form 'data' needs noise levels"):
        run(case, output_form="data")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("window", 0),
        ("window", 2.0),
        ("window", True),
        ("tolerance", -1e-3),
        ("tolerance", float("nan")),
        ("warmup", -1),
        ("warmup", 0.5),
        ("jacobian", None),
        ("damping", AllRows()),
        ("stopping", "change"),
    ],
)
def test_options_are_checked_and_named(option, value):
    with pytest.raises(ConfigurationError, match=rf"^{option} is .*needed"):
        composition(**{option: value})


# -- what is told ---------------------------------------------------------------------------------------------------


class Watcher(paracore.Observer):
    def __init__(self, preview=False):
        self.wants_preview = preview
        self.finished, self.advanced = [], []

    def round_finished(self, event):
        self.finished.append(event)

    def samples_advanced(self, event):
        self.advanced.append(event)


def test_observers_see_each_round_and_change_nothing():
    case = random_case(7, kind="multistep", steps=10, batch=3)
    sampler = Engine(composition(tolerance=1e-2))
    quiet = paracore.solve(sampler, case.problem, case.evaluator())
    one, two, counting = Watcher(), Watcher(preview=True), Counting(case.evaluator())
    result = paracore.solve(sampler, case.problem, counting, observers=[one, two])
    assert torch.equal(result.sample, quiet.sample)
    assert [e.round for e in one.finished] == list(range(1, result.total_rounds + 1))
    assert [e.rows for e in one.finished] == [len(nodes) for nodes, _ in counting.requests]
    total = np.zeros(3, dtype=int)
    for event in one.finished:
        total += event.advanced
        np.testing.assert_array_equal(total, event.front)
        assert event.steps == 10
    np.testing.assert_array_equal(total, 10)
    assert len(one.advanced) == len(one.finished)
    assert [e.seconds for e in one.finished] == sorted(e.seconds for e in one.finished)
    assert len(two.finished) == len(one.finished)


def test_previews_end_at_the_sample_and_stay_there():
    """The data prediction at the newest accepted node; a finished sample keeps its last one."""
    case = random_case(3, kind="multistep", steps=10, batch=3)
    watcher = Watcher(preview=True)
    result = paracore.solve(Engine(composition(tolerance=1e-2)), case.problem, case.evaluator(), observers=[watcher])
    previews = torch.stack([e.preview for e in watcher.finished])
    assert previews.shape == (result.total_rounds, *result.sample.shape)
    for k, event in enumerate(watcher.finished):
        for b in range(3):
            if k and not event.advanced[b]:
                assert torch.equal(previews[k, b], previews[k - 1, b])
    assert len({int(r) for r in result.rounds}) > 1
    scheme = case.problem.scheme
    u, v = scheme.levels.conversion(scheme.prediction, "data", slice(0, 10))
    states = case.reference(trajectory=True)
    exact_watcher = Watcher(preview=True)
    paracore.solve(Engine(composition(tolerance=0)), case.problem, case.evaluator(), observers=[exact_watcher])
    for event in exact_watcher.finished:
        for b in range(3):
            node = int(event.front[b]) - 1
            x = states[node, b][None]
            rows = paracore.Rows(torch.tensor([node]), torch.tensor([b]))
            f = case.network(x, torch.full((1,), float(scheme.time[node]), dtype=torch.float64), rows)
            torch.testing.assert_close(event.preview[b], (x * u[node] + f * v[node])[0])


def test_without_levels_there_is_no_preview():
    case, watcher = make_case(exponential_scheme(4)), Watcher(preview=True)
    paracore.solve(Engine(composition()), case.problem, case.evaluator(), observers=[watcher])
    assert [e.preview for e in watcher.finished] == [None] * len(watcher.finished)


def test_the_trace_records_each_round():
    case = random_case(7, kind="flow", steps=12, batch=2)
    counting = Counting(case.evaluator())
    result = paracore.solve(
        Engine(composition(tolerance=1e-2, selection=EveryKth(2), damping=ConstantDamping(0.25))),
        case.problem,
        counting,
        trace=True,
    )
    assert len(result.trace) == result.total_rounds
    front = np.zeros(2, dtype=int)
    for entry, (nodes, _) in zip(result.trace, counting.requests, strict=True):
        np.testing.assert_array_equal(entry.front, front)
        front = front + entry.accepted
        assert entry.evaluated.sum() == len(nodes)
        shape = entry.evaluated.shape
        assert entry.residual.shape == entry.gap.shape == entry.damping.shape == entry.look_ahead.shape == shape
        assert (entry.gap[0] == 0).all()
        assert (entry.damping == 0.25).all()
    np.testing.assert_array_equal(front, 12)


def test_the_residual_of_the_trace_is_the_one_step_residual():
    case = make_case(exponential_scheme(5), batch=1, dim=2)
    counting = Counting(case.evaluator(), keep=True)
    sampler = Engine(composition(window=5, tolerance=0))
    result = paracore.solve(sampler, case.problem, counting, trace=True)
    scheme, states = case.problem.scheme, counting.states[0]
    for r in range(4):
        rows = paracore.Rows(torch.tensor([r]), torch.tensor([0]))
        f = case.network(states[r : r + 1], torch.tensor([scheme.time[r]]), rows)
        residual = states[r + 1] - states[r] - scheme.b[r, 0] * f[0]
        assert result.trace[0].residual[r, 0] == pytest.approx(float(residual.pow(2).mean().sqrt()), rel=1e-9)


@pytest.mark.parametrize("selection", [AllRows(), EveryKth(2)])
def test_numbers_agree_with_a_counting_evaluator(selection):
    class Guided:
        calls_per_evaluation = 2

        def __init__(self, inner):
            self.inner = inner

        def __call__(self, x, t, rows):
            return self.inner(x, t, rows)

    case = random_case(7, kind="flow", steps=12, batch=3)
    counting = Counting(paracore.evaluators.batched(Guided(case.network), max_batch=2))
    result = paracore.solve(Engine(composition(tolerance=1e-2, selection=selection)), case.problem, counting)
    sizes = [len(nodes) for nodes, _ in counting.requests]
    assert result.total_rounds == len(sizes)
    assert result.largest_request == max(sizes)
    assert int(result.evaluations.sum()) == sum(sizes)
    assert result.network_calls == counting.calls == 2 * sum(sizes)
    for b in range(3):
        assert result.evaluations[b] == sum(samples.count(b) for _, samples in counting.requests)
    assert 0 <= result.solver_time <= result.wall_time
    assert result.speedup == 12 / result.total_rounds
    assert result.as_dict()["network_calls"] == result.network_calls


def test_statuses():
    case = make_case(flow_euler(12), batch=2, stiffness=0.5)
    assert run(case, tolerance=0).status == (Status.EXACT,) * 2
    assert run(case, tolerance=1e-12, window=1).status == (Status.EXACT,) * 2
    assert run(case, tolerance=1e-1).status == (Status.CONVERGED,) * 2
    assert run(case, stopping=FixedRounds(4)).status == (Status.BUDGET_COMPLETED,) * 2
    assert run(case, stopping=FixedRounds(12)).rounds.max() <= 12


@pytest.mark.parametrize("steps", [12, 13, 20])
@pytest.mark.parametrize(("rounds", "window"), [(3, 8), (4, 5), (5, 4), (2, 20), (5, 30)])
def test_a_fixed_number_of_rounds_ends_after_exactly_that_many(steps, rounds, window):
    case = make_case(flow_euler(steps), batch=2, stiffness=2.0)
    options = {"stopping": FixedRounds(rounds), "window": window}
    if rounds * window < steps:
        with pytest.raises(ConfigurationError, match=f"cannot cover {steps} steps"):
            run(case, **options)
        return
    result = run(case, **options)
    assert result.rounds.tolist() == [rounds, rounds]
    assert result.status == (Status.BUDGET_COMPLETED,) * 2


def test_a_warm_start_from_ones_own_trajectory_needs_few_rounds():
    case = make_case(flow_euler(24), batch=3, stiffness=1.0)
    cold = paracore.solve(Engine(composition(tolerance=1e-6)), case.problem, case.evaluator(), trajectory=True)
    for trajectory in (cold.trajectory, cold.trajectory.clone()):
        warm = run(case, tolerance=1e-4, initializer=WarmStart(trajectory))
        assert warm.rounds.max() <= 7  # 24 rows in windows of 4
        assert (warm.sample - cold.sample).norm() <= 1e-3 * cold.sample.norm()
    assert cold.rounds.min() > 10
    exact = run(case, tolerance=0, initializer=WarmStart(case.reference(trajectory=True)))
    assert exact.rounds.tolist() == [6, 6, 6]
    with pytest.raises(ConfigurationError, match="the trajectory has shape"):
        run(case, initializer=WarmStart(cold.trajectory[:-1]))


@pytest.mark.parametrize("stride", [2, 3])
def test_skipped_rows_are_counted(stride):
    case = make_case(flow_euler(24), batch=2, stiffness=0.5)
    result = run(case, tolerance=0.1, selection=EveryKth(stride))
    dense = run(case, tolerance=0.1)
    assert (result.interpolated > 0).all()
    assert not dense.interpolated.any()
    assert result.total_rounds <= dense.total_rounds
    error = (result.sample - case.reference()).norm() / case.reference().norm()
    assert 0 < error < 0.1
    assert not run(case, tolerance=0, selection=EveryKth(stride)).interpolated.any()


def test_a_trajectory_is_kept_only_if_asked():
    case = make_case(flow_euler(6))
    sampler = Engine(composition())
    assert paracore.solve(sampler, case.problem, case.evaluator()).trajectory is None
    kept = paracore.solve(sampler, case.problem, case.evaluator(), trajectory=True)
    assert torch.equal(kept.trajectory[0], case.problem.x0)
    assert torch.equal(kept.trajectory[-1], kept.sample)


def test_weights_follow_the_adapted_look_ahead():
    """``solve`` is given the weights of the next look-ahead, the residual those of the last."""

    @attrs.frozen
    class Growing(ResidualConstruction):
        def start(self, problem, rows):
            return 1

        def weights(self, window, state):
            return LookAhead(state).weights(window, None)

        def adapt(self, round, state):
            return state + 1

    seen = []

    @attrs.frozen
    class Looks(JacobianApproximation):
        reads_residuals: ClassVar[bool] = True

        def solve(self, round, weights, rhs, damping, state):
            assert isinstance(weights, RowWeights)
            seen.append(((round.weights.f != 0).sum(axis=1)[-1, 0], (weights.f != 0).sum(axis=1)[-1, 0]))
            return None

    run(make_case(exponential_scheme(4), batch=1), residual=Growing(), jacobian=Looks(), tolerance=0, window=4)
    assert [tuple(map(int, pair)) for pair in seen][:2] == [(1, 2), (2, 3)]


def test_an_observer_of_a_damping_policy_without_review():
    """The default review changes nothing and asks for nothing."""
    assert NoDamping().review(None, None, "state") == (None, "state")
    case = make_case(exponential_scheme(6))
    assert torch.equal(run(case, damping=ConstantDamping(0.0), tolerance=0).sample, run(case, tolerance=0).sample)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copy_and_lockstep_in_low_precision(dtype):
    case = random_case(3, kind="flow", steps=9, batch=2, dtype=dtype, lockstep=True)
    result = run(case, initializer=Copy(), tolerance=1e-2)
    assert result.rounds[0] == result.rounds[1]
    assert result.sample.dtype == dtype
