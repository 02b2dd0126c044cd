"""The figures of docs/diffusers.md: written from the results that are there, and as good as promised."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from adapters.diffusers import zoo

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "diffusers.json"


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("diffusers_report", ROOT / "benchmarks" / "diffusers_report.py")
    module = importlib.util.module_from_spec(spec)
    with zoo.quiet():
        spec.loader.exec_module(module)
    yield module
    sys.modules.pop("diffusers_report", None)


@pytest.fixture(scope="module")
def data():
    return json.loads(RESULTS.read_text())


def test_the_page_has_the_results(report, data):
    page = (ROOT / "docs" / "diffusers.md").read_text()
    assert report.filled(page, data) == page, "python benchmarks/diffusers_report.py --write"


def test_results_are_of_the_whole_catalogue(data):
    assert {r["name"] for r in data["pipelines"]} == set(zoo.NAMES)


def test_what_runs_is_exact_and_what_is_refused_says_why(data):
    ran = [r for r in data["pipelines"] if "refused" not in r]
    assert len({r["pipeline"] for r in ran}) >= 20
    for r in ran:
        assert r["exact_float32"], r["name"]
        assert r["exact_bfloat16"] in (True, None), r["name"]
        assert r["merged_error"] < 1e-4, r["name"]
        assert r["default"]["rounds"] <= r["default"]["nodes"]
    assert all(len(r["refused"]) > 20 for r in data["pipelines"] if "refused" in r)
    assert all(r["untouched"] for r in data["pipelines"])


@pytest.mark.parametrize("name", ["flux", "sd_inpaint"])
def test_one_is_measured(report, monkeypatch, name):
    monkeypatch.setattr(report, "REPEATS", 1)
    monkeypatch.setattr(report, "DEFAULT_STEPS", 8)
    torch.set_num_threads(1)
    record = report.measure(zoo, name)
    assert report.verdict(record) == ("refused" if name == "sd_inpaint" else "supported")
    assert record["untouched"]
    if name == "flux":
        assert record["merges"] == {"FluxTransformer2DModel": "merged"}
        assert record["overhead"]["ms_per_evaluation"] < 5  # times are not tested, but they are times


def test_markers_are_needed(report, data):
    with pytest.raises(ValueError, match="lacks"):
        report.filled("no markers", data)
