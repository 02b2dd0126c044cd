"""The version of the hooks that a plugin says it was made for."""

from __future__ import annotations

from typing import Any

import pytest

import paracore
from paracore.distributions import own_version
from paracore.errors import PluginError
from paracore.plugins import API, Plugin, Registry, discovery, hookimpl
from paracore.plugins.discovery import collect

FOUND = Plugin("mine", "my-dist", "1.2", "my_dist.plugin")


def made_for(**said: Any) -> object:
    class Module:
        @hookimpl
        def paracore_dampings(self):
            return {"half": paracore.DampingPolicy}

    return type("Stated", (Module,), said)()


@pytest.mark.parametrize("said", [{}, {"paracore_api": 1}])
def test_the_first_version_needs_no_saying(said):
    assert API == 1
    found = collect(FOUND, made_for(**said))
    assert found.api == 1
    assert [entry.name for entry in found.entries] == ["half"]


def test_a_plugin_for_a_later_version_is_refused():
    with pytest.raises(PluginError) as caught:
        collect(FOUND, made_for(paracore_api=3))
    assert str(caught.value) == (
        f"my-dist 1.2 was made for version 3 of paracore's hooks; paracore {own_version()} has version 1: "
        "upgrade paracore, or install a release of my-dist that was made for version 1"
    )


def test_a_plugin_for_an_earlier_version_is_refused(monkeypatch):
    monkeypatch.setattr(discovery, "API", 2)
    for said in ({}, {"paracore_api": 1}):
        with pytest.raises(PluginError) as caught:
            collect(FOUND, made_for(**said))
        assert str(caught.value) == (
            f"my-dist 1.2 was made for version 1 of paracore's hooks; paracore {own_version()} has version 2: "
            "upgrade my-dist, or install a release of paracore that has version 1"
        )
    assert collect(FOUND, made_for(paracore_api=2)).api == 2


@pytest.mark.parametrize("said", ["1", 1.0, True, None, 0, -1, (1,)])
def test_nonsense_is_refused(said):
    with pytest.raises(PluginError, match="the version of the hooks is needed, like paracore_api = 1"):
        collect(FOUND, made_for(paracore_api=said))


def test_it_is_read_before_the_hooks():
    """A hook of another version is no misspelt one."""
    with pytest.raises(PluginError, match="was made for version 2"):
        collect(FOUND, made_for(paracore_api=2, paracore_of_tomorrow=hookimpl(lambda self: {})))
    with pytest.raises(PluginError, match="unknown hook 'paracore_of_tomorrow'"):
        collect(FOUND, made_for(paracore_api=1, paracore_of_tomorrow=hookimpl(lambda self: {})))


def test_in_this_process_too():
    with pytest.raises(PluginError, match="was made for version 2"):
        Registry().register(made_for(paracore_api=2), "mine")
