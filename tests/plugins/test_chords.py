"""CHORDS against its rules written out, the published schedules, and its options."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import paracore
from paracore.errors import ConfigurationError
from paracore.status import Status
from paracore.testing.problems import Counting, make_case, random_case
from paracore_chords import Chords
from paracore_chords.starts import RULES, begins, even, greedy, scaled
from reference.chords import chords as transcribed
from reference.srds import norms

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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("starts", [(0, 1, 2, 3, 6, 9, 12), (0, 3, 7, 12), (0, 5, 6), (0, 1), (0, 9), (0,)])
def test_every_core_is_where_the_rules_put_it_round_by_round(name, starts):
    case = CASES[name]
    hits, history = transcribed(*as_arrays(case), starts)
    sampler = Chords(starts=starts, tolerance=0)
    state, evaluator = sampler.start(case.problem), case.evaluator()
    for round, expected in enumerate(history, start=1):
        state = sampler.advance(state, evaluator.evaluate(sampler.request(state)))
        running = {t.key[0]: t for t in state.tracks if t.node < case.problem.scheme.steps}
        assert set(running) == {k for k, (node, _) in expected.items() if node < case.problem.scheme.steps}
        for core, track in running.items():
            node, value = expected[core]
            assert track.node == node
            np.testing.assert_allclose(track.states[0][0].numpy(), value, rtol=1e-9, atol=1e-12)
        arrived = [h for h in hits if h[1] <= round]
        assert state.hits[0] == sum(h[0] < len(starts) for h in arrived)
        if arrived and round < len(history):
            np.testing.assert_allclose(state.last[0].numpy(), arrived[-1][2], rtol=1e-9, atol=1e-12)
    assert sampler.request(state) is None
    assert len(history) == case.problem.scheme.steps


PUBLISHED = {
    8: [8, 17, 24, 31, 38, 45, 48, 49, 50],
    4: [4, 21, 36, 43, 50],
    6: [6, 19, 30, 41, 46, 48, 50],
}


@pytest.mark.parametrize(("cores", "index"), [(k, i) for k, hits in PUBLISHED.items() for i in range(len(hits))])
def test_the_rounds_of_the_published_sequences(cores, index):
    case = make_case(paracore.schemes.flow_euler(50), batch=2, stiffness=0.5)
    result = paracore.solve(Chords(cores=cores, index=index), case.problem, case.evaluator())
    assert result.total_rounds == PUBLISHED[cores][index]
    assert result.largest_request <= 2 * cores
    if index == cores:
        assert torch.equal(result.sample, case.reference())
    assert set(result.status) == {Status.EXACT if index == cores else Status.BUDGET_COMPLETED}


def test_no_evaluation_beside_one_per_core_and_round():
    case = make_case(paracore.schemes.flow_euler(50), batch=1)
    counting = Counting(case.evaluator())
    result = paracore.solve(Chords(), case.problem, counting)
    starts = (0, 2, 4, 8, 16, 24, 32, 40)
    for round, (nodes, _) in enumerate(counting.requests, start=1):
        assert nodes == [start + round - 1 - core for core, start in enumerate(starts) if core < round]
    assert result.evaluations[0] == sum(len(nodes) for nodes, _ in counting.requests) == 108


def test_the_start_times():
    for cores, expected in {4: (0, 8, 16, 32), 6: (0, 3, 6, 12, 24, 36), 8: (0, 2, 4, 8, 16, 24, 32, 40)}.items():
        for rule in RULES:
            assert begins(cores, 50, rule) == Chords(cores=cores, rule=rule).begins(50) == expected
    assert begins(8, 100, "even") == (0, 4, 8, 16, 32, 48, 64, 80)
    assert begins(1, 50, "even") == begins(1, 50, "greedy") == (0,)
    assert begins(2, 50, "even") == begins(2, 50, "greedy") == (0, 28)
    assert begins(3, 50, "even") == begins(3, 50, "greedy") == (0, 15, 30)
    assert Chords(cores=5).begins(50) == begins(5, 50, "even") == (0, 7, 16, 25, 34)
    assert Chords(cores=5, rule="greedy").begins(50) == (0, 4, 9, 18, 34)
    assert begins(10, 50, "even") == (0, 4, 9, 14, 19, 24, 29, 34, 39, 44)
    assert even(8, 50) == (0, 4, 10, 16, 22, 28, 34, 40)
    assert even(9, 50) == (0, 6, 12, 18, 24, 30, 36, 42)
    for cores, steps, rule in itertools.product(range(1, 40), (1, 2, 7, 50), RULES):
        nodes = begins(cores, steps, rule)
        assert nodes[0] == 0
        assert nodes[-1] < steps
        assert all(a < b for a, b in itertools.pairwise(nodes))
        assert len(nodes) <= cores


@pytest.mark.parametrize("steps", [7, 20, 50, 100])
def test_the_even_rule_has_one_gap_except_for_the_first(steps):
    """Both rules send the fastest core from one node."""
    for cores in range(2, 20):
        nodes = even(cores, steps)
        first, *gaps = np.diff(nodes).tolist()
        assert nodes[-1] == scaled(greedy(cores), steps)[-1]
        assert len(set(gaps)) <= 1
        if gaps:
            assert 0 < first <= gaps[0]
        assert len(nodes) <= cores


def test_the_greedy_rule_is_that_of_three_cores():
    for cores in (3, 5, 7, 10):
        times = greedy(cores)
        assert len(times) == cores
        assert times[0] == 0
        for before, after in itertools.pairwise(times[1:]):
            assert before == pytest.approx(after / 2 if after <= 2 / 3 else 2 * after - 1)


def test_even_gaps_are_closer_than_the_greedy_rule():
    """In the same round, on a mixture (docs: chords, measured)."""
    model, scheme = paracore.registry.make("model", "mixture"), paracore.schemes.flow_euler(50)
    seeds = [torch.Generator().manual_seed(seed) for seed in range(8)]
    x0 = torch.stack([torch.randn(model.shape, generator=g, dtype=torch.float64) for g in seeds])
    problem = paracore.Problem(scheme, x0)
    evaluator = paracore.evaluators.batched(model.denoiser(scheme, None, 1.0))
    exact = paracore.sequential(problem, evaluator)
    errors, rounds = {}, {}
    for rule in RULES:
        result = paracore.solve(Chords(cores=7, rule=rule), problem, evaluator)
        errors[rule] = float(((result.sample - exact).norm(dim=1) / exact.norm(dim=1)).mean())
        rounds[rule] = result.total_rounds
    assert rounds == {"even": 18, "greedy": 18}
    assert 10 * errors["even"] < errors["greedy"]


@pytest.mark.parametrize("norm", ["l2-over-size", "l1", "rms", "max", "relative"])
def test_residual_stopping_compares_the_last_two_arrivals(norm):
    case = CASES["flow"]
    sampler = Chords(starts=(0, 2, 6, 12), stop="residual", norm=norm, tolerance=1.0)
    hits, _ = transcribed(*as_arrays(case), sampler.starts)
    changes = []
    for before, after in itertools.pairwise(hits):
        measured = norms(after[2] - before[2])
        changes.append(measured.get(norm, measured["rms"] / norms(after[2])["rms"]))
    assert changes[0] > 2 * changes[1]
    sampler = Chords(starts=(0, 2, 6, 12), stop="residual", norm=norm, tolerance=1.01 * changes[1])
    result = paracore.solve(sampler, case.problem, case.evaluator())
    assert result.status == (Status.CONVERGED,)
    assert result.total_rounds == hits[2][1]
    assert result.residual[0] == pytest.approx(changes[1], rel=1e-6)
    np.testing.assert_allclose(result.sample[0].numpy(), hits[2][2], rtol=1e-9)


def test_a_core_that_dies_takes_the_faster_ones_with_it():
    """The sample then comes from a slower core, later."""
    case = make_case(paracore.schemes.flow_euler(50), batch=2)
    sampler = Chords(starts=(0, 8, 16, 32))

    class Broken:
        capabilities = frozenset()

        def evaluate(self, request):
            outputs = case.evaluator().evaluate(request)
            if request.nodes.max() == 34:  # core 4 makes its third step; core 3 is at 19
                outputs.values[(request.nodes == 19) & (request.samples == 1)] = float("nan")
            return outputs

    counting = Counting(Broken())
    result = paracore.solve(sampler, case.problem, counting)
    assert result.rounds.tolist() == [21, 43]
    assert set(result.status) == {Status.BUDGET_COMPLETED}
    whole = paracore.solve(Chords(starts=(0, 8, 16, 32), index=3), case.problem, case.evaluator())
    assert torch.equal(result.sample[1], whole.sample[1])
    asked = [max(n for n, s in zip(*request, strict=True) if s == 1) for request in counting.requests]
    assert asked[5:7] == [34, 13]  # cores 3 and 4 are gone


def test_the_trajectory_has_no_gap():
    """Nodes that no core has passed yet are those of the coarse jump."""
    case = make_case(paracore.schemes.flow_euler(30), batch=1)
    for starts in ((0, 25), (0, 4, 20), (0,)):
        result = paracore.solve(Chords(starts=starts, index=0), case.problem, case.evaluator(), trajectory=True)
        truth = case.reference(trajectory=True)
        assert torch.equal(result.trajectory[-1], result.sample)
        assert all(float(x.abs().max()) > 0 for x in result.trajectory)
        assert torch.equal(result.trajectory[: len(starts) + 1], truth[: len(starts) + 1])
        assert float((result.trajectory - truth).norm() / truth.norm()) < 0.5


def test_of_two_cores_that_arrive_together_the_slower_is_taken():
    case = make_case(paracore.schemes.flow_euler(12), batch=1)
    result = paracore.solve(Chords(starts=(0, 1)), case.problem, case.evaluator())
    assert result.status == (Status.EXACT,)
    assert torch.equal(result.sample, case.reference())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cores": 0}, r"Chords: cores is 0; an integer of at least 1 is needed"),
        ({"cores": 2.5}, r"cores is 2.5"),
        ({"starts": (0, 5, 5)}, r"starts is \(0, 5, 5\): 5 does not rise from 5; integers that begin at 0"),
        ({"starts": [0, 8, 4]}, r"starts is \[0, 8, 4\]: 4 does not rise from 8"),
        ({"starts": (2, 5)}, r"starts is \(2, 5\): the first core runs the whole trajectory"),
        ({"starts": ()}, r"the first core runs the whole trajectory"),
        ({"starts": "0-a"}, r"starts is '0-a'; integers that begin at 0 and rise are needed, like"),
        ({"starts": (0, 1.5)}, r"starts is \(0, 1.5\); integers"),
        ({"starts": 3}, r"starts is 3; integers"),
        ({"cores": 3, "starts": (0, 4)}, r"cores is 3, but there are 2 starts; leave cores out"),
        ({"index": -1}, r"index is -1; an integer of at least 0"),
        ({"index": 9}, r"index is 9; at most the number of cores, 8, is needed"),
        ({"stop": "never"}, r"stop is 'never'; allowed: core-index, residual"),
        ({"norm": "l3"}, r"norm is 'l3'; allowed: l1, rms, max, relative, l2-over-size"),
        ({"rule": "odd"}, r"Chords: rule is 'odd'; allowed: even, greedy"),
        ({"tolerance": -1}, r"tolerance is -1; a number at least 0"),
        ({"tolerance": float("inf")}, r"tolerance is inf; a finite number is needed"),
    ],
)
def test_options_that_are_refused_when_built(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Chords(**options)


def test_starts_beyond_the_scheme_are_refused_at_the_start():
    problem = make_case(paracore.schemes.flow_euler(32)).problem
    with pytest.raises(ConfigurationError, match=r"a core starts at node 32, but the scheme has 32 steps.*is 31"):
        Chords(starts="0-8-16-32").start(problem)
    Chords(starts=(0, 31)).start(problem)


def test_the_preset_is_registered_with_its_options():
    sampler = paracore.sampler("chords(starts=0-8-16-32,index=2,stop=residual,tolerance=0.5,norm=rms)")
    assert sampler == Chords(starts=(0, 8, 16, 32), index=2, stop="residual", tolerance=0.5, norm="rms")
    assert paracore.sampler("chords").window == 8
    assert paracore.sampler("chords", cores=4) == Chords(cores=4, rule="even")
    assert paracore.sampler("chords(cores=5,rule=greedy)") == Chords(cores=5, rule="greedy")
    assert paracore.sampler("chords", starts=[0, 3]).window == 2
    assert eval(repr(sampler)) == sampler
    with pytest.raises(ConfigurationError, match="option cores is 'a'"):
        paracore.sampler("chords", cores="a")
