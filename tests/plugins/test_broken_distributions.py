"""Broken plugins, as real distributions: everything else works, and distribution, version and cause are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import paracore
from paracore.cli import app
from paracore.errors import PluginError
from plugins.distributions import BROKEN, GOOD, HEAD, Made, hook, install

TWICE = tuple(
    Made(name, version, HEAD + hook("paracore_dampings", "return {'half-twice': Half}"))
    for name, version in (("one-owner", "3.1"), ("other-owner", "3.2"))
)
AT_USE = Made(
    "at-use",
    "4.1",
    HEAD
    + """
def raises():
    raise ValueError("no such luck")


def exits():
    raise SystemExit("gone")


class Stumbles(Half):
    def factors(self, round, state):
        raise KeyError("lost")


class Nonsense(Half):
    def factors(self, round, state):
        return "much"


def wrong_option(window: int = 4):
    return paracore.compose(windw=window)


"""
    + hook(
        "paracore_dampings",
        "return {'raises': raises, 'exits': exits, 'wrong': dict, 'stumbles': Stumbles, 'nonsense': Nonsense}",
    )
    + hook("paracore_samplers", "return {'no-sampler': list, 'wrong-option': wrong_option}")
    + hook("paracore_models", "return {'no-model': dict}")
    + hook("paracore_evaluators", "return {'no-evaluator': lambda denoiser: denoiser}"),
)
ALL = (*BROKEN, *TWICE, AT_USE, GOOD)
OWNERS = "one-owner (one-owner 3.1) and other-owner (other-owner 3.2)"
SAMPLE = ("sample", "--model", "gaussian", "--steps", "8", "--count", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"), *ALL)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of them on this process's path."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("PARACORE_DISABLE_PLUGINS", raising=False)
    paracore.registry.reset()
    yield
    paracore.registry.reset()
    for made in ALL:
        sys.modules.pop(made.name.replace("-", "_"), None)


def program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    env.pop("PARACORE_DISABLE_PLUGINS", None)
    return subprocess.run(
        [sys.executable, "-m", "paracore", *words], env=env, capture_output=True, text=True, timeout=300
    )


def line_about(text: str, made: Made) -> str:
    (line,) = (line for line in text.splitlines() if made.origin in line and made.cause in line)
    return line


def test_list_names_each_broken_one_and_hides_nothing(folder):
    done = program(folder, "list")
    assert done.returncode == 0, done.stderr
    for made in BROKEN:
        assert line_about(done.stdout, made).startswith(f"broken: {made.origin}: ")
    assert f"conflict: damping half-twice is registered by {OWNERS}; it cannot be used" in done.stdout
    names = {line.split()[1] for line in done.stdout.splitlines() if len(line.split()) > 1}
    assert {"ropa", "digits", "half", "look-ahead", "flow-euler"} <= names
    assert not {"half-1", "half-2", "half-3", "half-4", "half-5"} & names


def test_doctor_tells_all_and_fails(folder):
    done = program(folder, "doctor")
    assert done.returncode == 1, done.stderr
    before, _, problems = done.stdout.partition(" problems:\n")
    for made in BROKEN:
        assert line_about(problems, made).startswith(f"  plugin {made.origin} is broken: ")
    assert "no_such_module_at_all\n  ModuleNotFoundError" in before  # the traceback, to the line that failed
    assert f"damping 'half-twice' cannot be used: {OWNERS} register it" in problems
    for name, cause in FAULTS.items():
        assert f"{name} of plugin at-use (at-use 4.1) {cause}" in problems
    assert "'good-plugin[fast]' would add no-such-distribution>=2" in before
    assert int(before.splitlines()[-1]) == len(problems.splitlines()) == len(BROKEN) + 1 + len(FAULTS)


FAULTS = {
    "damping 'raises'": "raised ValueError: no such luck",
    "damping 'exits'": "raised SystemExit: gone",
    "damping 'wrong'": "built dict; a paracore.DampingPolicy is needed",
    "sampler 'no-sampler'": "built list; a paracore.Sampler or paracore.Composition is needed",
    "sampler 'wrong-option'": "cannot be built: composition has no option 'windw'; did you mean 'window'?",
}


def test_everything_else_works(here, tmp_path):
    done = CliRunner().invoke(app, [*SAMPLE, "--damping", "half", "--out", str(tmp_path / "x")])
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "x.npy").exists()


US = "of plugin at-use (at-use 4.1)"
AT_USES = [
    (("--damping", "half-twice"), f"damping 'half-twice' is registered by {OWNERS}; uninstall one"),
    (("--damping", "raises"), f"damping 'raises' {US} raised ValueError: no such luck"),
    (("--damping", "exits"), f"damping 'exits' {US} raised SystemExit: gone"),
    (("--damping", "wrong"), f"damping 'wrong' {US} built dict; a paracore.DampingPolicy is needed"),
    (("--damping", "stumbles"), f"KeyError: 'lost'; raised by the damping Stumbles() {US} (this is a bug of plugin"),
    (("--damping", "nonsense"), f"damping Nonsense() {US} returned shape ()"),
    (("--sampler", "no-sampler"), f"sampler 'no-sampler' {US} built list"),
    (
        ("--sampler", "wrong-option"),
        "no option 'windw'; did you mean 'window'?; raised by sampler 'wrong-option' of plugin at-use",
    ),
    (("--model", "no-model"), f"model 'no-model' {US} built dict; a paracore.Model is needed"),
    (("--evaluator", "no-evaluator"), f"evaluator 'no-evaluator' {US} built "),
    (("--damping", "half-1"), "misspelt (misspelt 1.3): PluginError: unknown hook 'paracore_damping' in plugin"),
    (("--damping", "half-2"), "lost-import (lost-import 1.1): ModuleNotFoundError: No module named 'no_such_module_"),
]


@pytest.mark.parametrize(("words", "message"), AT_USES, ids=[words[1] for words, _ in AT_USES])
def test_the_error_at_use_names_distribution_version_and_cause(here, words, message):
    done = CliRunner().invoke(app, [*SAMPLE, *words])
    assert done.exit_code in (1, 2)
    (line,) = done.stderr.splitlines()
    assert message in line


def test_the_library_says_the_same(here):
    with pytest.raises(PluginError, match=r"'raises' of plugin at-use \(at-use 4.1\) raised ValueError") as caught:
        paracore.compose(damping="raises")
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(paracore.compose(damping="half"), paracore.Engine)


@pytest.mark.slow
@pytest.mark.parametrize("made", BROKEN, ids=lambda made: made.name)
def test_one_broken_plugin_alone(tmp_path, made):
    alone = install(tmp_path, made, GOOD)
    listed, found = program(alone, "list", "--json"), program(alone, "doctor", "--json")
    assert (listed.returncode, found.returncode) == (0, 1), found.stderr
    (broken,) = json.loads(listed.stdout)["broken"]
    assert (broken["distribution"], broken["version"]) == (made.name, made.version)
    assert made.cause in broken["cause"]
    (said,) = json.loads(found.stdout)["broken"]
    assert made.cause in said["cause"]
    assert said["traceback"].startswith("Traceback")
    assert program(alone, *SAMPLE, "--damping", "half").returncode == 0
