"""``paracore diffusers``: what it prints, how it fails, and that plugins' commands harm nobody."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import types
import warnings

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("diffusers")

import typer

import paracore
from adapters.diffusers import zoo
from paracore import hookimpl
from paracore.cli import app
from paracore.errors import ConfigurationError
from paracore_diffusers.checking import check, scheduler_verdict
from paracore_diffusers.targets import arguments

RUNNABLE = ("flux", "ddpm", "sd_clip", "sd_inpaint")


@pytest.fixture(autouse=True)
def _plugins(monkeypatch):
    """Only these plugins are installed, whatever is on this machine."""
    points("picard", "ropa", "newton", "diffusers")(monkeypatch)
    monkeypatch.delenv("PARACORE_DEBUG", raising=False)
    monkeypatch.delenv("PARACORE_DISABLE_PLUGINS", raising=False)
    paracore.registry.reset()
    yield
    paracore.registry.reset()


def points(*names, more=()):
    """Installs these plugins of ours, and others."""
    real = importlib.metadata.entry_points
    ours = [importlib.metadata.EntryPoint(n, f"paracore_{n}.plugin", "paracore") for n in names]

    def install(monkeypatch):
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            lambda **wanted: [*ours, *more] if wanted.get("group") == "paracore" else real(**wanted),
        )

    return install


@pytest.fixture
def run():
    def go(*words):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # diffusers deprecates parts of itself
            return CliRunner().invoke(app, [*words])

    return go


@pytest.fixture
def pipelines(monkeypatch):
    """A module whose functions return (pipeline, arguments)."""
    module = types.ModuleType("my_pipelines")
    for name in RUNNABLE:
        setattr(module, name, lambda name=name: (zoo.ZOO[name]().pipe, zoo.ZOO[name]().call))
    module.alone = lambda: zoo.ZOO["ddpm"]().pipe
    module.textless = lambda: zoo.ZOO["flux"]().pipe
    module.number = lambda: 3
    module.wrong = lambda: (zoo.ZOO["ddpm"]().pipe, 3)
    module.failing = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "my_pipelines", module)
    return module


# -- mounting ---------------------------------------------------------------------------------------------------------


class Point:
    """An entry point of a distribution that is not installed."""

    dist = None
    value = "fake.plugin"

    def __init__(self, name, loaded):
        self.name, self._loaded = name, loaded

    def load(self):
        if isinstance(self._loaded, BaseException):
            raise self._loaded
        return self._loaded


def with_commands(answer):
    module = types.ModuleType("fake")
    module.paracore_commands = hookimpl(answer if callable(answer) else lambda: answer)
    return module


def small():
    made = typer.Typer(help="A small one.")
    made.command("hello")(lambda: typer.echo("hello"))
    return made


def test_help_shows_the_commands_of_plugins(run):
    for words in ((), ("--help",)):
        done = run(*words)
        assert done.exit_code == 0
        assert "diffusers" in done.stdout
    done = run("diffusers", "--help")
    assert done.exit_code == 0
    assert "schedulers" in done.stdout
    assert "check" in done.stdout


@pytest.mark.parametrize(
    "bad",
    [
        ImportError("no such thing"),
        SystemExit(3),
        with_commands(lambda: 1 / 0),
        with_commands(3),
        with_commands({"thing": print}),
        with_commands({"No Kebab": small()}),
    ],
    ids=["import", "exit", "raises", "no dict", "no typer", "name"],
)
def test_a_broken_plugin_breaks_nothing(run, monkeypatch, bad):
    points("picard", more=[Point("bad", bad), Point("good", with_commands({"small": small()}))])(monkeypatch)
    done = run("list", "samplers")
    assert done.exit_code == 0
    assert "cannot be used" not in done.stderr
    done = run("small", "hello")
    assert done.exit_code == 0
    assert done.stdout == "hello\n"
    done = run("--help")
    assert done.exit_code == 0
    assert "small" in done.stdout
    assert done.stderr.count("plugin bad (unknown unknown) cannot be used") == 1


def test_the_core_and_the_first_plugin_keep_their_names(run, monkeypatch):
    more = [
        Point("a", with_commands({"list": small(), "small": small()})),
        Point("b", with_commands({"small": small()})),
    ]
    points(more=more)(monkeypatch)
    done = run("--help")
    assert done.exit_code == 0
    assert "'list' of plugin a (unknown unknown) is left out: paracore has one" in done.stderr
    assert "'small' of plugin b (unknown unknown) is left out: a (unknown unknown) has one" in done.stderr
    assert "List everything" in done.stdout


def test_disabled_plugins_have_no_commands(run, monkeypatch):
    monkeypatch.setenv("PARACORE_DISABLE_PLUGINS", "diffusers")
    done = run("diffusers", "check", "x")
    assert done.exit_code == 2
    assert "No such command" in done.stderr


def test_importing_and_listing_load_no_diffusers():
    code = """
import sys, paracore
import paracore_diffusers.plugin
paracore_diffusers.plugin.paracore_commands()
assert not {"diffusers", "transformers"} & set(sys.modules), "imported"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- schedulers -------------------------------------------------------------------------------------------------------


def test_schedulers(run, tmp_path):
    path = tmp_path / "s.json"
    done = run("diffusers", "schedulers", "--steps", "5", "--only", "DDIMScheduler", "--json", str(path))
    assert done.exit_code == 0
    assert "clip_sample=False" in done.stdout
    assert "exact" in done.stdout
    data = json.loads(path.read_text())
    assert {r["name"] for r in data["records"]} == {"DDIMScheduler"}
    assert data["versions"]["diffusers"]


def test_schedulers_as_a_page(run):
    done = run("diffusers", "schedulers", "--steps", "5", "--only", "FlowMatchEulerDiscreteScheduler", "--markdown")
    assert done.exit_code == 0
    assert done.stdout.startswith("# diffusers schedulers\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "many"), "'many'"),
        (("--steps", "1"), "at least 2"),
        (("--only", "DDIMSchedule"), "DDIMScheduler"),
        (("--only", "DDIMScheduler", "--json", "nowhere/s.json"), "no folder nowhere"),
    ],
)
def test_schedulers_bad_input(run, words, said):
    done = run("diffusers", "schedulers", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_says_supported(run, pipelines):
    done = run("diffusers", "check", "my_pipelines:flux", "--steps", "4", "--window", "3")
    assert done.exit_code == 0, done.stderr
    assert "FluxPipeline: supported, route: table" in done.stdout
    assert "the same bits" in done.stdout
    assert "FluxTransformer2DModel: merged" in done.stdout
    assert "the pipeline is as it was" in done.stdout


def test_check_says_why_not(run, pipelines):
    done = run("diffusers", "check", "my_pipelines:sd_inpaint", "--steps", "4")
    assert done.exit_code == 1
    assert "NOT supported, route: sequential" in done.stdout
    assert "edits its latents" in done.stdout
    assert "on_unsupported='sequential'" in done.stdout


def test_check_of_a_folder(run, tmp_path):
    with zoo.quiet():
        zoo.ZOO["ddpm"]().pipe.save_pretrained(tmp_path / "saved")
    done = run("diffusers", "check", str(tmp_path / "saved"), "--steps", "4", "--json", "--call", "batch_size=2")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["supported"]
    assert [t["mode"] for t in data["trials"]] == ["exact", "merged"]
    assert data["trials"][0]["equal"]
    assert data["trials"][1]["error"] < 1e-4
    done = run("diffusers", "check", str(tmp_path / "saved"), "--static")
    assert done.exit_code == 0
    assert "DDPMScheduler: exact" in done.stdout


def test_check_of_a_folder_whose_text_encoders_were_left_out(run, tmp_path):
    with zoo.quiet():
        zoo.ZOO["flux"]().pipe.save_pretrained(tmp_path / "saved")
    done = run("diffusers", "check", str(tmp_path / "saved"), "--steps", "4")
    assert done.exit_code == 2
    assert "no text encoder" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no/such/folder/at/all",), "is no folder"),
        (("nobody/nothing",), "cannot be loaded from the cache"),
        (("pyproject.toml",), "is a file"),
        (("tests",), "model_index.json"),
        (("no_such_module:make",), "cannot be imported"),
        (("my_pipelines:nothing",), "no function 'nothing'"),
        (("my_pipelines:failing",), "ZeroDivisionError"),
        (("my_pipelines:number",), "a diffusers pipeline"),
        (("my_pipelines:wrong",), "(pipeline, keyword arguments)"),
        (("my_pipelines:textless",), "prompt_embeds"),
        (("my_pipelines:alone", "--call", "batch"), "KEY=VALUE"),
        (("my_pipelines:alone", "--call", "{batch"), "no JSON object"),
        (("my_pipelines:alone", "--call", "nonsense=3"), "does not run with these arguments"),
        (("my_pipelines:alone", "--dtype", "int8"), "--dtype is 'int8'"),
        (("my_pipelines:alone", "--device", "nowhere"), "nowhere"),
    ],
)
def test_check_bad_input(run, pipelines, monkeypatch, words, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(zoo.__file__.split("/tests/")[0])
    done = run("diffusers", "check", *words)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_arguments():
    given = arguments(["height=64", 'prompt=a "cat"', '{"width": 32, "height": 128}', "flag=true"])
    assert given == {"height": 128, "prompt": 'a "cat"', "width": 32, "flag": True}


def test_a_generator_of_the_caller_is_used_anew_in_every_run():
    made = zoo.ZOO["ddpm"]()
    with zoo.quiet():
        found = check(made.pipe, {**made.call, "generator": torch.Generator().manual_seed(3)}, steps=4)
    assert found.repeats
    assert found.supported
    assert found.untouched


def test_a_replayed_scheduler_says_why():
    made = zoo.ZOO["ddim"]()
    made.pipe.scheduler = type(made.pipe.scheduler).from_config(made.pipe.scheduler.config, clip_sample=True)
    with zoo.quiet():
        verdict = scheduler_verdict(made.pipe, 6)
        found = check(made.pipe, made.call, steps=6)
    assert verdict is not None
    assert verdict.verdict in ("replayed", "exact")
    assert found.supported
    assert found.network_calls == 6


def test_what_is_no_pipeline():
    with pytest.raises(ConfigurationError, match="diffusers pipeline"):
        check(3)
