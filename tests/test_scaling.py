"""benchmarks/scaling.py: what it measures has its shape; its cost model and docs/scaling.md follow from that."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVALUATORS = {"batched", "devices", "distributed", "ray"}


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("scaling_report", ROOT / "benchmarks" / "scaling_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def device(report):
    return json.loads(report.DEVICE.read_text())


def test_the_page_has_the_results(report, device):
    data = json.loads(report.RESULTS.read_text()) if report.RESULTS.exists() else None
    page = report.PAGE.read_text()
    assert report.filled(page, data, device) == page, "python benchmarks/scaling.py --report"


def test_results_are_those_of_the_full_run(report):
    if not report.RESULTS.exists():
        assert report.PENDING in report.PAGE.read_text()
        return
    data = json.loads(report.RESULTS.read_text())
    assert not data["setting"]["quick"]
    assert report.complete(data, "wall", "overhead", "calls")
    assert (data["wall"]["runs"] >= 5, data["steps"], data["window"]) == (True, 50, 2)
    assert not any(row["incidents"] for row in data["wall"]["rows"])


def test_a_curve_goes_through_its_points_and_on(report):
    curve = report.Curve.through([(4, 10.0), (1, 4.0), (2, 5.0)])
    assert [curve(x) for x in (1, 2, 4)] == [4.0, 5.0, 10.0]
    assert curve(3) == 7.5
    assert curve(0.5) == 4.0
    assert curve(6) == 15.0


def test_bytes_follow_from_shapes(report):
    # 3 rows of 100 bytes on 2 workers: shares of 2 and 1, gathered in slots of 2
    found = {name: report.bytes_of(name, 3, 100, 2) for name in report.SHARED}
    assert found["distributed"] == {"states": 0, "outputs": 400, "other": 2 * report.REPORT_BYTES}
    assert found["devices"] == {"states": 100, "outputs": 100, "other": 0}
    assert found["ray"] == {"states": 300, "outputs": 300, "other": 72}


def results():
    """Results as they would be if the model were exact: a call costs 10 ms a row, a round 2 ms, the sampler 1 ms."""
    sizes, rows = [2, 2, 1], []
    rows.append({"images": 1, "sampler": "sequential", "evaluator": "batched", "rounds": 4, "wall_s": 0.040})
    rows.append({"images": 1, "sampler": "picard", "evaluator": "batched", "rounds": 3, "wall_s": 0.053})
    rows += [
        {"images": 1, "sampler": "picard", "evaluator": name, "rounds": 3, "wall_s": 0.039}
        for name in ("devices", "distributed", "ray")
    ]
    for row in rows:
        row |= {"solver_ms_per_round": 1.0, "speedup": 0.040 / row["wall_s"], "speedups": [1.0], "error": 0.01}
    overhead = [
        {"evaluator": name, "shape": [784], "window": window, "state_bytes": 4 * 784 * window, "overhead_ms": 2.0}
        | {"ms": 2.1, "ms_mean": 2.2, "share_ms": 0.1, "interface_bytes": None}
        for name in ("devices", "distributed", "ray")
        for window in (2, 8)
    ]
    return {
        "workers": 2,
        "versions": {"torch": "2"},
        "wall": {"complete": True, "runs": 5, "rows": rows, "requests": {"picard, 1": sizes}},
        "overhead": {"complete": True, "rows": overhead},
        "calls": {
            "complete": True,
            "rows": [{"rows": r, "ms": 10.0 * r, "ms_beside_another": 10.0 * r} for r in (1, 2, 4)],
        },
    }


def test_the_model_is_exact_where_its_assumptions_hold(report):
    for row, seconds in report.modelled(results()):
        assert math.isclose(seconds, row["wall_s"], rel_tol=1e-9), row


def test_predictions(report, device):
    by_title = {case.title: report.predicted(case, 1.0) for case in report.cases(device)}
    full = next(found for title, found in by_title.items() if "fills the device" in title)
    assert full["one"] > full["sequential"]  # more evaluations, none of them free
    assert full["sequential"] / full["many"] < 5  # as many fewer rounds
    assert full["many"] < full["sequential"] / 3
    digits = by_title["digits, guided, 1 image"]
    assert digits["many"] > 0.9 * digits["one"]  # a call takes about as long for one row as for eight
    for case in report.cases(device):
        slower = report.predicted(case, 2.0)
        assert math.isclose(slower["many"] - by_title[case.title]["many"], case.rounds * 3 / 1000, rel_tol=1e-6)


def test_the_page_is_filled_and_lacks_nothing(report, device):
    page = "".join(f"a\n<!-- scaling: {name} -->\nold\n{report.END}\nb\n" for name in report.NAMES)
    filled = report.filled(page, results(), device)
    assert "old" not in filled
    assert report.PENDING not in filled
    assert "Predicted, not measured: 8 x" in filled
    assert report.filled(filled, results(), device) == filled
    assert report.filled(page, None, device).count(report.PENDING) == len(report.NAMES)
    with pytest.raises(ValueError, match="lacks"):
        report.filled(page.replace("<!-- scaling: model -->", ""), results(), device)


def test_a_trial_does_not_replace_results():
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--out" in done.stderr


@pytest.mark.slow
def test_a_trial(report, device, tmp_path):
    out = tmp_path / "scaling.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--quick", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    data = json.loads(out.read_text())
    assert data["setting"]["quick"]
    assert report.complete(data, "wall", "overhead", "calls")

    wall = data["wall"]["rows"]
    cases = {(r["images"], r["evaluator"], r["sampler"]) for r in wall}
    expected = {(n, e, s) for n in (2, 1) for e in EVALUATORS for s in data["samplers"]}
    assert cases == expected | {(n, "batched", "sequential") for n in (2, 1)}
    assert len(wall) == len(cases)
    for row in wall:
        beside = len(EVALUATORS) if row["sampler"] == "sequential" else 1  # sequential runs beside each evaluator's
        assert len(row["walls_s"]) == beside * data["wall"]["runs"] == beside
        assert row["wall_s"] > 0
        assert row["incidents"] == 0
        assert row["rounds"] <= data["steps"]
        if row["sampler"] != "sequential":
            assert row["difference_to_batched"] < 1e-4, row
            assert 0 < row["error"] < 0.05
            assert row["evaluations"] >= row["rounds"]
    for key, sizes in data["wall"]["requests"].items():
        name, images = key.split(", ")
        row = next(r for r in wall if (r["sampler"], r["images"], r["evaluator"]) == (name, int(images), "batched"))
        assert (len(sizes), sum(sizes)) == (row["rounds"], row["evaluations"])

    overhead = data["overhead"]["rows"]
    assert {r["evaluator"] for r in overhead} == EVALUATORS
    assert len({(tuple(r["shape"]), r["window"]) for r in overhead}) == 4
    for row in overhead:
        assert row["evaluator"] == "batched" or row["overhead_ms"] == pytest.approx(row["ms"] - row["share_ms"])
        if row["evaluator"] == "distributed" and row["interface_bytes"] is not None:
            moved = report.bytes_of("distributed", row["window"], 4 * math.prod(row["shape"]), 2)
            assert row["interface_bytes"] >= moved["outputs"]  # the formula is a lower bound of what really passes
    assert [r["rows"] for r in data["calls"]["rows"]] == [1, 2, 4]
    assert len(report.sections(data)) == 6
    assert report.PENDING not in "".join(report.texts(data, device).values())

    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=60, env=environment)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(out.read_text()) == data  # what is complete is not measured again
