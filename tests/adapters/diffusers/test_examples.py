"""The example scripts with ``--tiny``: the same code path as with real weights."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from adapters.diffusers.zoo import quiet

EXAMPLES = Path(__file__).parents[3] / "examples" / "diffusers"
FAMILIES = ("flux", "sd35", "hunyuan_video", "wan21", "cogvideox15")


@pytest.fixture
def example(monkeypatch):
    """Imports a script as it finds its neighbours when run, and forgets them afterwards."""
    monkeypatch.syspath_prepend(EXAMPLES)
    ours = {"common", "tiny", *FAMILIES}
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def imported(name):
        with quiet():
            return importlib.import_module(name)

    yield imported
    for name in ours:
        sys.modules.pop(name, None)


def run(example, name, folder, *arguments):
    script = example(name)
    out = folder / ("out.png" if script.FAMILY.fps is None else "out.gif")
    with quiet():
        report = example("common").main(script.FAMILY, ["--tiny", "--device", "cpu", "--out", str(out), *arguments])
    assert report.path == out
    assert out.stat().st_size > 0
    return report


@pytest.mark.parametrize("name", ["flux", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[1:])])
def test_every_family_runs(example, name, tmp_path):
    report = run(example, name, tmp_path, "--steps", "8", "--window", "4")
    assert 1 <= report.rounds <= 8
    assert report.evaluations >= 8


def test_the_families_of_the_paper_are_there():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"common", "tiny", "ranks"}
    assert scripts == set(FAMILIES)


def test_compare_reports_the_difference(example, tmp_path, capsys):
    report = run(example, "flux", tmp_path, "--compare", "--steps", "10", "--window", "10")
    assert report.difference is not None
    assert report.difference < 0.02
    printed = capsys.readouterr().out
    assert f"{report.rounds} steps, as many as there were rounds" in printed
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd35", "wan21"])
def test_exact_is_the_pipeline_itself(example, name, tmp_path):
    report = run(example, name, tmp_path, "--exact", "--compare", "--steps", "5", "--window", "3")
    assert report.difference == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_script_as_a_user_starts_it(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--tiny", "--steps", "8", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rounds for 8 steps" in done.stdout
    assert [p.stem for p in tmp_path.iterdir()] == [name]
