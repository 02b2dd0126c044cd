"""SRDS against parareal written out, its pipeline, and its options."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import paracore
from paracore.errors import ConfigurationError
from paracore.paced import distance
from paracore.status import Status
from paracore.testing.problems import Counting, make_case, random_case
from paracore_parareal import SRDS
from paracore_parareal.layout import layout
from reference.srds import arrivals, norms, parareal

CASES = {
    "flow": make_case(paracore.schemes.flow_euler(20), batch=1, dim=4),
    "linear": make_case(paracore.schemes.flow_euler(20), batch=1, dim=4, linear=True),
    "multistep": random_case(1, kind="multistep", steps=18, batch=1),
    "heun": random_case(1, kind="heun", steps=24, batch=1),
    "ddpm": random_case(1, kind="ddpm", steps=18, batch=1),
    "table-memory": random_case(1, kind="table-memory", steps=17, batch=1),
    "table-noise": random_case(2, kind="table-noise", steps=17, batch=1),
}


def as_arrays(case):
    """What the transcription needs: scalars, noise of each node, the network, and x0."""
    scheme, tape = case.problem.scheme, case.problem.tape()
    rows = [tape.row(node) for node in range(scheme.steps)]
    event = case.problem.x0.shape[1:]
    noise = [np.zeros(event) if row is None else row[0].numpy() for row in rows]

    def network(x, node):
        rows = paracore.Rows(node=torch.tensor([node]), sample=torch.tensor([0]))
        time = torch.tensor([scheme.time[node]], dtype=torch.float64)
        return case.network(torch.from_numpy(x)[None], time, rows)[0].numpy()

    return scheme.a, scheme.b, noise, network, case.problem.x0[0].numpy()


def states_by_round(sampler, case):
    """The state of the sampler after each round."""
    state, evaluator = sampler.start(case.problem), case.evaluator()
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        yield state


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("blocks", "coarse"), [(None, 1), (3, 1), (3, 2), (5, 1)])
def test_every_iterate_is_the_one_of_the_formula(name, blocks, coarse):
    case = CASES[name]
    sampler = SRDS(blocks=blocks, coarse=coarse, tolerance=0)
    plan = layout("SRDS", case.problem.scheme, blocks, coarse)
    expected = parareal(*as_arrays(case), plan.coarse, plan.blocks)
    plain = parareal(*as_arrays(case), plan.coarse, plan.blocks, by_index=False)
    compared, found = set(), []
    for state in states_by_round(sampler, case):
        for track in state.tracks:
            block, iteration, kind = track.key
            if track.node == plan.begin(block) and kind == 0:
                value = track.states[0][0].numpy()
                for answer in (expected, plain):
                    np.testing.assert_allclose(value, answer[iteration][block], rtol=1e-9, atol=1e-12)
                compared.add((block, iteration))
        found.append(state.last[0].numpy())
    assert compared == {(i, k) for i in range(plan.blocks) for k in range(i + 1)} - {(0, 0)}
    for iteration, round in enumerate(arrivals(plan.coarse)):
        value = found[round - 1]
        np.testing.assert_allclose(value, expected[iteration][-1], rtol=1e-9, atol=1e-12)
        if round > 1 and iteration == 0:
            assert np.array_equal(found[round - 2], case.problem.x0[0].numpy())


@pytest.mark.parametrize(("steps", "blocks"), [(25, 5), (50, 7), (50, 5), (16, 4)])
def test_a_task_starts_as_soon_as_its_start_state_exists(steps, blocks):
    case = make_case(paracore.schemes.flow_euler(steps), batch=1)
    plan = layout("SRDS", case.problem.scheme, blocks, 1)
    sampler = SRDS(blocks=blocks, tolerance=0)
    hits = [int(state.hits[0]) for state in states_by_round(sampler, case)]
    expected = arrivals(plan.coarse)
    assert [hits.index(k + 1) + 1 for k in range(blocks + 1)] == expected
    assert expected[0] == blocks
    assert expected[-1] == steps
    if steps % blocks == 0:
        length = steps // blocks
        assert expected[1:] == [k * length + blocks - k for k in range(1, blocks + 1)]


def test_the_first_evaluation_of_a_fine_sweep_is_its_coarse_step_too():
    """No state is evaluated twice, and no coarse evaluation is made beside the fine ones."""
    case = make_case(paracore.schemes.flow_euler(25), batch=1)
    counting = Counting(case.evaluator(), keep=True)
    result = paracore.solve(SRDS(tolerance=0), case.problem, counting)
    seen = [
        (n, tuple(x.tolist()))
        for (nodes, _), xs in zip(counting.requests, counting.states, strict=True)
        for n, x in zip(nodes, xs, strict=True)
    ]
    assert len(set(seen)) == len(seen)
    tasks = sum(5 for block in range(5) for iteration in range(block + 1))
    assert len(seen) == int(result.evaluations[0]) == tasks


def test_more_coarse_evaluations_are_rounds_and_evaluations_too():
    case = make_case(paracore.schemes.flow_euler(25), batch=1)
    plan = layout("SRDS", case.problem.scheme, 5, 3)
    hits = [int(state.hits[0]) for state in states_by_round(SRDS(blocks=5, coarse=3, tolerance=0), case)]
    assert hits.index(1) + 1 == 5 * 3 == arrivals(plan.coarse)[0]
    result = paracore.solve(SRDS(blocks=5, coarse=3, tolerance=0), case.problem, case.evaluator())
    assert result.evaluations[0] == 15 * (5 + 2)


def test_a_coarse_solver_as_fine_as_the_blocks_is_the_sequential_sampler():
    case = make_case(paracore.schemes.flow_euler(12), batch=1)
    for options in ({"blocks": 12}, {"blocks": 3, "coarse": 4}, {"blocks": 1}):
        result = paracore.solve(SRDS(**options), case.problem, case.evaluator())
        assert torch.equal(result.sample, case.reference())
        assert result.status == (Status.EXACT,)
        assert result.total_rounds == result.evaluations[0] == 12


def test_blocks_of_one_step_among_longer_ones():
    case = random_case(5, kind="multistep", steps=7, batch=2)
    for blocks in range(1, 8):
        result = paracore.solve(SRDS(blocks=blocks, tolerance=0), case.problem, case.evaluator())
        assert torch.equal(result.sample, case.reference())
        assert result.total_rounds == 7


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7, 20])
def test_a_window_limits_the_rows_and_the_exact_chain_comes_first(window):
    case = make_case(paracore.schemes.flow_euler(50), batch=2, dim=4, stiffness=0.7)
    counting = Counting(case.evaluator())
    result = paracore.solve(SRDS(window=window, tolerance=1e-3), case.problem, counting, trace=True)
    free = paracore.solve(SRDS(tolerance=1e-3), case.problem, case.evaluator())
    for r, (nodes, samples) in enumerate(counting.requests):
        assert np.bincount(samples).max() <= window
        assert nodes[0] == r
    assert result.total_rounds >= free.total_rounds
    if window == 1:
        assert torch.equal(result.sample, case.reference())
        assert result.total_rounds == 50
    if window == 20:
        assert torch.equal(result.sample, free.sample)
    assert free.largest_request <= 2 * 9


@pytest.mark.parametrize("norm", ["l1", "rms", "max", "relative", "l2-over-size"])
def test_stopping_is_on_the_change_of_the_sample(norm):
    case = CASES["flow"]
    plan = layout("SRDS", case.problem.scheme, None, 1)
    iterates = [u[-1] for u in parareal(*as_arrays(case), plan.coarse, plan.blocks)]
    changes = []
    for before, after in itertools.pairwise(iterates):
        measured = norms(after - before)
        changes.append(measured.get(norm, measured["rms"] / norms(after)["rms"]))
    assert changes[0] > 2 * changes[1]
    result = paracore.solve(SRDS(tolerance=1.01 * changes[1], norm=norm), case.problem, case.evaluator())
    assert result.total_rounds == arrivals(plan.coarse)[2]
    assert result.status == (Status.CONVERGED,)
    assert result.residual[0] == pytest.approx(changes[1], rel=1e-6)
    np.testing.assert_allclose(result.sample[0].numpy(), iterates[2], rtol=1e-9)


def test_the_relative_norm_of_nothing():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    who = np.array([True])
    assert distance(zero, one, "relative", who)[0] == float("inf")
    assert distance(zero, zero, "relative", who)[0] == 0
    assert np.isnan(distance(zero, one, "l1", ~who)[0])


def test_the_trajectory_of_a_converged_sample_is_the_newest_of_each_node():
    case = make_case(paracore.schemes.flow_euler(25), batch=1, dim=3)
    result = paracore.solve(SRDS(tolerance=1e-2), case.problem, case.evaluator(), trajectory=True)
    assert result.status == (Status.CONVERGED,)
    truth = case.reference(trajectory=True)
    assert torch.equal(result.trajectory[: result.total_rounds + 1], truth[: result.total_rounds + 1])
    assert float((result.trajectory - truth).norm() / truth.norm()) < 1e-2


def test_half_precision_keeps_its_dtype_and_cancels():
    case = random_case(3, kind="flow", steps=25, batch=2, dtype=torch.bfloat16)
    result = paracore.solve(SRDS(tolerance=0.05), case.problem, case.evaluator())
    assert result.sample.dtype == torch.bfloat16
    assert result.ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "SRDS: blocks is 0; an integer of at least 1 is needed"),
        ({"blocks": 2.0}, "blocks is 2.0"),
        ({"coarse": 0}, "SRDS: coarse is 0; an integer of at least 1"),
        ({"window": 0}, "SRDS: window is 0; an integer of at least 1"),
        ({"tolerance": -1.0}, "SRDS: tolerance is -1.0; a number at least 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"tolerance": float("inf")}, "tolerance is inf; a finite number is needed"),
        ({"norm": "l3"}, "SRDS: norm is 'l3'; allowed: l1, rms, max, relative, l2-over-size"),
    ],
)
def test_options_that_are_refused_when_built(options, message):
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        SRDS(**options)


def test_options_that_do_not_fit_the_scheme_are_refused_at_the_start():
    problem = make_case(paracore.schemes.flow_euler(10)).problem
    with pytest.raises(ConfigurationError, match=r"SRDS: blocks is 11, but scheme 'flow_euler' has only 10 steps"):
        SRDS(blocks=11).start(problem)
    with pytest.raises(ConfigurationError, match=r"coarse is 4 evaluations a block.*3 blocks.*has 3 steps.*at most 3"):
        SRDS(coarse=4).start(problem)
    SRDS(coarse=3).start(problem)


def test_the_preset_is_registered_with_its_options():
    sampler = paracore.sampler("srds(blocks=4,coarse=2,window=3,tolerance=0.5,norm=max)")
    assert sampler == SRDS(blocks=4, coarse=2, window=3, tolerance=0.5, norm="max")
    assert paracore.sampler("srds") == SRDS()
    assert eval(repr(sampler)) == sampler
    with pytest.raises(ConfigurationError, match="option blocks is 'a'"):
        paracore.sampler("srds", blocks="a")
