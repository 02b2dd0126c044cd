"""``window="auto"``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import paracore
from evaluators.checks import problem
from evaluators.networks import Matrix, Smooth
from paracore import fitting
from paracore.errors import CapabilityError, ConfigurationError
from paracore.fitting import fit_window


class Clocked:
    """An evaluator whose time goes by a rule, on a clock of its own."""

    capabilities = frozenset[str]()

    def __init__(self, monkeypatch, seconds, fails=None) -> None:
        self.seconds, self.fails, self.now, self.rows = seconds, fails, 0.0, []
        monkeypatch.setattr(fitting.time, "perf_counter", lambda: self.now)

    def evaluate(self, request):
        self.rows.append(len(request))
        if self.fails is not None and len(request) >= self.fails:
            raise torch.OutOfMemoryError("no room")
        self.now += self.seconds(len(request))
        return paracore.Outputs(request.states * 0.5, calls=len(request))


ONE = problem(batch=1, steps=40)


@pytest.mark.parametrize(("sampler", "window"), [("ropa", 16), ("picard", 8), ("somebody-elses", 8)])
def test_rows_that_cost_nothing_more_take_the_window_with_the_fewest_rounds(monkeypatch, sampler, window):
    fit = fit_window(Clocked(monkeypatch, lambda rows: 1.0), ONE, sampler=sampler, largest=16)
    assert fit.window == window
    assert fit.limit == "the largest window is 16"
    assert fit.seconds == {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}
    assert fit.predicted[2] < fit.predicted[1] == 1.0


def test_the_curves_are_the_measured_ones():
    rows = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "digits.json").read_text())["rows"]
    for sampler, curve in fitting._FEWER.items():
        found = {r["window"]: r["speedup"] for r in rows if r["sampler"].partition("(")[0] == sampler}
        assert {w: s for w, s in curve.items() if w > 1} == {
            w: pytest.approx(found[w], abs=0.01) for w in (2, 4, 8, 16)
        }


def test_rows_that_cost_in_full_take_the_window_with_the_fewest_evaluations(monkeypatch):
    fit = fit_window(Clocked(monkeypatch, lambda rows: float(rows)), ONE, sampler="ropa")
    assert fit.window == 2
    assert fit.limit == "windows above 2 are slower"
    assert fit_window(Clocked(monkeypatch, lambda rows: float(rows)), ONE, sampler="picard").window == 1


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_as_many_rows_as_workers(monkeypatch, workers):
    """Workers that take a row each at a time."""
    evaluator = Clocked(monkeypatch, lambda rows: float(-(-rows // workers)))
    assert fit_window(evaluator, ONE, sampler="picard").window == workers
    both = fit_window(Clocked(monkeypatch, lambda rows: float(-(-rows // workers))), problem(batch=2), sampler="picard")
    assert both.window == workers // 2 or workers == 2


def test_memory_ends_it(monkeypatch):
    evaluator = Clocked(monkeypatch, lambda rows: 1.0, fails=8)
    fit = fit_window(evaluator, ONE)
    assert (fit.window, fit.limit) == (4, "a round of window 8 does not fit into memory")
    with pytest.raises(ConfigurationError, match="one row per sample does not fit"):
        fit_window(Clocked(monkeypatch, lambda rows: 1.0, fails=1), ONE)
    monkeypatch.setattr(fitting, "_room", lambda problem, window: window < 4)
    fit = fit_window(Clocked(monkeypatch, lambda rows: 1.0), ONE)
    assert (fit.window, fit.limit) == (2, "16 windows of 4 states would fill half of the free memory")


def test_no_window_beyond_the_steps(monkeypatch):
    assert fit_window(Clocked(monkeypatch, lambda rows: 1.0), problem(batch=1, steps=5)).window == 4


def test_a_solve_with_auto_is_the_solve_with_that_window(monkeypatch):
    sampler = paracore.sampler("picard", window="auto", tolerance=0.02)
    evaluator = paracore.evaluators.batched(Matrix())
    monkeypatch.setattr(fitting, "fit_window", lambda *_, **__: fitting.WindowFit(4, {}, {}, ""))
    assert sampler.fitted(ONE, evaluator).composition.window == 4
    found = paracore.solve(sampler, ONE, evaluator)
    expected = paracore.solve(paracore.sampler("picard", window=4, tolerance=0.02), ONE, evaluator)
    assert torch.equal(found.sample, expected.sample)
    assert found.total_rounds == expected.total_rounds


def test_a_real_evaluator():
    with paracore.evaluators.devices(Smooth(), ["cpu", "cpu"]) as evaluator:
        result = paracore.solve(paracore.sampler(window="auto"), ONE, evaluator)
    assert result.ok


def test_refused():
    with pytest.raises(ConfigurationError, match="has no option 'tolerence'"):
        paracore.sampler("picard", window="auto", tolerence=1)
    waiting = paracore.sampler("picard", window="auto")
    for refused in (lambda: waiting.start(ONE), lambda: waiting.restore(ONE, {}), lambda: waiting.plain(None)):
        with pytest.raises(ConfigurationError, match=r"'picard' is 'auto'.*paracore.solve"):
            refused()
    with pytest.raises(CapabilityError, match="jvp"):
        paracore.solve(paracore.sampler("deer", window="auto"), ONE, paracore.evaluators.batched(Matrix()))
