"""``pytest --pyargs my_plugin`` runs the conformance kit on everything that the plugin registers.

The module that an entry point of the group ``paracore`` names is collected, if pytest was asked for it or for a package
that holds it by name (``--pyargs``). pytest loads this package wherever paracore is installed: it lies outside of
``paracore``, and imports nothing of it before it has something to collect.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["ConformanceFile", "ConformanceItem"]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The conformance tests of a plugin's module."""
    if not parent.config.option.pyargs:
        return None
    points = [point.name for point in _points() if _origin(point.module) == file_path]
    if not points:
        return None
    made: ConformanceFile = ConformanceFile.from_parent(parent, path=file_path, name=f"{file_path.name}[paracore]")
    made.points = points
    return made


def _points() -> list[importlib.metadata.EntryPoint]:
    return sorted(importlib.metadata.entry_points(group="paracore"), key=lambda point: point.name)


def _origin(module: str) -> Path | None:
    """The file of a module, which is not imported for it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


class ConformanceFile(pytest.File):
    """The names that a plugin registers."""

    points: list[str]

    def collect(self) -> Iterator[pytest.Item]:
        """A test for every check of every name; one that fails, if the plugin is broken or registers nothing."""
        from paracore.plugins import registry
        from paracore.testing.kit import cases_of
        from paracore.testing.subject import subjects_of_plugin

        for point in self.points:
            for broken in registry.broken:
                if broken.plugin == point:
                    yield self._item(f"{point} loads", _failing(f"plugin {point} cannot be used: {broken.cause}"))
            for (kind, name), owners in registry.conflicts.items():
                if point in [owner.plugin for owner in owners]:
                    text = f"{kind} {name!r} is registered by {' and '.join(owner.plugin for owner in owners)}"
                    yield self._item(f"{point} {kind} {name}", _failing(text))
            for label, test in cases_of(subjects_of_plugin(point)):
                yield self._item(label, test)

    def _item(self, name: str, test: Callable[[], None]) -> pytest.Item:
        item: ConformanceItem = ConformanceItem.from_parent(self, name=name)
        item.test = test
        return item


def _failing(message: str) -> Callable[[], None]:
    def test() -> None:
        raise AssertionError(message)

    return test


class ConformanceItem(pytest.Item):
    """One check of one name."""

    test: Callable[[], None]

    def runtest(self) -> None:
        """Run it."""
        self.test()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The contract that was broken, without the kit's own frames."""
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands."""
        return self.path, None, self.name
