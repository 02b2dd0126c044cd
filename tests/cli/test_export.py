"""Samplers as files on the command line: printed, sampled from, compared."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import paracore
from paracore import recipes

SAMPLE = ("sample", "--model", "stub", "--steps", "10", "--count", "2")
COMPARE = ("compare", "--model", "stub", "--steps", "10", "--count", "2")


def test_export_prints_what_rebuilds_it(run):
    done = run("export", "ropa(window=4)")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("# A sampler of paracore")
    assert recipes.loads(done.stdout).composition == paracore.sampler("ropa", window=4).composition
    as_json = run("export", "ropa(window=4)", "--json").stdout
    assert json.loads(as_json) == tomllib.loads(done.stdout)


def test_export_reads_files_and_says_what_they_are_now(run, tmp_path: Path):
    path = tmp_path / "x.toml"
    path.write_text('sampler = "picard"\nwindow = 3\n[made-with]\nparacore = "0.0.1"')
    done = run("export", str(path), "--json")
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert data["window"] == 3
    assert data["stopping"]["name"] == "error-target"
    assert data["made-with"]["stopping"].startswith("paracore ")
    (line,) = done.stderr.splitlines()
    assert f"{path} was made with paracore 0.0.1 (here: paracore " in line
    path.write_text('sampler = "deer"\nwindow = 3')
    assert tomllib.loads(run("export", str(path)).stdout)["sampler"] == "deer"


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_sample_from_a_file(run, tmp_path: Path, ending):
    path = tmp_path / f"mine.{ending}"
    path.write_text(run("export", "secant(window=3)", *(["--json"] if ending == "json" else [])).stdout)
    for sampler, out in (("secant(window=3)", "call"), (str(path), "file")):
        done = run(*SAMPLE, "--sampler", sampler, "--out", str(tmp_path / out))
        assert done.exit_code == 0, done.stderr
        assert done.stderr == ""
    assert np.array_equal(np.load(tmp_path / "call.npy"), np.load(tmp_path / "file.npy"))
    settings = [json.loads((tmp_path / f"{out}.json").read_text())["settings"] for out in ("call", "file")]
    assert settings[0]["composition"] == settings[1]["composition"]


def test_the_command_line_goes_before_the_file(run, tmp_path: Path):
    path, out = tmp_path / "mine.toml", str(tmp_path / "x")
    path.write_text(run("export", "picard(window=3)").stdout)
    words = ("--window", "5", "--tolerance", "0.2", "--stopping", "change(relative=0.5)")
    assert run(*SAMPLE, "--sampler", str(path), *words, "--out", out).exit_code == 0
    made = json.loads(Path(f"{out}.json").read_text())["settings"]["composition"]
    assert all(word in made for word in ("window=5", "tolerance=0.2", "relative=0.5"))


def test_compare_takes_files_beside_names(run, tmp_path: Path):
    mine, open_ = tmp_path / "mine.toml", tmp_path / "open.toml"
    mine.write_text(run("export", "picard(window=3)").stdout)
    open_.write_text('jacobian = "secant"')
    done = run(*COMPARE, "--samplers", f"{mine},{open_},jacobi", "--window", "2,4", "--out", str(tmp_path / "x"))
    assert done.exit_code == 0, done.stderr
    data = json.loads((tmp_path / "x.json").read_text())
    found = [(row["sampler"], row["window"]) for row in data["rows"]]
    assert found[1:] == [(str(mine), 3), (str(open_), 2), (str(open_), 4), ("jacobi", 2), ("jacobi", 4)]
    assert "jacobian secant" in data["versions"]


BAD = [
    ("windw = 4", "unknown key 'windw'; did you mean 'window'?"),
    ("window = 4\njacobian = 'secnt'\n", "unknown jacobian 'secnt'; did you mean 'secant'?"),
    ("window = 4\njacobian = = 3", "is damaged: Invalid value (at line 2, column 12)"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
@pytest.mark.parametrize("words", [(*SAMPLE, "--sampler"), (*COMPARE, "--samplers"), ("export",)])
def test_a_bad_file_is_one_line(run, tmp_path: Path, text, message, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    done = run(*words, str(path))
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"paracore: {path}")
    assert message in line


def test_no_file_and_no_such_name(run):
    assert run(*SAMPLE, "--sampler", "nowhere.toml").stderr == "paracore: nowhere.toml: No such file or directory\n"
    assert "unknown sampler 'picrad'; did you mean 'picard'?" in run("export", "picrad").stderr
    assert run("export", "picrad").exit_code == 2
