"""The hook ``paracore_citations``: BibTeX by registered name."""

from __future__ import annotations

import types
from typing import Any

import pytest

import paracore
from paracore.errors import PluginError
from paracore.plugins import Registry, hookimpl

ENTRY = "@misc{key, title = {T}}"


def plugin(**hooks: Any) -> types.ModuleType:
    """A module whose hooks return these things."""
    module = types.ModuleType("fake")
    for name, answer in hooks.items():
        setattr(module, name, hookimpl(lambda answer=answer: answer))
    return module


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry."""
    monkeypatch.setenv("PARACORE_DISABLE_PLUGINS", "all")
    return Registry()


def test_entries_carry_their_bibtex(registry):
    registry.register(plugin(paracore_models={"thing": dict, "other": dict}, paracore_citations={"thing": ENTRY}), "p")
    assert registry.find("model", "thing").citation == ENTRY
    assert registry.find("model", "other").citation == ""
    assert registry.find("residual", "look-ahead").citation == ""


def test_a_name_of_several_kinds_is_cited_in_all(registry):
    made = plugin(
        paracore_samplers={"thing": dict},
        paracore_jacobians={"thing": dict},
        paracore_dampings={"other": dict},
        paracore_citations={"thing": ENTRY},
    )
    registry.register(made, "p")
    assert registry.find("sampler", "thing").citation == registry.find("jacobian", "thing").citation == ENTRY
    assert registry.find("damping", "other").citation == ""


def test_a_plugin_cites_only_itself(registry):
    registry.register(plugin(paracore_models={"thing": dict}, paracore_citations={"thing": ENTRY}), "p")
    registry.register(plugin(paracore_samplers={"thing": dict}), "q")
    assert registry.find("sampler", "thing").citation == ""
    with pytest.raises(PluginError, match="names 'thing', which the plugin does not register"):
        registry.register(plugin(paracore_models={"else": dict}, paracore_citations={"thing": ENTRY}), "r")


@pytest.mark.parametrize("answer", [["thing"], "thing", {"thing": None}, {"thing": [ENTRY]}, {"thing": b"@"}, 3, None])
def test_bad_returns(registry, answer):
    made = plugin(paracore_models={"thing": dict}, paracore_citations=answer)
    with pytest.raises(PluginError, match="a dict of registered names and BibTeX strings is needed"):
        registry.register(made, "p")
    assert registry.entries("model") == []


@pytest.mark.parametrize("name", ["thign", "Thing", 3])
def test_names_that_are_not_registered(registry, name):
    made = plugin(paracore_models={"thing": dict}, paracore_citations={name: ENTRY})
    with pytest.raises(PluginError, match=f"paracore_citations names {name!r}, which the plugin does not register"):
        registry.register(made, "p")


def test_no_citations(registry):
    registry.register(plugin(paracore_models={"thing": dict}, paracore_citations={}), "p")
    assert registry.find("model", "thing").citation == ""


def test_citations_alone_register_nothing(registry):
    with pytest.raises(PluginError, match="plugin 'p' registers nothing"):
        registry.register(plugin(paracore_citations={}), "p")


def test_a_misspelt_hook_names_this_one_too(registry):
    with pytest.raises(PluginError, match="paracore_evaluators, paracore_citations"):
        registry.register(plugin(paracore_models={"thing": dict}, paracore_citation={}), "p")


def test_the_presets_of_the_picard_package():
    found = {name: paracore.registry.find("sampler", name).citation for name in ("picard", "paradigms", "jacobi")}
    assert "2305.16317" in found["picard"]
    assert found["picard"] == found["paradigms"]
    assert "2002.03629" in found["jacobi"]
