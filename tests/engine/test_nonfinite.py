"""Non-finite numbers are contained: at the front a status that names the node, elsewhere nothing worse than a round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import paracore
from paracore.engine import Engine
from paracore.errors import SolveError
from paracore.parts import AllRows, ErrorTarget, Hold, LookAhead
from paracore.schemes import Scheme, flow_euler
from paracore.status import Status
from paracore.strategies import StoppingRule
from paracore.testing.adversarial import (
    BadDamping,
    BadInitializer,
    BadJacobian,
    BadPreconditioner,
    BadResidual,
    BadSelection,
)
from paracore.testing.problems import Case, make_case, random_case

BAD = [float("nan"), float("inf"), float("-inf")]


class Poisoned:
    """A network that answers one element of chosen rows with a number of choice."""

    def __init__(self, inner, value, *, node=None, sample=None, above=None):
        self.inner, self.value, self.node, self.sample, self.above = inner, value, node, sample, above

    def __call__(self, x, t, rows):
        out = self.inner(x, t, rows).clone()
        hit = torch.ones(len(x), dtype=torch.bool)
        if self.node is not None:
            hit &= rows.node == self.node
        if self.sample is not None:
            hit &= rows.sample == self.sample
        if self.above is not None:
            hit &= x.abs().flatten(1).amax(dim=1) > self.above
        out.view(len(x), -1)[hit, 0] = self.value
        return out


def composition(**options):
    options = {"residual": LookAhead(), "stopping": ErrorTarget(), "initializer": Hold(), **options}
    return paracore.Composition(**{"selection": AllRows(), "window": 5, **options})


def poison(case, *args, **options):
    return Case(case.problem, Poisoned(case.network, *args, **options), case.label, case.alone)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize("kind", ["flow", "multistep", "ddpm"])
def test_at_the_front_the_sample_stops_and_the_others_do_not_notice(value, tolerance, kind):
    case = random_case(4, kind=kind, steps=12, batch=3)
    bad = poison(case, value, node=7, sample=1)
    sampler = Engine(composition(tolerance=tolerance))
    clean = paracore.solve(sampler, case.problem, case.evaluator())
    result = paracore.solve(sampler, bad.problem, bad.evaluator(), raise_on_failure=False, trajectory=True)
    assert result.status[1] is Status.NONFINITE_OUTPUT
    assert result.front[1] == 7
    assert not result.ok
    assert torch.isfinite(result.sample).all()
    assert torch.equal(result.sample[1], result.trajectory[7, 1])
    if tolerance == 0:
        assert torch.equal(result.sample[1], case.reference(trajectory=True)[7, 1])
    for b in (0, 2):
        assert torch.equal(result.sample[b], clean.sample[b])
        assert result.rounds[b] == clean.rounds[b]
        assert result.status[b] == clean.status[b]


def test_solve_raises_and_carries_the_result():
    bad = poison(random_case(4, kind="flow", steps=12, batch=3), float("nan"), node=7, sample=1)
    message = r"1 of 3 samples failed; sample 1: .*non-finite output.*node 7 of 12"
    with pytest.raises(SolveError, match=message) as caught:
        paracore.solve(Engine(composition()), bad.problem, bad.evaluator())
    assert caught.value.result.status[1] is Status.NONFINITE_OUTPUT
    assert caught.value.result.front.tolist() == [12, 7, 12]


def test_all_samples_fail_at_once_and_in_lockstep():
    case = random_case(4, kind="flow", steps=6, batch=2, lockstep=True)
    bad = poison(case, float("nan"), node=3)
    result = paracore.solve(Engine(composition()), bad.problem, bad.evaluator(), raise_on_failure=False)
    assert [s.name for s in result.status] == ["NONFINITE_OUTPUT"] * 2
    assert result.front.tolist() == [3, 3]
    one = poison(case, float("nan"), node=3, sample=0)
    result = paracore.solve(Engine(composition(tolerance=0)), one.problem, one.evaluator(), raise_on_failure=False)
    assert result.front.tolist() == [3, 6]
    assert torch.equal(result.sample[1], case.reference()[1])


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("selection", ["all", "every-kth"])
@pytest.mark.parametrize("tolerance", [0.0, 1e-2])
def test_elsewhere_in_the_window_it_is_contained(value, selection, tolerance):
    """The network overflows at wild guesses only; the sequential trajectory never goes there."""
    case = random_case(8, kind="flow", steps=14, batch=2)
    limit = float(case.reference(trajectory=True).abs().max()) * 1.5
    bad = poison(case, value, above=limit)
    for guess in (BadInitializer("huge"), BadInitializer("random", 3)):
        sampler = paracore.compose(window=5, tolerance=tolerance, initializer=guess, selection=selection)
        result = paracore.solve(sampler, bad.problem, bad.evaluator())
        assert torch.isfinite(result.sample).all()
        assert result.rounds.max() <= 14
        error = (result.sample - case.reference()).norm() / case.reference().norm()
        assert error == 0 if tolerance == 0 else error < 0.3


@pytest.mark.parametrize("selection", ["all", "every-kth"])
def test_the_accepted_prefix_ends_before_a_row_that_was_not_finite(selection):
    case = random_case(8, kind="flow", steps=12, batch=1)
    bad = poison(case, float("nan"), node=3)
    sampler = paracore.compose(window=12, tolerance=1e6, stopping="change", selection=selection)
    result = paracore.solve(sampler, bad.problem, bad.evaluator(), raise_on_failure=False)
    assert result.front[0] == 3
    assert result.status[0] is Status.NONFINITE_OUTPUT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [0, 1])
def test_a_scheme_step_that_overflows(dtype, memory):
    steps = 8
    a = np.ones((steps, memory + 1))
    a[:, 1:] = 0.0
    a[5, 0] = 1e38
    scheme = Scheme.create(a, np.full((steps, 1), 0.1), np.linspace(1, 0, steps, endpoint=False), name="overflow")
    case = make_case(scheme, batch=2, dim=3, dtype=dtype)
    case.problem.x0[0] *= 1e-6
    calm = paracore.Problem(scheme, torch.cat([case.problem.x0[:1] * 0, 1e4 + case.problem.x0[1:]]))

    class Still:
        def __call__(self, x, t, rows):
            return torch.zeros_like(x)

    for tolerance in (0.0, 1e-2):
        result = paracore.solve(
            Engine(composition(tolerance=tolerance)),
            calm,
            paracore.evaluators.batched(Still(), max_batch=1),
            raise_on_failure=False,
        )
        assert result.status[1] is Status.NONFINITE_STATE
        assert result.front[1] == 5
        assert result.status[0] > 0
        assert torch.isfinite(result.sample).all()


PARTS = {
    "initializer": BadInitializer,
    "jacobian": BadJacobian,
    "local": lambda mode: BadJacobian(mode, with_solve=False),
    "solve": lambda mode: BadJacobian(mode, with_local=False),
    "damping": BadDamping,
    "preconditioner": BadPreconditioner,
    "residual": BadResidual,
    "selection": lambda mode: BadSelection(mode, chance=0.3, extra=3),
}


@pytest.mark.parametrize("mode", ["nan", "inf", "huge", "mixed"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["flow", "table-memory"])
def test_every_kind_of_part(part, mode, kind):
    case = random_case(6, kind=kind, steps=9, batch=2, dtype=torch.float32)
    name = {"local": "jacobian", "solve": "jacobian"}.get(part, part)
    options = {name: PARTS[part](mode)}
    if part == "residual":
        options["jacobian"] = paracore.registry.make("jacobian", "identity")
    exact = paracore.solve(Engine(composition(tolerance=0, **options)), case.problem, case.evaluator())
    assert torch.equal(exact.sample, case.reference())
    assert exact.rounds.max() <= case.problem.scheme.steps
    loose = paracore.solve(Engine(composition(tolerance=1e-2, **options)), case.problem, case.evaluator())
    assert torch.isfinite(loose.sample).all()
    assert loose.rounds.max() <= case.problem.scheme.steps


def test_values_whose_squares_overflow_are_not_mistaken_for_infinite():
    scheme = flow_euler(6)
    problem = paracore.Problem(scheme, torch.full((1, 3), 1e25))

    def network(x, t, rows):
        return x * 1.5

    evaluator = paracore.evaluators.batched(network, max_batch=1)
    result = paracore.solve(Engine(composition(tolerance=0)), problem, evaluator)
    assert torch.equal(result.sample, paracore.sequential(problem, evaluator))
    assert torch.isfinite(paracore.solve(Engine(composition(tolerance=1e-2)), problem, evaluator).sample).all()


def test_a_row_that_was_evaluated_before_and_is_not_finite_now_is_filled_again():
    """It counts as not evaluated: its old output, which belongs to another state, is not used."""
    case = random_case(8, kind="flow", steps=10, batch=2)
    seen = []

    class Watch(StoppingRule):
        def converged(self, round, state):
            seen.append((round.window.nodes.copy(), round.evaluated.copy(), round.age.copy(), list(round.outputs)))
            return np.zeros(round.age.shape, dtype=bool)

    class Second:
        """Answers node 5 of sample 1 with NaN, the second time it is asked."""

        times = 0

        def __call__(self, x, t, rows):
            out = case.network(x, t, rows)
            if int(rows.node[0]) == 5 and int(rows.sample[0]) == 1:
                self.times += 1
                if self.times == 2:
                    return out * float("nan")
            return out

    sampler = Engine(composition(stopping=Watch(), window=4))
    result = paracore.solve(sampler, case.problem, paracore.evaluators.batched(Second(), max_batch=1))
    assert torch.equal(result.sample, case.reference())
    hits = 0
    for nodes, evaluated, age, outputs in seen:
        for r in range(1, len(nodes)):
            if nodes[r, 1] == 5 and not evaluated[r, 1]:
                hits += 1
                assert age[r, 1] == -1
                assert torch.equal(outputs[r][1], outputs[r - 1][1])  # held from the left
                assert evaluated[r, 0]
    assert hits == 1
