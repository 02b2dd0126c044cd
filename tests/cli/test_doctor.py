"""``paracore doctor``: what it says of a sound installation, and of each thing that may be wrong with one."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
import torch

import paracore
from paracore.cli.extras import extras_of, needs_of
from plugins.distributions import Made, hook, install

SECTIONS = ("Environment", "Devices", "Plugins", "Extras")


def test_a_sound_installation(run):
    done = run("doctor")
    assert done.exit_code == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "Nothing is broken."
    assert [line for line in done.stdout.splitlines() if line in SECTIONS] == list(SECTIONS)
    assert "\x1b" not in done.stdout  # in a pipe, no colours
    lines = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert f"torch {importlib.metadata.version('torch')}" in lines
    assert "stub-plugin this process unversioned 1 sampler: shy, windowless" in lines
    assert any(line.startswith("cpu usable ") for line in lines)


def test_the_same_as_json(run):
    done = run("doctor", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["healthy"], found["problems"]) == (True, [])
    needs = {need["name"]: need for need in found["needs"]}
    assert {"torch", "numpy", "attrs", "pluggy", "typer"} <= set(needs)
    assert all(n["installed"] == importlib.metadata.version(n["name"]) and n["enough"] for n in needs.values())
    stub = next(p for p in found["plugins"] if p["plugin"] == "stub-plugin")
    assert stub["registers"] == {"model": ["stub", "liar"], "sampler": ["shy", "windowless"]}
    assert {e["extra"] for e in found["extras"] if e["distribution"] == "paracore"} >= {"ray", "plot", "diffusers"}


def test_disabled_plugins_are_listed_and_break_nothing(run, monkeypatch):
    monkeypatch.setenv("PARACORE_DISABLE_PLUGINS", "picard")
    paracore.registry.reset()
    done = run("doctor", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert [p["plugin"] for p in found["disabled"]] == ["picard"]
    assert "picard" not in [p["plugin"] for p in found["plugins"]]
    assert "Left out by PARACORE_DISABLE_PLUGINS" in run("doctor").stdout


def lose(monkeypatch: pytest.MonkeyPatch, name: str, instead: str | None = None) -> None:
    """As if a distribution were not installed, or in another version."""
    real = importlib.metadata.version

    def version(asked: str) -> str:
        if asked != name:
            return real(asked)
        if instead is None:
            raise importlib.metadata.PackageNotFoundError(asked)
        return instead

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_missing_extra_is_no_fault_and_says_what_it_would_add(run, monkeypatch):
    lose(monkeypatch, "ray")
    asked = next(need.text for need in extras_of("paracore")["ray"])
    done = run("doctor")
    assert done.exit_code == 0
    assert f"pip install 'paracore[ray]' would add {asked}" in done.stdout
    (extra,) = (e for e in json.loads(run("doctor", "--json").stdout)["extras"] if e["extra"] == "ray")
    assert (extra["installed"], extra["would_add"]) == (False, [asked])


@pytest.mark.parametrize(("instead", "said"), [(None, "none"), ("0.1", "0.1")])
def test_a_missing_or_old_dependency_is_a_fault(run, monkeypatch, instead, said):
    asked = next(need.text for need in needs_of("paracore") if need.name == "rich")
    lose(monkeypatch, "rich", instead)
    done = run("doctor")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-2:] == ["1 problem:", f"  {asked} is needed; {said} is installed"]


def test_a_device_that_is_there_and_cannot_be_used_is_a_fault(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 99)  # the last one is on no machine
    done = run("doctor", "--json")
    assert done.exit_code == 1
    problems = json.loads(done.stdout)["problems"]
    assert any(p.startswith("cuda:98 cannot be used: device 'cuda:98' cannot be used: ") for p in problems)


def test_plugins_that_print_do_not_spoil_json(run, monkeypatch, tmp_path: Path):
    commands = hook("paracore_commands", "return {'noise': 3}")
    install(tmp_path, Made("noisy", "1.0", "import paracore\nprint('hello')\n" + commands))
    monkeypatch.syspath_prepend(str(tmp_path))
    (dist,) = importlib.metadata.distributions(name="noisy", path=[str(tmp_path)])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: list(dist.entry_points))
    paracore.registry.reset()
    try:
        done = run("doctor", "--json")
    finally:
        sys.modules.pop("noisy", None)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["problems"] == [
        "commands of plugin noisy (noisy 1.0) cannot be used: PluginError: paracore_commands registers 'noise' as int; "
        "a typer.Typer is needed, under a kebab-case name"
    ]
    assert "hello" in done.stderr


# -- what metadata says -------------------------------------------------------------------------------------------


def test_all_of_our_needs_can_be_judged():
    found = [*needs_of("paracore"), *(need for needs in extras_of("paracore").values() for need in needs)]
    assert len(found) > 15
    assert not [need.text for need in found if need.enough is None]


@pytest.mark.parametrize(
    ("line", "text", "enough"),
    [
        ("attrs", "attrs", True),
        ("attrs>=1", "attrs>=1", True),
        ("attrs >= 1.0, >=2", "attrs>= 1.0, >=2", True),
        ("attrs>=99", "attrs>=99", False),
        ("attrs (>=99)", "attrs>=99", False),
        ("attrs[tests]>=1", "attrs[tests]>=1", True),
        ("attrs<99", "attrs<99", None),
        ("attrs>=1,!=2.1", "attrs>=1,!=2.1", None),
        ("no-such-distribution<99", "no-such-distribution<99", False),
        ("no-such-distribution; python_version < '3'", "no-such-distribution (python_version < '3')", None),
    ],
)
@pytest.mark.parametrize("extra", ["", "extra == 'fast'", 'extra == "fast"'])
def test_reading_a_need(monkeypatch, line, text, enough, extra):
    if extra:
        line = f"{line} and {extra}" if ";" in line else f"{line}; {extra}"
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [line])
    (need,) = extras_of("paracore")["fast"] if extra else needs_of("paracore")
    assert (need.text, need.enough) == (text, enough)


def test_what_is_not_installed_asks_for_nothing():
    assert needs_of("no-such-distribution") == []
    assert extras_of("no-such-distribution") == {}
