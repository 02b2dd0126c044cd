"""The benchmark grid in small: its records, going on where it was, what it says of samplers that fail; its report."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

import paracore
from paracore_analytic import MixtureModel

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURES = (
    "rounds_mean",
    "speedup",
    "evaluations",
    "work",
    "jvps",
    "wall_time_s",
    "error_mean",
    "error_p95",
    "error_max",
)


def load(name: str) -> Any:
    """A script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


grid, report, mnist_mixture = load("grid"), load("report"), load("mnist_mixture")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def records(path: Path) -> dict[str, dict[str, Any]]:
    return {r["key"]: r for r in json.loads(path.read_text())["cells"]}


def run(path: Path, *words: str) -> int:
    return int(grid.main(["--jobs", "1", "--seeds", "2", "--out", str(path), *words]))


TINY = ("--only", "secant,paradigms", "--problem", "linear")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samplers on the linear and one on the two-mode problem."""
    path = tmp_path_factory.mktemp("grid") / "results" / "grid.json"
    assert run(path, *TINY, "--window", "2,8") == 0
    assert run(path, "--only", "secant", "--problem", "two-mode, ddpm", "--window", "8") == 0
    return path


def test_records(tiny):
    data = json.loads(tiny.read_text())
    assert (data["format"], data["target"]) == (1, 0.01)
    assert data["versions"]["paracore"]
    found = records(tiny)
    names = [
        f"linear, flow-euler 50 | {s} | {w} | {r}" for s, w, r in [("paradigms", 2, "own"), ("secant", 8, "target")]
    ]
    assert set(names) <= set(found)
    assert len(found) == 2 + 4 + 1
    assert "linear, flow-euler 50 | secant | 8 | own" not in found  # its own rule is the common one
    for record in found.values():
        assert record["refused"] is record["failure"] is None
        assert all(isinstance(record[name], float) for name in FIGURES)
        assert record["speedup"] == pytest.approx(record["steps"] / record["rounds_mean"], rel=1e-4)
        assert record["error_mean"] <= record["error_max"] < 0.05
        assert record["misses"] <= record["converged"] == record["seeds"] == len(record["errors"]) == 2
        assert record["status"] == {"converged": 2}
        assert record["own"] == (record["sampler"] == "secant" or record["rule"] == "own")
        assert 1 <= record["rival"]["evaluations"] <= record["steps"]
        assert "Composition(" in record["settings"]
        assert record["cpu_s"] > 0
    linear, noisy = found[names[1]], found["two-mode, ddpm 100 | secant | 8 | target"]
    assert set(linear["fine"]) == {"sampler", "rival", "sequential"}
    assert linear["same_mode"] is None
    assert linear["work"] == pytest.approx(linear["evaluations"] / 50, rel=1e-4)
    assert noisy["fine"] is None
    assert noisy["same_mode"] == 1.0


def test_only_missing_cells_are_measured(tiny, tmp_path, capsys):
    path = tmp_path / "grid.json"
    path.write_bytes(tiny.read_bytes())
    before = records(path)
    assert run(path, *TINY, "--window", "2,4") == 0
    assert "6 cells, 3 known, 3 to measure" in capsys.readouterr().out
    after = records(path)
    assert {k: v for k, v in after.items() if k in before} == before
    assert len(after) == len(before) + 3
    assert run(path, *TINY, "--window", "2,4") == 0
    assert "6 cells, 6 known, 0 to measure" in capsys.readouterr().out
    assert run(path, "--only", "secant", "--problem", "linear", "--window", "2", "--fresh") == 0
    assert "1 cells, 0 known, 1 to measure" in capsys.readouterr().out
    cell = "linear, flow-euler 50 | secant | 2 | target"
    assert records(path)[cell]["errors"] == before[cell]["errors"]
    assert records(path)[cell]["cpu_s"] != before[cell]["cpu_s"]
    assert [p.name for p in tmp_path.iterdir()] == ["grid.json"]


def test_other_settings_or_seeds_are_measured_again(tiny):
    (cell,) = grid.plan([t for t in grid.TASKS if t.model == "linear"][:1], ["secant"], ["2"], 2)
    store = grid.Store(tiny)
    assert store.has(cell)
    assert not store.has(attrs.evolve(cell, seeds=3))
    assert not store.has(attrs.evolve(cell, settings="another"))


def test_rules_and_samplers_that_are_gone_are_forgotten(tiny, tmp_path):
    path = tmp_path / "grid.json"
    path.write_bytes(tiny.read_bytes())
    store = grid.Store(path)
    (record,) = (r for r in store.records.values() if r["sampler"] == "secant" and r["width"] == "2")
    store.put({**record, "key": record["key"].replace("| target", "| own"), "rule": "own"})
    store.put({**record, "key": record["key"].replace("secant", "gone"), "sampler": "gone"})
    assert len(records(path)) == 9
    assert run(path, "--only", "secant", "--problem", "linear", "--window", "2") == 0
    assert records(path) == records(tiny)


def test_a_killed_run_keeps_what_is_done(tmp_path, monkeypatch):
    path, measure, done = tmp_path / "grid.json", grid.measure, []

    def second_is_interrupted(cell: Any, limit: float) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(cell)
        return measure(cell, limit)

    monkeypatch.setattr(grid, "measure", second_is_interrupted)
    assert run(path, *TINY, "--window", "2") == 130
    assert list(records(path)) == [done[0].key]


class Own(paracore.Sampler):
    """A sampler that is no composition: Picard inside."""

    def __init__(self) -> None:
        self._inner = paracore.sampler("picard", window=4)

    needs = frozenset()
    plain = restore = None

    def start(self, problem, **options):
        return self._inner.start(problem, **options)

    def request(self, state):
        return self._inner.request(state)

    def advance(self, state, outputs):
        return self._inner.advance(state, outputs)

    def result(self, state):
        return self._inner.result(state)


Own.__abstractmethods__ = frozenset()


@attrs.frozen
class Crash(paracore.StoppingRule):
    """Falls over."""

    def converged(self, round, state):
        raise RuntimeError("fell\nover")


@pytest.fixture
def odd():
    """Samplers with something about them."""

    def refuses(window: int = 2) -> paracore.Engine:
        return paracore.compose(window=0 if window == 4 else window, stopping="fixed-rounds(rounds=2)")

    def crashes(window: int = 2) -> paracore.Engine:
        return paracore.compose(window=window, stopping=Crash())

    def breaks(cores: int = 2) -> Any:
        made = Own()
        made.advance = None  # type: ignore[method-assign]
        return made

    plugin = types.ModuleType("odd")
    plugin.paracore_samplers = paracore.hookimpl(
        lambda: {"refuses": refuses, "crashes": crashes, "breaks": breaks, "plain": Own}
    )
    paracore.registry.register(plugin, "odd")
    yield
    paracore.registry.unregister("odd")


def test_what_cannot_be_measured_says_why(odd, tmp_path):
    path = tmp_path / "grid.json"
    assert run(path, "--only", "refuses,crashes,breaks,plain", "--problem", "linear", "--window", "4,8,-") == 0
    found = {key.removeprefix("linear, flow-euler 50 | "): r for key, r in records(path).items()}
    assert set(found) == {
        "refuses | 4 | own",
        *(f"{name} | 8 | {rule}" for name in ("refuses", "crashes") for rule in ("target", "own")),
        *(f"crashes | 4 | {rule}" for rule in ("target", "own")),
        "breaks | 4 | own",
        "breaks | 8 | own",
        "plain | - | own",
    }
    assert found["refuses | 4 | own"]["refused"] == "window is 0; an integer of at least 1 is needed"
    assert "2 rounds of 8 evaluations cannot cover 50 steps" in found["refuses | 8 | own"]["refused"]
    assert found["refuses | 8 | target"]["speedup"] > 1
    assert "fell over" in " ".join(found["crashes | 8 | own"]["failure"].split())
    assert "TypeError" in found["breaks | 8 | own"]["failure"]
    assert found["plain | - | own"]["settings"] == "Own"
    assert found["plain | - | own"]["window"] is None
    assert found["plain | - | own"]["error_mean"] < 0.01
    text = report.grid_text([*found.values()])
    assert "`refuses` refused linear, flow-euler 50 (4): window is 0" in text
    assert "| sampler | window 4 | window 8 | no window |" in text


def test_a_cell_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    def forever(*_: Any) -> None:
        while True:
            pass

    monkeypatch.setattr(grid, "_figures", forever)
    path = tmp_path / "grid.json"
    assert run(path, "--only", "jacobi", "--problem", "linear", "--window", "N", "--limit", "0.05") == 0
    (record,) = records(path).values()
    assert record["failure"] == "stopped after 0.05 s of one core"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "picrad"), "unknown sampler 'picrad'; did you mean 'picard'?"),
        (("--problem", "zzz"), "no problem's name contains 'zzz'; known: digits g=1"),
        (("--window", "2,x"), "window 'x' is unknown"),
        (("--window", "0"), "window '0' is unknown"),
        (("--seeds", "0"), "seeds is 0"),
        (("--jobs", "0"), "jobs is 0"),
    ],
)
def test_wrong_words(tmp_path, capsys, words, message):
    assert run(tmp_path / "grid.json", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "cells": []}', '{"format": 1}'])
def test_a_file_that_is_no_grid(tmp_path, capsys, text):
    path = tmp_path / "grid.json"
    path.write_text(text)
    assert run(path, *TINY) == 2
    assert "move it away" in capsys.readouterr().err
    assert path.read_text() == text


def test_the_default_plan_has_every_sampler_on_every_problem():
    names = [e.name for e in paracore.registry.entries("sampler")]
    tasks = [t for t in grid.TASKS if not t.extra]
    cells = grid.plan(tasks, names, grid.WINDOWS, None)
    assert {(c.task.name, c.sampler) for c in cells} == {(t.name, n) for t in tasks for n in names}
    assert len({c.key for c in cells}) == len(cells)
    assert [t.name for t in tasks][:4] == [
        *(f"digits g={g}, flow-euler 50" for g in (1, 4, 7)),
        "mnist-mixture g=4, flow-euler 50",
    ]
    secant = [c for c in cells if c.sampler == "secant" and c.task.steps == 25]
    assert {c.window for c in secant} == {2, 4, 8, 25}
    assert {c.rule for c in secant} == {"target"}


@pytest.mark.slow
def test_worker_processes(tmp_path):
    path = tmp_path / "grid.json"
    words = [*TINY, "--window", "2,8", "--seeds", "2", "--jobs", "2", "--out", str(path)]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "grid.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 cells, 0 known, 6 to measure" in done.stdout
    assert len(done.stderr.splitlines()) == 6
    assert len(records(path)) == 6


# -- the report ---------------------------------------------------------------------------------------------------


def test_pages_are_filled_once(tiny):
    found = list(records(tiny).values())
    page = "# A\n\n<!-- measured: secant -->\n\n## B\n\n<!-- measured: nothing-like-it -->\nC\n\n"
    page += "<!-- measured: paradigms -->\n"
    once = report.filled(page, found)
    assert report.filled(once, found) == once
    assert once.count("<!-- /measured -->") == 2
    assert "<!-- measured: nothing-like-it -->\nC\n" in once
    assert "| two-mode, ddpm 100 |" in once.split("## B")[0]
    assert "Under its own stopping rule" in once.split("## B")[1]
    assert "Under its own stopping rule" not in once.split("## B")[0]
    fewer = report.filled(once, [r for r in found if r["problem"] == "linear"])
    assert "two-mode" not in fewer
    assert fewer.startswith("# A\n\n<!-- measured: secant -->\n")
    assert report.filled(once, []) == once


def test_the_report_is_the_same_twice(tiny, tmp_path):
    results, docs = tmp_path / "benchmarks" / "results", tmp_path / "docs"
    results.mkdir(parents=True)
    (docs / "samplers").mkdir(parents=True)
    (tmp_path / "README.md").write_bytes((BENCHMARKS.parent / "README.md").read_bytes())
    (docs / "samplers" / "secant.md").write_text("<!-- measured: secant -->\n")
    for name in ("digits", "calibration", "overhead"):
        (results / f"{name}.json").write_bytes((BENCHMARKS / "results" / f"{name}.json").read_bytes())
    report.main(tmp_path)
    assert "Every sampler" not in (docs / "benchmarks.md").read_text()
    (results / "grid.json").write_bytes(tiny.read_bytes())
    report.main(tmp_path)
    written = {p: p.read_text() for p in tmp_path.rglob("*.md")}
    report.main(tmp_path)
    assert {p: p.read_text() for p in tmp_path.rglob("*.md")} == written
    text = written[docs / "benchmarks.md"]
    assert "### linear, flow-euler 50" in text
    assert "| `secant` | 100 |" in text
    assert "{" not in text.split("## Is the error target kept?")[0]
    assert "<!-- /measured -->" in written[docs / "samplers" / "secant.md"]


# -- the fitted mixture -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [paracore.schemes.flow_euler(10), paracore.schemes.ddim(10)], ids=lambda s: s.name)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_low_rank_covariances_are_those_written_out(scheme, guidance):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means, bases = normal(3, 12), torch.linalg.qr(normal(3, 12, 2)).Q
    extra, floor, weights = normal(3, 2).abs(), 0.1 + normal(3).abs(), 1.0 + normal(3).abs()
    owner = torch.tensor([0, 1, 1])
    low = mnist_mixture.MnistMixture(means, bases, extra, floor, weights, owner, (3, 4))
    full = (bases * extra[:, None, :]) @ bases.mT + floor[:, None, None] * torch.eye(12, dtype=torch.float64)
    model = MixtureModel(means.reshape(3, 3, 4), 0.5 * (full + full.mT), weights, owner)
    x, labels = normal(10, 3, 4), torch.arange(10) % 2
    rows = paracore.Rows(node=torch.arange(10), sample=torch.arange(10))
    mine, theirs = (m.denoiser(scheme, labels, guidance)(x, None, rows) for m in (low, model))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert low.denoiser(scheme, labels, guidance)(x.float(), None, rows).dtype == torch.float32
    torch.testing.assert_close(
        low.denoiser(scheme)(x, None, rows), model.denoiser(scheme)(x, None, rows), rtol=1e-9, atol=1e-9
    )
