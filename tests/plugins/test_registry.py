"""The registry: what a plugin may do wrong, and how it is told."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import paracore
from paracore.errors import ConfigurationError, PluginError, UnknownNameError
from paracore.plugins import Registry, hookimpl
from paracore.plugins.calls import call_factory, options_of, parse_call


class Dist:
    """As much of a distribution as an entry point has."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version


class Point:
    """An entry point of a distribution that is not installed."""

    def __init__(self, name: str, load: Callable[[], object], dist: str = "some-dist", version: str = "1.2") -> None:
        self.name, self.load, self.dist = name, load, Dist(dist, version)
        self.value = f"{name}.plugin"


def plugin(**hooks: Any) -> types.ModuleType:
    """A module whose hooks return these things."""
    module = types.ModuleType("fake")
    for name, answer in hooks.items():

        def hook(answer: Any = answer) -> Any:
            return answer

        hook.__name__ = name
        setattr(module, name, hookimpl(lambda answer=answer: answer))
    return module


class Thing(paracore.Model):
    """Nothing but a size."""

    def __init__(self, *, size: int = 3) -> None:
        self.size = size

    def denoiser(self, scheme: Any, labels: Any = None, guidance: float = 1.0) -> Any:
        raise NotImplementedError


def good(name: str = "thing") -> types.ModuleType:
    return plugin(paracore_models={name: Thing})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """A registry with these entry points installed."""
    monkeypatch.delenv("PARACORE_DISABLE_PLUGINS", raising=False)

    def make(*points: Point) -> Registry:
        def fake(*, group: str) -> list[Point]:
            assert group == "paracore"
            return list(points)

        monkeypatch.setattr(importlib.metadata, "entry_points", fake)
        return Registry()

    return make


def raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


def test_a_good_plugin(installed):
    registry = installed(Point("mine", good))
    entry = registry.find("model", "thing")
    assert (entry.kind, entry.name, entry.plugin) == ("model", "thing", "mine")
    assert (entry.distribution, entry.version) == ("some-dist", "1.2")
    assert registry.make("model", "thing(size=5)").size == 5
    assert registry.broken == ()
    assert "look-ahead" in [e.name for e in registry.entries("residual")]


BROKEN = [
    (raising(ImportError("no module named 'jaxx'")), "ImportError: no module named 'jaxx'"),
    (raising(SystemExit(3)), "SystemExit: 3"),
    (lambda: plugin(paracore_model={}), "paracore_model"),
    (lambda: plugin(paracore_models={"NotKebab": dict}), "registers the name 'NotKebab'; names are kebab-case"),
    (lambda: plugin(paracore_models={"under_score": dict}), "'under_score'"),
    (lambda: plugin(paracore_models={"": dict}), "registers the name ''"),
    (lambda: plugin(paracore_models={3: dict}), "registers the name 3"),
    (lambda: plugin(paracore_models={"three": 3}), "registers 'three' as int; a class or function is needed"),
    (lambda: plugin(paracore_models=["three"]), "paracore_models returned list; a dict of names and factories"),
]


@pytest.mark.parametrize(("load", "cause"), BROKEN)
def test_a_broken_plugin_hides_no_other(installed, load, cause):
    registry = installed(Point("broken", load, "bad-dist", "0.1"), Point("mine", good))
    (broken,) = registry.broken
    assert (broken.plugin, broken.distribution, broken.version) == ("broken", "bad-dist", "0.1")
    assert cause in broken.cause
    assert "Traceback" in broken.details
    assert registry.make("model", "thing").size == 3
    with pytest.raises(UnknownNameError, match=r"unknown model 'thign'; did you mean 'thing'\? \(broken plugins: brok"):
        registry.find("model", "thign")


def test_a_misspelt_hook_names_the_right_ones(installed):
    (broken,) = installed(Point("broken", lambda: plugin(paracore_model={}))).broken
    assert "unknown hook 'paracore_model'" in broken.cause
    assert "the hooks are paracore_residuals, " in broken.cause


def test_a_broken_plugin_registers_nothing(installed):
    def half() -> object:
        return plugin(paracore_residuals={"fine": dict}, paracore_samplers={"Not Fine": dict})

    registry = installed(Point("half", half))
    assert "fine" not in [e.name for e in registry.entries()]


def test_ctrl_c_in_a_plugin_is_no_broken_plugin(installed):
    registry = installed(Point("slow", raising(KeyboardInterrupt())), Point("mine", good))
    for _ in range(2):  # and the half-filled table is forgotten
        with pytest.raises(KeyboardInterrupt):
            registry.find("model", "thing")


def test_two_distributions_with_one_name(installed):
    registry = installed(Point("one", good, "dist-a", "1.0"), Point("two", good, "dist-b", "2.0"), Point("x", good2))
    with pytest.raises(PluginError) as caught:
        registry.find("model", "thing")
    message = str(caught.value)
    assert message == (
        "model 'thing' is registered by one (dist-a 1.0) and two (dist-b 2.0); uninstall one, or leave it out with "
        "PARACORE_DISABLE_PLUGINS=two"
    )
    assert list(registry.conflicts) == [("model", "thing")]
    assert registry.find("model", "other").plugin == "x"


def good2() -> object:
    return good("other")


def test_disabled_plugins(installed, monkeypatch):
    registry = installed(Point("one", good, "a"), Point("two", good, "b"), Point("three", raising(ImportError("no"))))
    monkeypatch.setenv("PARACORE_DISABLE_PLUGINS", " two , three ")
    assert registry.find("model", "thing").plugin == "one"
    assert registry.broken == ()
    monkeypatch.setenv("PARACORE_DISABLE_PLUGINS", "all")
    registry.reset()
    assert registry.entries("model") == []
    with pytest.raises(UnknownNameError, match="unknown model 'thing'; nothing of this kind is registered"):
        registry.find("model", "thing")
    assert registry.entries("residual")


def test_unknown_kinds_and_names(installed):
    registry = installed(Point("mine", good))
    with pytest.raises(UnknownNameError, match=r"unknown kind 'modell'; did you mean 'model'\?"):
        registry.entries("modell")
    with pytest.raises(UnknownNameError, match="unknown sampler 'thing'; 'thing' is a model; "):
        registry.find("sampler", "thing")
    with pytest.raises(UnknownNameError, match="unknown model 'zzz'; known: thing"):
        registry.find("model", "zzz")


def test_register_in_process(installed):
    registry = installed(Point("x", good2))
    registry.register(good(), "mine")
    entry = registry.find("model", "thing")
    assert (entry.plugin, entry.distribution) == ("mine", "this process")
    registry.reset()
    assert registry.find("model", "thing").plugin == "mine"
    assert registry.find("model", "other").plugin == "x"
    with pytest.raises(PluginError, match="a plugin 'mine' is registered already"):
        registry.register(good2(), "mine")
    with pytest.raises(PluginError, match="a plugin 'paracore' is registered already"):
        registry.register(good2(), "paracore")
    registry.unregister("mine")
    with pytest.raises(UnknownNameError):
        registry.find("model", "thing")
    with pytest.raises(PluginError, match="no plugin 'mine' was registered"):
        registry.unregister("mine")


def test_register_checks_at_once_and_loads_nothing(installed):
    registry = installed(Point("x", raising(AssertionError("was loaded"))))
    with pytest.raises(PluginError, match="kebab-case"):
        registry.register(plugin(paracore_models={"No": dict}), "bad")
    with pytest.raises(PluginError, match="plugin 'empty' registers nothing; mark its hooks"):
        registry.register(types.ModuleType("empty"), "empty")
    registry.register(good(), "mine")
    assert registry._entries is None


def test_registered_names_can_clash(installed):
    registry = installed(Point("x", good))
    registry.register(good(), "mine")
    with pytest.raises(PluginError, match=r"registered by mine \(this process.*\) and x .*PARACORE_DISABLE_PLUGINS=x"):
        registry.find("model", "thing")
    registry = installed()
    registry.register(plugin(paracore_residuals={"look-ahead": dict}), "mine")
    with pytest.raises(PluginError, match=r"by paracore .* and mine .*registry.unregister\('mine'\) removes one"):
        registry.find("residual", "look-ahead")


def test_a_plugin_may_be_an_object(installed):
    class Mine:
        @hookimpl
        def paracore_models(self) -> dict[str, Any]:
            return {"thing": Thing}

    registry = installed()
    registry.register(Mine(), "mine")
    assert registry.make("model", "thing").size == 3


# -- calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("secant", "secant", {}),
        (" secant ( memory = 2 ) ", "secant", {"memory": 2}),
        ("secant()", "secant", {}),
        ("a-b(rate=-0.5, on=True, off=None)", "a-b", {"rate": -0.5, "on": True, "off": None}),
        ("x(kind=error-target)", "x", {"kind": "error-target"}),
        ("x(kind=copy, other='two words')", "x", {"kind": "copy", "other": "two words"}),
        ("x(version=v-prediction)", "x", {"version": "v-prediction"}),
        ("x(shape=(1, 2), list=[3])", "x", {"shape": (1, 2), "list": [3]}),
        ("x(rate=1e-3)", "x", {"rate": 1e-3}),
    ],
)
def test_parse_call(text, name, options):
    assert parse_call(text) == (name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no name"),
        ("(memory=2)", "has no name"),
        ("secant(memory=2", "lacks its closing bracket"),
        ("secant(2)", "options are given by name"),
        ("secant(**x)", "options are given by name"),
        ("secant(memory=)", "cannot be read"),
        ("secant(memory=2)(x=3)", "options are given by name"),
        ("secant(memory=f(2))", "is no number, word or quoted string"),
        ("secant(a=1)b)", "cannot be read"),
        ("secant(a=1, a=2)", "gives an option twice"),
    ],
)
def test_parse_call_errors(text, message):
    with pytest.raises(ConfigurationError) as caught:
        parse_call(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def factory(
    data: object, *, memory: int = 2, rate: float = 0.5, on: bool = True, name: str = "x", most: int | None = None
) -> tuple[Any, ...]:
    return (data, memory, rate, on, name, most)


def test_call_factory():
    assert call_factory("thing", factory, ("d",), {"rate": 1, "most": None}) == ("d", 2, 1, True, "x", None)
    assert list(options_of(factory)) == ["data", "memory", "rate", "on", "name", "most"]
    assert options_of(dict) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memroy": 3}, "thing has no option 'memroy'; did you mean 'memory'?"),
        ({"memory": 2.5}, "thing: option memory is 2.5; int is needed"),
        ({"memory": True}, "thing: option memory is True; int is needed"),
        ({"rate": "fast"}, "thing: option rate is 'fast'; float is needed"),
        ({"on": 1}, "thing: option on is 1; bool is needed"),
        ({"name": 3}, "thing: option name is 3; str is needed"),
        ({"most": "all"}, "thing: option most is 'all'; int | None is needed"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigurationError) as caught:
        call_factory("thing", factory, ("d",), options)
    assert str(caught.value) == message


def test_missing_options():
    with pytest.raises(ConfigurationError, match="thing needs the option 'data'"):
        call_factory("thing", factory, (), {})


# -- laziness -----------------------------------------------------------------------------------------------------


def test_importing_paracore_loads_no_plugin():
    code = (
        "import sys, paracore, paracore.harness; from paracore import registry; assert registry._entries is None; "
        "print([m for m in sys.modules if m.partition('.')[0] in "
        "('diffusers', 'scipy', 'typer', 'rich', 'click', 'PIL', 'ray', 'transformers', 'sklearn') "
        "or m.startswith('paracore_')])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_library_raises_the_same_errors():
    with pytest.raises(UnknownNameError, match=r"unknown stopping 'error-targt'; did you mean 'error-target'\?"):
        paracore.compose(stopping="error-targt")
    with pytest.raises(ConfigurationError, match=r"composition has no option 'windw'; did you mean 'window'\?"):
        paracore.compose(windw=3)


def test_threads_that_look_up_first_at_once_all_find():
    registry = Registry()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.find("sampler", "picard").name, range(8)))
    assert found == ["picard"] * 8
