"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import paracore
from paracore.cli.problems import initial_deviation, parse_classes, split_calls

SAMPLE = ("sample", "--model", "stub", "--steps", "12")
COMPARE = ("compare", "--model", "stub", "--steps", "12", "--count", "2")


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def python(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", **more}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=120)


# -- list, show ---------------------------------------------------------------------------------------------------


def test_version(run):
    done = run("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("paracore ")


def test_help_names_the_commands(run):
    for words in ((), ("--help",)):
        done = run(*words)
        assert done.exit_code == 0
        assert all(command in done.stdout for command in ("list", "show", "sample", "compare"))


def test_list_shows_all_kinds(run):
    done = run("list")
    assert done.exit_code == 0
    for name in ("look-ahead", "error-target", "picard", "stub", "batched", "flow-euler", "dpm-solver-pp-2m"):
        assert name in done.stdout
    assert "Karras et al. 2022 have nothing to do with it." in done.stdout
    assert "Really" not in done.stdout


@pytest.mark.parametrize("word", ["sampler", "samplers"])
def test_list_one_kind(run, word):
    data = json.loads(run("list", word, "--json").stdout)
    names = {e["name"] for e in data["entries"]}
    assert {"picard", "paradigms", "jacobi", "shy"} <= names
    assert {e["kind"] for e in data["entries"]} == {"sampler"}
    assert data["broken"] == []
    entry = next(e for e in data["entries"] if e["name"] == "windowless")
    assert entry["plugin"] == "stub-plugin"
    assert entry["distribution"] == "this process"


def test_list_strategies_and_stopping_rules(run):
    kinds = {e["kind"] for e in json.loads(run("list", "strategies", "--json").stdout)["entries"]}
    assert kinds == {"residual", "jacobian", "preconditioner", "damping", "stopping", "initializer", "selection"}
    assert {e["kind"] for e in json.loads(run("list", "stopping-rules", "--json").stdout)["entries"]} == {"stopping"}


def test_list_shows_broken_plugins_last(run, monkeypatch):
    import importlib.metadata

    broken = importlib.metadata.EntryPoint("bad", "no_such_module_at_all", "paracore")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [broken])
    paracore.registry.reset()
    done = run("list")
    assert done.exit_code == 0
    assert "stub" in done.stdout
    assert "broken: bad" in done.stdout.splitlines()[-1]
    assert "no_such_module_at_all" in done.stdout.splitlines()[-1]
    missing = run("sample", "--model", "nothing-like-it")
    assert missing.exit_code == 2
    assert "broken plugins: bad" in missing.stderr


def test_show(run):
    done = run("show", "picard")
    assert done.exit_code == 0
    assert "window: int, default 8" in done.stdout
    assert "form: str, default 'network'" in done.stdout
    assert "2305.16317" in done.stdout
    assert "strength: float, required" in run("show", "shy").stdout
    assert "Reference: tests/stub_plugin.py" in run("show", "stub").stdout
    assert "denoiser:" not in run("show", "batched").stdout.partition("Options:")[2]


def test_show_json_and_kind(run):
    several = json.loads(run("show", "none", "--json").stdout)
    assert {e["kind"] for e in several} == {"jacobian", "preconditioner", "damping"}
    (one,) = json.loads(run("show", "none", "--kind", "dampings", "--json").stdout)
    assert one["kind"] == "damping"
    (scheme,) = json.loads(run("show", "flow-euler", "--json").stdout)
    assert {"name": "shift", "type": "float", "required": False, "default": 1.0} in scheme["options"]


# -- sample -------------------------------------------------------------------------------------------------------


def test_sample_writes_its_files(run, tmp_path: Path):
    out = tmp_path / "new" / "folder" / "digits.v1"
    done = run(*SAMPLE, "--count", "3", "--classes", "0-2", "--guidance", "2", "--window", "4", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "3 samples, 12 steps in" in done.stdout
    assert done.stderr == ""
    data = json.loads(Path(f"{out}.json").read_text())
    assert data["interrupted"] is False
    assert data["settings"]["labels"] == [0, 1, 2]
    assert data["settings"]["guidance"] == 2.0
    assert "window=4" in data["settings"]["composition"]
    assert data["result"]["network_calls"] == 2 * sum(data["result"]["evaluations"])
    assert data["versions"]["torch"] == torch.__version__
    assert "stub-plugin" in data["versions"]["model stub"]
    assert np.load(f"{out}.npy").shape == (3, 1, 6, 6)
    assert size_of(f"{out}.png")[0] > 3 * 56
    assert sorted(p.name for p in out.parent.iterdir()) == ["digits.v1.json", "digits.v1.npy", "digits.v1.png"]


def test_sample_without_pictures(run, tmp_path: Path):
    done = run("sample", "--model", "stub(pictures=False)", "--steps", "6", "--out", str(tmp_path / "x"))
    assert done.exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.npy"]


def test_sample_without_out_writes_nothing(run, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*SAMPLE)
    assert done.exit_code == 0
    assert "nothing written" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["flow-euler(shift=3)", "ddpm", "ddim(eta=0.5)", "edm_euler"])
def test_a_sample_does_not_depend_on_its_batch(run, tmp_path: Path, scheme):
    common = ("sample", "--model", "stub", "--steps", "10", "--scheme", scheme, "--error-target", "0")
    more = ("--max-batch", "1", "--classes", "1")
    assert run(*common, *more, "--count", "3", "--seed", "5", "--out", str(tmp_path / "all")).exit_code == 0
    assert run(*common, *more, "--count", "1", "--seed", "7", "--out", str(tmp_path / "one")).exit_code == 0
    assert np.array_equal(np.load(tmp_path / "all.npy")[2:], np.load(tmp_path / "one.npy"))


def test_sample_from_parts(run, tmp_path: Path):
    out = str(tmp_path / "x")
    parts = ("--residual", "look-ahead(width=1)", "--jacobian", "identity", "--stopping", "change")
    assert run(*SAMPLE, *parts, "--window", "3", "--tolerance", "0.001", "--out", out).exit_code == 0
    made = json.loads(Path(f"{out}.json").read_text())["settings"]["composition"]
    assert all(word in made for word in ("LookAhead(width=1)", "Identity(", "AbsoluteChange(", "window=3"))
    assert run(*SAMPLE, "--sampler", "paradigms(window=2)", "--initializer", "linear", "--out", out).exit_code == 0
    made = json.loads(Path(f"{out}.json").read_text())["settings"]["composition"]
    assert all(word in made for word in ("NoiseScaledChange(", "Linear(", "window=2"))


def test_classes_default_to_all_and_may_be_none(run, tmp_path: Path):
    out = str(tmp_path / "x")
    assert run(*SAMPLE, "--count", "4", "--out", out).exit_code == 0
    assert json.loads(Path(f"{out}.json").read_text())["settings"]["labels"] == [0, 1, 2, 0]
    assert run(*SAMPLE, "--classes", "none", "--out", out).exit_code == 0
    assert json.loads(Path(f"{out}.json").read_text())["settings"]["labels"] is None


BAD = [
    ((*SAMPLE, "--window", "0"), "window is 0; an integer of at least 1 is needed"),
    ((*SAMPLE, "--window", "abc"), "window is 'abc'; a number, or auto, is needed"),
    ((*SAMPLE, "--resume", "nowhere.pt"), "nowhere.pt: No such file"),
    ((*SAMPLE, "--checkpoint", "x.pt", "--checkpoint-every", "0"), "checkpoint_every is 0"),
    ((*SAMPLE, "--evaluator", "devices(devices=[])"), "at least one device is needed"),
    ((*SAMPLE, "--evaluator", "devices(devices=['cuda:77'])"), "device 'cuda:77' cannot be used"),
    ((*SAMPLE, "--evaluator", "distributed"), "start with torchrun"),
    ((*SAMPLE, "--evaluator", "ray(workers=0)"), "workers is 0"),
    ((*SAMPLE, "--evaluator", "devices(workers=2)"), "has no option 'workers'"),
    ((*SAMPLE, "--sampler", "picard(window=abc)"), "sampler 'picard': option window is 'abc'; int is needed"),
    ((*SAMPLE, "--sampler", "picard(window=4)", "--window", "8"), "window is given twice"),
    ((*SAMPLE, "--sampler", "picard(windo=4)"), "has no option 'windo'; did you mean 'window'?"),
    ((*SAMPLE, "--sampler", "picrad"), "unknown sampler 'picrad'; did you mean 'picard'?"),
    ((*SAMPLE, "--sampler", "picard(window=4"), "lacks its closing bracket"),
    ((*SAMPLE, "--sampler", "shy"), "sampler 'shy' needs the option 'strength'"),
    ((*SAMPLE, "--sampler", "windowless", "--window", "3"), "sampler 'windowless' has no option 'window'"),
    ((*SAMPLE, "--jacobian", "identty"), "unknown jacobian 'identty'; did you mean 'identity'?"),
    ((*SAMPLE, "--jacobian", "copy"), "'copy' is a initializer"),
    ((*SAMPLE, "--steps", "0"), "steps"),
    ((*SAMPLE, "--scheme", "flow-eler"), "unknown scheme 'flow-eler'; did you mean 'flow-euler'"),
    ((*SAMPLE, "--scheme", "flow-euler(shift=0)"), "shift"),
    ((*SAMPLE, "--scheme", "flow-euler(steps=3)"), "--steps"),
    ((*SAMPLE, "--classes", "3"), "labels must lie in 0..2; got [3"),
    ((*SAMPLE, "--classes", "2-1"), "classes is '2-1'; write them like"),
    ((*SAMPLE, "--classes", "none", "--guidance", "2"), "was given no labels"),
    ((*SAMPLE, "--guidance", "nan"), "guidance is nan; a finite number is needed"),
    ((*SAMPLE, "--error-target", "inf"), "error-target is inf"),
    ((*SAMPLE, "--error-target", "-1"), "tolerance is -1.0; a number of at least 0 is needed"),
    ((*SAMPLE, "--count", "0"), "count is 0"),
    ((*SAMPLE, "--seed", "-1"), "seed is -1"),
    ((*SAMPLE, "--threads", "0"), "threads is 0"),
    ((*SAMPLE, "--max-batch", "0"), "max_batch is 0"),
    ((*SAMPLE, "--evaluator", "batchd"), "unknown evaluator 'batchd'; did you mean 'batched'?"),
    ((*SAMPLE, "--device", "abacus"), "device 'abacus' cannot be used"),
    ((*SAMPLE, "--foo"), "No such option: --foo"),
    ((*SAMPLE, "--out", "folder/"), "a path without ending is needed"),
    (("sample",), "Missing option '--model'"),
    (("sample", "--model", "stubb"), "unknown model 'stubb'; did you mean 'stub'?"),
    (("sample", "--model", "picard"), "'picard' is a sampler"),
    (
        ("sample", "--model", "liar"),
        "model 'liar' of plugin stub-plugin (this process) built dict; a paracore.Model",
    ),
    (("sample", "--model", "stub(trouble=much)"), "trouble is 'much'"),
    ((*COMPARE, "--samplers", "picard,,jacobi"), "empty name"),
    ((*COMPARE, "--samplers", "picard", "--window", "2,x"), "window is '2,x'"),
    ((*COMPARE, "--samplers", "picard", "--window", "2,0"), "window is 0"),
    ((*COMPARE, "--samplers", "picard", "--repeats", "0"), "repeats is 0"),
    ((*COMPARE, "--samplers", "jacoby"), "did you mean 'jacobi'?"),
    (("list", "samplrs"), "unknown kind 'samplrs'; did you mean 'sampler'?"),
    (("show", "picrad"), "unknown name 'picrad'; did you mean 'picard'?"),
    (("show", "picard", "--kind", "model"), "unknown model 'picard'"),
    (("smaple",), "No such command 'smaple'"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w[-2:]) for w, _ in BAD])
def test_bad_input_is_one_line(run, words, message):
    done = run(*words)
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("paracore: ")
    assert message in line


def test_unwritable_output_is_found_before_the_work(run, tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "x.json").mkdir()
    for out, message in ((file / "x", "is a file, not a folder"), (tmp_path / "x", "it is a folder")):
        done = run("sample", "--model", "stub(trouble=crash)", "--out", str(out))
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        assert message in line
        assert run(*COMPARE, "--samplers", "picard", "--out", str(out)).exit_code == 2


def test_a_failed_sample_is_written_and_told(run, tmp_path: Path):
    done = run("sample", "--model", "stub(trouble=nan)", "--steps", "12", "--out", str(tmp_path / "x"))
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "4 of 4 samples failed" in line
    assert "non-finite" in line
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["result"]["status"] == ["nonfinite_output"] * 4
    assert data["interrupted"] is False


@pytest.mark.parametrize(
    ("trouble", "message"), [("shape", "the network returned shape"), ("crash", "RuntimeError: the network fell over")]
)
def test_a_broken_network_is_one_line(run, tmp_path: Path, trouble, message):
    done = run("sample", "--model", f"stub(trouble={trouble})", "--out", str(tmp_path / "x"))
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(run, monkeypatch):
    monkeypatch.setenv("PARACORE_DEBUG", "1")
    done = run(*SAMPLE, "--window", "0")
    assert isinstance(done.exception, paracore.errors.ConfigurationError)


def test_a_full_disk_leaves_old_files(run, tmp_path: Path, monkeypatch):
    import errno

    out = tmp_path / "x"
    assert run(*SAMPLE, "--out", str(out)).exit_code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x.npy")

    monkeypatch.setattr(os, "replace", full)
    done = run(*SAMPLE, "--seed", "1", "--out", str(out))
    assert done.exit_code == 1
    assert done.stderr == "paracore: x.npy: No space left on device\n"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_interrupt_keeps_what_was_accepted(run, tmp_path: Path):
    done = run(
        "sample", "--model", "stub(trouble=interrupt)", "--steps", "12", "--window", "2", "--out", str(tmp_path / "x")
    )
    assert done.exit_code == 130
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["interrupted"] is True
    assert set(data["result"]["status"]) == {"interrupted"}
    assert all(0 < front < 12 for front in data["result"]["front"])
    (line,) = done.stderr.splitlines()
    assert "interrupted after" in line
    assert "x.json" in line


# -- compare ------------------------------------------------------------------------------------------------------


def test_compare_writes_table_json_and_picture(run, tmp_path: Path):
    out = tmp_path / "c"
    done = run(*COMPARE, "--samplers", "picard,jacobi(window=2)", "--window", "2,4", "--out", str(out))
    assert done.exit_code == 0, done.stderr
    for word in ("sequential", "picard", "jacobi", "speed-up", "same rounds", "converged"):
        assert word in done.stdout
    data = json.loads(Path(f"{out}.json").read_text())
    assert [(r["sampler"], r["window"]) for r in data["rows"]] == [
        ("sequential", 1),
        ("picard", 2),
        ("picard", 4),
        ("jacobi(window=2)", 2),
    ]
    assert data["settings"]["seed"] == 0
    assert "sampler picard" in data["versions"]
    assert size_of(f"{out}.png")[1] > 4 * 56


def test_compare_json(run):
    done = run(*COMPARE, "--samplers", "picard", "--one-at-a-time", "--repeats", "2", "--json")
    data = json.loads(done.stdout)
    assert data["one_at_a_time"] is True
    assert len(data["rows"][1]["wall_times_s"]) == 2


def test_compare_keeps_tolerances_in_other_units(run):
    done = run(*COMPARE, "--samplers", "picard,paradigms,picard(tolerance=0.5)", "--error-target", "0", "--json")
    assert done.stderr == "paracore: paradigms does not stop by an error target; it keeps its own tolerance\n"
    settings = [r["settings"] for r in json.loads(done.stdout)["rows"][1:]]
    assert [s.partition("tolerance=")[2].partition(",")[0] for s in settings] == ["0.0", "0.1", "0.5"]


def test_compare_reports_failures(run):
    done = run("compare", "--model", "stub(trouble=nan)", "--steps", "12", "--samplers", "picard")
    assert done.exit_code == 1
    assert "nonfinite-output" in done.stdout
    assert "samples failed: sequential (window 1): 4 nonfinite; picard (window 8): 4 nonfinite-output" in done.stderr


# -- words --------------------------------------------------------------------------------------------------------


def test_parse_classes():
    assert parse_classes("0-3,7") == [0, 1, 2, 3, 7]
    assert parse_classes("5") == [5]
    assert parse_classes(None) == parse_classes("none") == []
    for bad in ("", "-1", "a", "1-", "3-1", "1,,2"):
        with pytest.raises(paracore.errors.ConfigurationError, match="write them like"):
            parse_classes(bad)


def test_split_calls():
    assert split_calls("a, b(x=1,y=(1,2)),c(z='p,q')") == ["a", "b(x=1,y=(1,2))", "c(z='p,q')"]


def test_initial_deviation():
    schemes = paracore.schemes
    for scheme in (schemes.flow_euler(5), schemes.ddim(5), schemes.dpm_solver_pp_2m(5, family="flow")):
        assert initial_deviation(scheme) == 1.0
    assert initial_deviation(schemes.edm_euler(5, sigma_max=70.0)) == pytest.approx(70.0)


# -- as a process -------------------------------------------------------------------------------------------------


def test_python_dash_m():
    done = python("-m", "paracore", "list", "samplers", "--json", PARACORE_DISABLE_PLUGINS="all")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entries"] == []
    done = python(
        "-m", "paracore", "sample", "--model", "nothing", "--stopping", "change", PARACORE_DISABLE_PLUGINS="all"
    )
    assert done.returncode == 2
    assert done.stderr == "paracore: unknown model 'nothing'; nothing of this kind is registered\n"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c(tmp_path: Path):
    # a shell starts what runs in the background with Ctrl-C ignored, and that is inherited
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import paracore, stub_plugin as s; paracore.registry.register(s, 's'); import paracore.cli as c; c.main()"
    words = ["sample", "--model", "stub(trouble=slow)", "--steps", "12", "--stopping", "change", "--out"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PARACORE_DISABLE_PLUGINS": "all"}
    command = [sys.executable, "-c", code, *words, str(tmp_path / "x")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert json.loads((tmp_path / "x.json").read_text())["interrupted"] is True


# --------------------------------------------------------------------------------- evaluators, checkpoints, the window


def test_sampling_on_several_devices_gives_the_same_files(run, tmp_path):
    words = (*SAMPLE, "--count", "2", "--window", "4", "--tolerance", "0")
    assert run(*words, "--max-batch", "1", "--out", str(tmp_path / "a")).exit_code == 0
    done = run(
        *words, "--max-batch", "1", "--evaluator", "devices(devices=['cpu','cpu'])", "--out", str(tmp_path / "b")
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    for worker in [t for t in threading.enumerate() if t.name.startswith("paracore-")]:
        worker.join(5)
        assert not worker.is_alive()


def test_a_checkpoint_goes_on(run, tmp_path):
    words = (*SAMPLE, "--count", "2", "--window", "2", "--tolerance", "0", "--checkpoint-every", "3")
    checkpoint = str(tmp_path / "folder" / "state.pt")
    assert run(*words, "--checkpoint", checkpoint, "--out", str(tmp_path / "a")).exit_code == 0
    assert run(*words, "--resume", checkpoint, "--out", str(tmp_path / "b")).exit_code == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    other = run(*words[:-4], "--window", "3", "--resume", checkpoint)
    assert other.exit_code == 2, other.output


def test_the_window_chosen_is_told(run, tmp_path):
    out = tmp_path / "auto"
    done = run(*SAMPLE, "--count", "1", "--window", "auto", "--out", str(out))
    assert done.exit_code == 0, done.output
    chosen = re.search(r"window=(\d+)", json.loads(out.with_suffix(".json").read_text())["settings"]["composition"])
    assert int(chosen[1]) in (1, 2, 4, 8, 16, 32)


def test_incidents_are_told(run, tmp_path, monkeypatch):
    """A worker that dies is a line on stderr, and in the file; the run is a success."""
    evaluate = paracore.evaluators.Batched.evaluate

    def once(self, request, died=[]):  # noqa: B006
        if not died:
            died.append(True)
            raise OSError("the device is gone")
        return evaluate(self, request)

    monkeypatch.setattr(paracore.evaluators.Batched, "evaluate", once)
    done = run(*SAMPLE, "--evaluator", "devices(devices=['cpu','cpu'])", "--out", str(tmp_path / "x"))
    assert done.exit_code == 0, done.output
    assert "raised OSError: the device is gone" in done.stderr
    assert "the device is gone" in json.loads((tmp_path / "x.json").read_text())["result"]["incidents"][0]
