"""Renaming: the old name works, warns for one minor version, and is known to be overdue after it."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import types
import warnings
from typing import Any

import attrs
import pytest

import paracore
from paracore import deprecation
from paracore.deprecation import Deprecation, renamed_hook, renamed_names, renamed_options
from paracore.distributions import own_version
from paracore.errors import ConfigurationError, ParacoreDeprecationWarning
from paracore.plugins import Registry, hookimpl, options_of
from paracore.plugins.calls import call_factory
from paracore.plugins.discovery import RENAMED_HOOKS

NOW = "99.0"  # far from any version that these tests will meet


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests declare is nobody else's business."""
    monkeypatch.setattr(deprecation, "DECLARED", [])


def test_the_message_says_what_instead_and_until_when():
    gone = Deprecation("old", "new", "0.9")
    assert gone.gone == "0.10"
    with pytest.warns(ParacoreDeprecationWarning) as caught:
        gone.warn("the option")
    assert str(caught[0].message) == ("the option 'old' is called 'new' since paracore 0.9; the old name goes in 0.10")
    assert caught[0].filename != deprecation.__file__


def test_it_is_shown_by_default():
    assert issubclass(ParacoreDeprecationWarning, FutureWarning)


@pytest.mark.parametrize(
    ("version", "overdue"),
    [("0.8.3", False), ("0.9.0", False), ("0.9.12", False), ("0.10.0", True), ("0.10.0rc1", True), ("1.0.0", True)],
)
def test_one_minor_version(version, overdue):
    assert Deprecation("old", "new", "0.9").overdue(version) is overdue


@pytest.mark.parametrize("since", ["0.9.1", "1", "soon", ""])
def test_a_minor_version_is_needed(since):
    with pytest.raises(ConfigurationError, match=r"a minor version is needed, like '0\.2'"):
        Deprecation("old", "new", since)


def test_nothing_in_paracore_is_overdue():
    names = [found.name for found in pkgutil.walk_packages(paracore.__path__, "paracore.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    assert len(names) > 60
    overdue = [gone for gone in deprecation.DECLARED if gone.overdue(own_version())]
    assert not overdue, "remove these; they have warned for a minor version"


# -- names --------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made: Any = types.ModuleType("renaming")
    made.new = object()
    made.__getattr__ = renamed_names("renaming", NOW, old="new")
    monkeypatch.setitem(sys.modules, "renaming", made)
    return made


def test_an_old_name_is_the_new_thing(module):
    with pytest.warns(
        ParacoreDeprecationWarning, match="renaming: 'old' is called 'new' since paracore 99.0"
    ) as caught:
        from renaming import old
    assert old is module.new
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert module.new is old


def test_other_names_are_missing_as_ever(module):
    with pytest.raises(AttributeError, match="module 'renaming' has no attribute 'older'"):
        module.older  # noqa: B018
    assert not hasattr(module, "older")


# -- options ------------------------------------------------------------------------------------------------------


@renamed_options(NOW, depth="memory")
def function(data: str, memory: int = 2) -> tuple[str, int]:
    return data, memory


@renamed_options(NOW, depth="memory")
@attrs.frozen
class Record:
    memory: int = 2


class Plain:
    @renamed_options(NOW, depth="memory")
    def method(self, memory: int = 2) -> int:
        return memory


def test_an_old_option_is_the_new_one():
    for call in (lambda: function("d", depth=3)[1], lambda: Record(depth=3).memory, lambda: Plain().method(depth=3)):
        with pytest.warns(ParacoreDeprecationWarning, match="'depth' is called 'memory'") as caught:
            assert call() == 3
        assert caught[0].filename == __file__


def test_new_options_warn_of_nothing():
    assert (function("d", memory=3), function("d", 3), function("d")) == (("d", 3), ("d", 3), ("d", 2))
    assert (Record(3), Record(memory=3)) == (Record(3), Record(3))
    assert isinstance(Record(), Record)
    assert list(options_of(function)) == ["data", "memory"]
    assert options_of(Record) == {"memory": (int, 2)}


def test_both_names_at_once_are_refused():
    with pytest.raises(ConfigurationError, match="option 'memory' is given twice, once by its old name 'depth'"):
        Record(depth=3, memory=3)


@pytest.mark.parametrize(("factory", "args"), [(function, ("d",)), (Record, ())])
def test_calls_from_strings_know_old_options(factory, args):
    with pytest.warns(ParacoreDeprecationWarning, match="thing: option 'depth'") as caught:
        made = call_factory("thing", factory, args, {"depth": 3})
    assert len(caught) == 1
    assert made == call_factory("thing", factory, args, {"memory": 3})
    with pytest.raises(ConfigurationError, match="thing: option memory is 'much'; int is needed"), pytest.warns():
        call_factory("thing", factory, args, {"depth": "much"})


# -- hooks --------------------------------------------------------------------------------------------------------


class Old:
    @hookimpl
    def paracore_dampers(self):
        return {"half": paracore.DampingPolicy}


class Both(Old):
    @hookimpl
    def paracore_dampings(self):
        return {"half": paracore.DampingPolicy}


def test_an_old_hook_is_asked_under_its_new_name(monkeypatch):
    for old, gone in renamed_hook(NOW, paracore_dampers="paracore_dampings").items():
        monkeypatch.setitem(RENAMED_HOOKS, old, gone)
    registry = Registry()
    with pytest.warns(ParacoreDeprecationWarning, match="the hook 'paracore_dampers' is called 'paracore_dampings'"):
        registry.register(Old(), "old")
    assert registry.find("damping", "half").plugin == "old"


def test_a_plugin_for_two_versions_has_both_and_hears_nothing(monkeypatch):
    for old, gone in renamed_hook(NOW, paracore_dampers="paracore_dampings").items():
        monkeypatch.setitem(RENAMED_HOOKS, old, gone)
    registry = Registry()
    registry.register(Both(), "both")
    assert registry.find("damping", "half").plugin == "both"
    assert registry.conflicts == {}
