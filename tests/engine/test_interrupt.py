"""Ctrl-C: nothing that was accepted is lost, and going on gives the bits of the unbroken run."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.engine import Engine
from paracore.errors import SolveInterrupted
from paracore.status import Status
from paracore.strategies import DampingPolicy
from paracore.testing.adversarial import random_composition
from paracore.testing.problems import random_case


class Interrupting:
    """Raises ``KeyboardInterrupt`` before its n-th answer."""

    def __init__(self, inner, at):
        self.inner, self.left, self.capabilities = inner, at, inner.capabilities

    def evaluate(self, request):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.inner.evaluate(request)


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.integers(0, 12), st.sampled_from([0.0, None]))
def test_at_any_call(seed, at, tolerance):
    case = random_case(seed)
    sampler = Engine(random_composition(seed, case.problem, tolerance=tolerance, adversarial=0.3))
    unbroken = paracore.solve(sampler, case.problem, case.evaluator(), trajectory=True, trace=True)
    stop, options = None, {"trajectory": True, "trace": True}
    try:
        result = paracore.solve(sampler, case.problem, Interrupting(case.evaluator(), at), **options)
    except SolveInterrupted as error:
        stop = error
    assert (stop is not None) == (at < unbroken.total_rounds)
    if stop is not None:
        partial = stop.result
        assert partial.total_rounds == at
        for b, front in enumerate(partial.front):
            reached = front == partial.steps
            assert partial.status[b] is (unbroken.status[b] if reached else Status.INTERRUPTED)
            assert torch.equal(partial.sample[b], unbroken.trajectory[front, b])
            assert torch.equal(partial.trajectory[: front + 1, b], unbroken.trajectory[: front + 1, b])
        result = paracore.solve(sampler, case.problem, case.evaluator(), state=stop.state)
    assert torch.equal(result.trajectory, unbroken.trajectory)
    assert torch.equal(result.sample, unbroken.sample)
    assert len(result.trace) == len(unbroken.trace)
    for name in ("front", "rounds", "evaluations", "residual"):
        np.testing.assert_array_equal(getattr(result, name), getattr(unbroken, name))


def test_the_message_says_how_far_it_got():
    case = random_case(2, kind="flow", steps=9, batch=2)
    with pytest.raises(SolveInterrupted, match=r"interrupted after 2 rounds; accepted up to node \[\d+, \d+\] of 9"):
        paracore.solve(
            paracore.sampler("picard", window=3, tolerance=0), case.problem, Interrupting(case.evaluator(), 2)
        )


def test_a_checkpoint_that_was_asked_for_is_saved(tmp_path):
    case, path = random_case(3, kind="flow", steps=9, batch=2), tmp_path / "state.pt"
    sampler = paracore.sampler("picard", window=3, tolerance=0)
    unbroken = paracore.solve(sampler, case.problem, case.evaluator())
    options = {"checkpoint": path, "checkpoint_every": 1000}
    with pytest.raises(SolveInterrupted, match=r"interrupted after 2 rounds.*state saved to"):
        paracore.solve(sampler, case.problem, Interrupting(case.evaluator(), 2), **options)
    state = sampler.restore(case.problem, paracore.load_checkpoint(path))
    assert state.total_rounds == 2
    assert torch.equal(paracore.solve(sampler, case.problem, case.evaluator(), state=state).sample, unbroken.sample)
    full = {"checkpoint": tmp_path / "missing" / "state.pt", "checkpoint_every": 1000}
    with pytest.raises(SolveInterrupted, match="interrupted after 2 rounds") as caught:  # no less said for want of room
        paracore.solve(sampler, case.problem, Interrupting(case.evaluator(), 2), **full)
    assert "could not be written" in caught.value.__cause__.__notes__[0]


@attrs.frozen
class Growing(DampingPolicy):
    """A factor that grows with each review."""

    def start(self, problem, rows):
        return 0.0

    def factors(self, round, state):
        return np.full(round.age.shape, state)

    def review(self, round, trial, state):
        return None, state + 0.1


@pytest.mark.parametrize("kind", ["ddpm", "table-noise", "multistep"])
@pytest.mark.parametrize("where", ["_accept", "_learn", "_enter", "_choose"])
def test_in_the_middle_of_an_advance(monkeypatch, kind, where):
    case = random_case(9, kind=kind, steps=10, batch=2)
    sampler = paracore.compose(window=4, tolerance=1e-2, damping=Growing())
    unbroken = paracore.solve(sampler, case.problem, case.evaluator())
    original, calls = getattr(Engine, where), [0]

    def hit(self, *args):
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Engine, where, hit)
    with pytest.raises(SolveInterrupted) as stop:
        paracore.solve(sampler, case.problem, case.evaluator())
    result = paracore.solve(sampler, case.problem, case.evaluator(), state=stop.value.state)
    assert torch.equal(result.sample, unbroken.sample)
    np.testing.assert_array_equal(result.rounds, unbroken.rounds)


@pytest.mark.parametrize("seed", range(6))
def test_advancing_twice_from_one_state_gives_the_same(seed):
    case = random_case(seed, kind=["ddpm", "multistep", "flow"][seed % 3], steps=10, batch=2)
    sampler, evaluator = paracore.compose(window=4, tolerance=1e-2, damping=Growing()), case.evaluator()
    state = sampler.start(case.problem)
    while (request := sampler.request(state)) is not None:
        outputs = evaluator.evaluate(request)
        sampler.advance(state, outputs)
        state = sampler.advance(state, outputs)
    unbroken = paracore.solve(sampler, case.problem, evaluator)
    assert state.parts["damping"] == pytest.approx(0.1 * unbroken.total_rounds)
    assert torch.equal(sampler.result(state).sample, unbroken.sample)
