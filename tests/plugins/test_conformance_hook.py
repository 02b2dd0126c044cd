"""The hook ``paracore_conformance``: what the kit must know of a registered name."""

from __future__ import annotations

import attrs
import pytest

import paracore
from paracore.errors import ConfigurationError, PluginError
from paracore.plugins import Registry, hookimpl


def told(answer: object) -> object:
    """A plugin with two names, one of them in two kinds."""

    class Plugin:
        @hookimpl
        def paracore_models(self):
            return {"thing": dict, "other": dict}

        @hookimpl
        def paracore_samplers(self):
            return {"thing": dict}

        @hookimpl
        def paracore_conformance(self):
            return answer

    return Plugin()


def test_entries_carry_it_and_have_a_default():
    given = paracore.Conformance(examples=({"size": 3}, {"size": 4}), expected_failures={"check_x": "it is a stub"})
    registry = Registry()
    registry.register(told({"thing": given}), "p")
    assert registry.find("model", "thing").conformance == given
    assert registry.find("sampler", "thing").conformance == given
    assert registry.find("model", "other").conformance == paracore.Conformance()
    assert paracore.Conformance().examples == ({},)
    assert registry.find("residual", "look-ahead").conformance == paracore.Conformance()
    assert len(set(registry.entries("model"))) == len(registry.entries("model"))  # entries stay hashable


def test_a_kind_before_the_name_tells_two_apart():
    one, two = paracore.Conformance(({"size": 3},)), paracore.Conformance(({"depth": 3},))
    registry = Registry()
    registry.register(told({"thing": one, "sampler:thing": two}), "p")
    assert registry.find("model", "thing").conformance == one
    assert registry.find("sampler", "thing").conformance == two


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["thing"], "a dict of registered names and paracore.Conformance is needed"),
        ({"thing": {"size": 3}}, "a dict of registered names and paracore.Conformance is needed"),
        ({"else": paracore.Conformance()}, "names 'else', which the plugin does not register"),
        ({"damping:thing": paracore.Conformance()}, "names 'damping:thing', which the plugin does not register"),
    ],
)
def test_nonsense_breaks_the_plugin(answer, message):
    with pytest.raises(PluginError, match=message):
        Registry().register(told(answer), "p")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": ()}, "examples is empty"),
        ({"examples": {"size": 3}}, "a tuple of examples is needed"),
        ({"examples": ("size",)}, "the example 'size' is neither a dict"),
        ({"expected_failures": {"check_x": " "}}, "'check_x' has the reason ' '"),
    ],
)
def test_nonsense_in_it(options, message):
    with pytest.raises(ConfigurationError, match=message):
        paracore.Conformance(**options)


def test_it_does_not_change():
    reasons = {"check_x": "it is a stub"}
    made = paracore.Conformance(expected_failures=reasons)
    reasons.clear()
    assert list(made.expected_failures) == ["check_x"]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.examples = ()


def test_an_example_may_be_a_function_of_the_problem():
    def build(problem: paracore.Problem) -> str:
        return f"{problem.scheme.steps} steps"

    (example,) = paracore.Conformance((build,)).examples
    assert example is build
