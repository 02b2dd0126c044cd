"""Linear solves that ask for Jacobian-vector products: each request is a round, paid from rounds already saved."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch

import paracore
from paracore.checkpoint import save_checkpoint
from paracore.engine import Engine
from paracore.errors import CapabilityError, CheckpointError, DenoiserError, StrategyError
from paracore.parts import AbsoluteChange, AllRows, Copy, Hold, LookAhead
from paracore.request import Outputs
from paracore.schemes import flow_euler
from paracore.strategies import JacobianApproximation
from paracore.testing.adversarial import BadKrylov
from paracore.testing.problems import Counting, exponential_scheme, make_case, random_case


@attrs.frozen
class Newton(JacobianApproximation):
    """Exact Newton by forward substitution: one product per row, while rounds last (memory-0 tables)."""

    needs: ClassVar[frozenset[str]] = frozenset({"jvp"})

    def solve(self, round, weights, rhs, damping, state):
        return self._run(round)

    def _run(self, round):
        window = round.window
        states = [window.state_rows[0]]
        product = torch.zeros_like(states[0])
        for r in range(window.rows):
            states.append(window.step(r, [states[r]], [round.outputs[r] + product]))
            if r + 1 < window.rows:
                tangents = torch.zeros((window.rows, *states[0].shape), dtype=states[0].dtype)
                tangents[r + 1] = states[r + 1] - round.anchors[r + 1]
                answer = yield tangents, window.running & window.valid[r + 1]
                product = torch.zeros_like(states[0]) if answer is None else answer[r + 1]
        return torch.stack(states[1:])


def composition(**options):
    base: dict[str, Any] = {
        "residual": LookAhead(),
        "stopping": AbsoluteChange(),
        "initializer": Hold(),
        "selection": AllRows(),
        "jacobian": Newton(),
        "window": 6,
        "tolerance": 1e-6,
    }
    return paracore.Composition(**{**base, **options})


@pytest.mark.parametrize("tolerance", [0.0, 1e-8, 1e-3])
@pytest.mark.parametrize("linear", [True, False])
def test_exact_newton_gives_the_right_answer_within_n_rounds(tolerance, linear):
    case = make_case(exponential_scheme(16), batch=3, dim=3, stiffness=0.7, linear=linear)
    counting = Counting(case.evaluator(jvp=True))
    result = paracore.solve(Engine(composition(tolerance=tolerance)), case.problem, counting)
    reference = case.reference()
    assert (result.rounds <= 16).all()
    assert (
        torch.equal(result.sample, reference)
        if tolerance == 0
        else torch.allclose(result.sample, reference, atol=50 * tolerance)
    )
    asked = np.zeros(3, dtype=int)
    for _, samples in counting.requests:
        for b in set(samples):
            asked[b] += 1
    np.testing.assert_array_equal(asked, result.rounds)
    assert result.total_rounds == len(counting.requests)
    assert result.network_calls == counting.calls
    assert int(result.evaluations.sum()) == sum(len(n) for n, _ in counting.requests)


def test_products_are_asked_for_only_once_rounds_were_saved_and_they_help():
    case = make_case(exponential_scheme(30), batch=1, dim=3, stiffness=0.3, linear=True)
    counting = Counting(case.evaluator(jvp=True))
    result = paracore.solve(Engine(composition(tolerance=1e-3, window=8)), case.problem, counting, trace=True)
    assert any(counting.tangents)
    spent, saved, main = 0, 0, iter(result.trace)
    for with_tangents in counting.tangents:
        if with_tangents:
            spent += 1
            assert spent <= saved
        else:
            entry = next(main)
            # the front before the round plus this round's exact row, less the rounds made
            saved = int(entry.front[0]) + 1 - (result.trace.index(entry) + 1)
    assert spent > 0


def test_whose_part_it_is_is_not_looked_up_while_nothing_is_wrong(monkeypatch):
    """It reads what is installed: milliseconds; the generator's end is an exception in every round."""
    asked = []
    monkeypatch.setattr("paracore.guard.origin_of", asked.append)
    case = make_case(exponential_scheme(30), batch=1, dim=3, stiffness=0.3, linear=True)
    counting = Counting(case.evaluator(jvp=True))
    assert paracore.solve(Engine(composition(tolerance=1e-3, window=8)), case.problem, counting).ok
    assert any(counting.tangents)
    assert not asked


@pytest.mark.parametrize("seed", range(4))
def test_spare_rounds_are_kept_per_sample(seed):
    case = random_case(seed, kind=["flow", "multistep", "ddpm", "table-memory"][seed % 4], steps=14, batch=3)
    for tolerance in (0.0, 1e-2, 10.0):
        options = {"jacobian": BadKrylov("random", seed), "tolerance": tolerance, "initializer": Copy()}
        sampler = Engine(composition(**options))
        together = paracore.solve(sampler, case.problem, case.evaluator(jvp=True))
        assert (together.rounds <= together.steps).all()
        for b in range(3):
            alone = paracore.solve(sampler, case.alone(b).problem, case.alone(b).evaluator(jvp=True))
            assert alone.rounds[0] == together.rounds[b]
            assert torch.equal(alone.sample[0], together.sample[b])


def test_an_evaluator_without_products_is_refused_by_name():
    case = make_case(flow_euler(4), batch=1)
    with pytest.raises(CapabilityError, match=r"Newton.*needs jvp.*Batched.*jvp=True"):
        paracore.solve(Engine(composition()), case.problem, case.evaluator(jvp=False))


def test_an_evaluator_that_forgets_the_products_is_an_error():
    case = make_case(exponential_scheme(12), batch=1, stiffness=0.3)

    class Forgets:
        capabilities = frozenset({"jvp"})

        def evaluate(self, request):
            return Outputs(case.evaluator().evaluate(attrs.evolve(request, tangents=None)).values)

    with pytest.raises(DenoiserError, match="no Jacobian-vector products"):
        paracore.solve(Engine(composition(tolerance=1.0)), case.problem, Forgets())


@attrs.frozen
class Endless(JacobianApproximation):
    """Goes on asking after the rounds are spent."""

    def solve(self, round, weights, rhs, damping, state):
        return self._run(round)

    def _run(self, round):
        while True:
            yield torch.zeros((round.window.rows, *round.chain[0].shape), dtype=torch.float64), round.window.running


@attrs.frozen
class Asks(JacobianApproximation):
    """Asks with something of the wrong kind."""

    what: str

    def solve(self, round, weights, rhs, damping, state):
        return self._run(round)

    def _run(self, round):
        good = torch.zeros((round.window.rows, *round.chain[0].shape), dtype=torch.float64)
        who = round.window.running.copy()
        yield {
            "no-tuple": good,
            "rows": (good[:-1], who),
            "shape": (good[..., :-1], who),
            "dtype": (good.float(), who),
            "who": (good, who[:-1]),
            "who-dtype": (good, who.astype(float)),
        }[self.what]
        return good


@pytest.mark.parametrize("what", ["no-tuple", "rows", "shape", "dtype", "who", "who-dtype"])
def test_malformed_requests_name_the_part(what):
    case = make_case(exponential_scheme(8), batch=2)
    with pytest.raises(StrategyError, match=rf"jacobian Asks\(what='{what}'\)"):
        paracore.solve(Engine(composition(jacobian=Asks(what))), case.problem, case.evaluator(jvp=True))


def test_a_solve_that_never_ends_is_an_error_and_no_hang():
    case = make_case(exponential_scheme(8), batch=2)
    with pytest.raises(StrategyError, match="no rounds are left"):
        paracore.solve(Engine(composition(jacobian=Endless())), case.problem, case.evaluator(jvp=True))


def test_a_checkpoint_waits_for_the_end_of_the_round(tmp_path):
    case = make_case(exponential_scheme(20), batch=1, dim=3, stiffness=0.3, linear=True)
    sampler, evaluator = Engine(composition(tolerance=1e-3, window=8)), case.evaluator(jvp=True)
    unbroken = paracore.solve(sampler, case.problem, evaluator)
    state, refused, saved = sampler.start(case.problem), 0, 0
    while (request := sampler.request(state)) is not None:
        if state.krylov is not None:
            with pytest.raises(CheckpointError, match="under way"):
                sampler.plain(state)
            refused += 1
        else:
            save_checkpoint(sampler.plain(state), tmp_path / "state.pt")
            state = sampler.restore(case.problem, paracore.load_checkpoint(tmp_path / "state.pt"))
            saved += 1
        state = sampler.advance(state, evaluator.evaluate(request))
    assert refused
    assert saved
    assert torch.equal(sampler.result(state).sample, unbroken.sample)
    paracore.solve(sampler, case.problem, evaluator, checkpoint=tmp_path / "other.pt")
    assert (tmp_path / "other.pt").exists()
