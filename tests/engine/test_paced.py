"""The frame for schedules fixed in advance, with a method of the kind that a third party would write."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

import paracore
from paracore.checkpoint import load_checkpoint, save_checkpoint
from paracore.errors import DenoiserError
from paracore.paced import Hit, PacedSampler
from paracore.status import Status
from paracore.testing.problems import KINDS, Counting, make_case, random_case


@attrs.frozen
class Shots(PacedSampler):
    """The exact chain alone; at every node a coarse shot at the end, until two of them agree."""

    tolerance: float = 1e-3
    norm: str = "relative"

    @property
    def outcome(self):
        return Status.CONVERGED

    def first(self, problem, track):
        return {}

    def follow(self, turn):
        steps, move = turn.problem.scheme.steps, turn.moves[0]
        if turn.exact.node == steps:
            return (turn.exact,), {}, [Hit(turn.exact.states[0], turn.running, exact=True)]
        shot = turn.jump(move, steps)
        return (turn.exact,), {}, [Hit(shot.states[0], shot.alive, exact=False)]

    def accepts(self, hits, change):
        return np.asarray(change <= self.tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_tolerance_zero_has_the_bits_of_the_sequential_sampler(kind):
    case = random_case(5, kind=kind, steps=12, batch=2)
    result = paracore.solve(Shots(tolerance=0), case.problem, case.evaluator(), trajectory=True, trace=True)
    assert torch.equal(result.trajectory, case.reference(trajectory=True))
    assert set(result.status) == {Status.EXACT}
    assert (result.rounds == result.evaluations).all()
    assert len(result.trace) == result.total_rounds == case.problem.scheme.steps


def test_a_small_change_ends_a_sample_early():
    case = make_case(paracore.schemes.flow_euler(40), batch=2)
    counting = Counting(case.evaluator())
    result = paracore.solve(Shots(tolerance=0.02), case.problem, counting)
    assert set(result.status) == {Status.CONVERGED}
    assert 1 < result.total_rounds < 40
    assert (result.residual <= 0.02).all()
    assert all(set(nodes) == {r} for r, (nodes, _) in enumerate(counting.requests))


def test_its_state_is_a_checkpoint(tmp_path):
    case = random_case(3, kind="ddpm", steps=10, batch=2)
    sampler, evaluator = Shots(tolerance=1e-9), case.evaluator()
    whole = paracore.solve(sampler, case.problem, evaluator)
    state = sampler.start(case.problem)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), tmp_path / "state.pt")
        state = sampler.restore(case.problem, load_checkpoint(tmp_path / "state.pt"))
        state = sampler.advance(state, evaluator.evaluate(request))
    assert torch.equal(sampler.result(state).sample, whole.sample)
    assert sampler.result(state).status == whole.status


def test_outputs_of_another_shape_are_refused():
    case = make_case(paracore.schemes.flow_euler(5), batch=2)
    sampler = Shots()
    state = sampler.start(case.problem)
    request = sampler.request(state)
    with pytest.raises(DenoiserError, match="shape"):
        sampler.advance(state, paracore.Outputs(request.states[:1]))


def test_it_is_reached_from_the_package():
    assert paracore.paced.PacedSampler is PacedSampler
    assert all(getattr(paracore.paced, name) is not None for name in paracore.paced.__all__)
