"""``paracore cite``: whose BibTeX is printed, in which order, and what is said where there is none."""

from __future__ import annotations

import importlib.metadata
import json
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

import paracore
from paracore.cli import citing
from paracore.plugins import hookimpl


def entry(key: str, title: str = "T", kind: str = "article") -> str:
    return f"@{kind}{{{key},\n  title = {{{title} {{\\'E}}tude}},\n  year = {{2020}},\n}}"


@attrs.frozen
class Nearby(paracore.parts.Hold):
    """A guess with a paper."""


@attrs.frozen
class Wide(paracore.parts.EveryKth):
    """A selection that a function builds."""


def wide(stride: int = 2) -> Wide:
    """Rows far apart."""
    return Wide(stride=stride)


class Own(paracore.Sampler):
    """A sampler that is no composition."""

    needs = frozenset()

    def start(self, problem: Any, **_: Any) -> Any:
        raise AssertionError("citing starts no sampler")

    request = advance = result = plain = restore = start


def plugin(**hooks: Any) -> types.ModuleType:
    module = types.ModuleType("cited")
    for name, answer in hooks.items():
        setattr(module, name, hookimpl(lambda answer=answer: answer))
    return module


@pytest.fixture
def cited() -> Iterator[Callable[..., None]]:
    """Registers a plugin with this BibTeX."""

    def preset(window: int = 4, guess: str = "nearby", selection: str = "wide") -> paracore.Engine:
        return paracore.compose(window=window, initializer=guess, selection=selection, name="preset")

    def own_sampler() -> paracore.Sampler:
        return Own()

    def needy(strength: float, *, guess: str = "nearby") -> paracore.Engine:
        return paracore.compose(initializer=guess)

    def go(**citations: str) -> None:
        made = plugin(
            paracore_samplers={"preset": preset, "own-sampler": own_sampler, "needy": needy},
            paracore_initializers={"nearby": Nearby},
            paracore_selections={"wide": wide},
            paracore_citations={name.replace("_", "-"): text for name, text in citations.items()},
        )
        paracore.registry.register(made, "cited")

    yield go
    if "cited" in paracore.registry._registered:
        paracore.registry.unregister("cited")


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{([^,]+),", text, flags=re.M)


def test_a_preset_and_paracore(run):
    done = run("cite", "picard")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert keys(done.stdout) == ["shih2023paradigms", "paracore"]
    assert "2305.16317" in done.stdout
    assert f"version = {{{importlib.metadata.version('paracore')}}}" in done.stdout
    assert done.stdout.rpartition("@")[2].startswith("software{paracore,")


def test_each_entry_once_in_the_order_of_the_names(run):
    done = run("cite", "jacobi", "picard(window=3)", "paradigms", "picard", "jacobi")
    assert keys(done.stdout) == ["song2021accelerating", "shih2023paradigms", "paracore"]


def test_the_parts_of_a_composition_are_cited(run, cited):
    cited(preset=entry("p"), nearby=entry("n"), wide=entry("w") + "\n" + entry("w2"))
    assert keys(run("cite", "preset").stdout) == ["p", "n", "w", "w2", "paracore"]
    assert keys(run("cite", "preset(guess=hold)").stdout) == ["p", "w", "w2", "paracore"]
    assert keys(run("cite", "picard(selection=wide)").stdout) == ["shih2023paradigms", "w", "w2", "paracore"]
    assert keys(run("cite", "wide(stride=3)", "nearby").stdout) == ["w", "w2", "n", "paracore"]


def test_parts_without_a_preset_of_its_own(run, cited):
    cited(nearby=entry("n"))
    done = run("cite", "preset")
    assert done.stdout.startswith("% preset: no publication\n\n@article{n,")


def test_a_sampler_that_is_no_composition(run, cited):
    cited(own_sampler=entry("o"))
    assert keys(run("cite", "own-sampler").stdout) == ["o", "paracore"]


def test_a_sampler_that_needs_an_option(run, cited):
    cited(needy=entry("d"), nearby=entry("n"))
    done = run("cite", "needy")
    assert done.exit_code == 0
    assert done.stdout.startswith("% needy: its parts are not cited, since they depend on the option 'strength'")
    assert keys(done.stdout) == ["d", "paracore"]
    assert keys(run("cite", "needy(strength=1.0)").stdout) == ["d", "n", "paracore"]
    assert run("cite", "needy(guess=hold)").exit_code == 2


def test_names_without_publication(run):
    done = run("cite", "stub", "look-ahead", "flow-euler", "none")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:4] == [
        f"% {name}: no publication" for name in ("stub", "look-ahead", "flow-euler", "none")
    ]
    assert keys(done.stdout) == ["paracore"]


def test_json(run, cited):
    cited(preset=entry("shared"), nearby=entry("shared", "Other") + entry("n"))
    data = json.loads(run("cite", "preset", "stub", "--json").stdout)
    assert data["remarks"] == {"stub": "no publication"}
    first, second, own = data["references"]
    assert (first["key"], first["kind"], first["for"]) == ("shared", "article", ["preset", "nearby"])
    assert first["bibtex"] == entry("shared")
    assert (second["key"], second["for"]) == ("n", ["nearby"])
    assert (own["key"], own["kind"], own["for"]) == ("paracore", "software", ["paracore"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("picrad", "unknown name 'picrad'; did you mean 'picard'?"),
        ("picard(windw=3)", "sampler 'picard' has no option 'windw'; did you mean 'window'?"),
        ("picard(guess=nothing-like-it)", "unknown initializer 'nothing-like-it'; "),
        ("hold(x=3)", "initializer 'hold' has no option 'x'"),
        ("picard(", "lacks its closing bracket"),
        ("", "has no name"),
    ],
)
def test_errors_are_one_line(run, call, message):
    done = run("cite", call)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("text", ["@article", "@article{key, title = {open}", "@article{no key}", "@{x, y}"])
def test_what_is_no_bibtex(run, cited, text):
    cited(nearby=text)
    done = run("cite", "nearby")
    assert done.exit_code == 2
    assert "plugin 'cited' cites initializer 'nearby' with '@" in done.stderr
    assert "which is no BibTeX entry: write @article{key, title = {...}, ...}" in done.stderr


def test_text_between_entries_is_left_out(run, cited):
    cited(nearby="see\n" + entry("a") + "\nand\n" + entry("b"))
    done = run("cite", "nearby")
    assert keys(done.stdout) == ["a", "b", "paracore"]
    assert "and" not in done.stdout.splitlines()


def test_no_names(run):
    assert run("cite").exit_code == 2


def test_a_source_tree_that_is_not_installed(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    own = citing.own_reference()
    assert "unknown (not installed)" in own.bibtex
    assert "The paracore authors" in own.bibtex


def test_what_cannot_be_annotated_is_no_part(run, cited, monkeypatch):
    cited(wide=entry("w"))
    monkeypatch.setitem(wide.__annotations__, "return", "NoSuchName")
    assert keys(run("cite", "preset").stdout) == ["paracore"]
