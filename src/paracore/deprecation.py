"""Renaming what is public: the old name works and warns for one minor version.

For paracore's own code; ``docs/plugins/stability.md`` has the rule.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from paracore.errors import ConfigurationError, ParacoreDeprecationWarning

__all__ = [
    "DECLARED",
    "Deprecation",
    "current_options",
    "renamed_hook",
    "renamed_names",
    "renamed_options",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__paracore_renamed_options__"


@attrs.frozen
class Deprecation:
    """A name that goes.

    Attributes:
        old: what was written.
        new: what is to be written instead.
        since: the minor version that warns first, like ``"0.2"``.

    Raises:
        ConfigurationError: if ``since`` is no minor version.
    """

    old: str
    new: str
    since: str

    def __attrs_post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+", self.since):
            raise ConfigurationError(f"since is {self.since!r}; a minor version is needed, like '0.2'")

    @property
    def gone(self) -> str:
        """The version that does not have it any more: the next minor one."""
        major, minor = self.since.split(".")
        return f"{major}.{int(minor) + 1}"

    def overdue(self, version: str) -> bool:
        """Whether ``version`` should not have it any more; a test asks it of all that are left."""
        return [int(n) for n in version.split(".")[:2]] >= [int(n) for n in self.gone.split(".")]

    def warn(self, what: str, stacklevel: int = 3) -> None:
        """Warn, as from the caller of the caller."""
        message = f"{what} {self.old!r} is called {self.new!r} since paracore {self.since}; the old name goes in "
        warnings.warn(message + self.gone, ParacoreDeprecationWarning, stacklevel=stacklevel)


DECLARED: list[Deprecation] = []
"""Everything that the helpers were told of in this process; a test sees that nothing in it is overdue."""


def _declare(since: str, names: Mapping[str, str]) -> dict[str, Deprecation]:
    gone = {old: Deprecation(old, new, since) for old, new in names.items()}
    DECLARED.extend(gone.values())
    return gone


def renamed_hook(since: str, **hooks: str) -> dict[str, Deprecation]:
    """Old names of hooks, for :data:`~paracore.plugins.hookspecs.RENAMED_HOOKS`: ``renamed_hook("0.2", old="new")``.

    A plugin that still implements the old one is asked under the new name, with a warning; one that implements both,
    to work with two minor versions, is asked for the new one alone, without.
    """
    return _declare(since, hooks)


def renamed_names(module: str, since: str, **names: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that still knows old names.

    In the module: ``__getattr__ = renamed_names(__name__, "0.2", old="new")``. What is reached by an old
    name is the new thing itself.
    """
    gone = _declare(since, names)

    def __getattr__(name: str) -> Any:  # noqa: N807 - it is assigned to that name
        if name not in gone:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        gone[name].warn(f"{module}:")
        return getattr(sys.modules[module], gone[name].new)

    return __getattr__


def renamed_options(since: str, **options: str) -> Callable[[_F], _F]:
    """Let a function or class still take options by their old names: ``@renamed_options("0.2", old="new")``.

    The signature shows the new names alone; strings such as ``"secant(old=2)"`` know the old ones too.
    """
    gone = _declare(since, options)

    def decorate(made: _F) -> _F:
        whole: Any = made
        inner = whole.__init__ if inspect.isclass(made) else whole
        label = getattr(made, "__name__", "")

        @functools.wraps(inner)
        def call(*args: Any, **given: Any) -> Any:
            return inner(*args, **_renamed(f"{label}: option", gone, given, 4))

        outer: Any = call
        if inspect.isclass(made):
            outer, whole.__init__ = whole, call
        setattr(outer, _MARK, gone)
        return outer  # type: ignore[no-any-return]

    return decorate


def current_options(label: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their current names; warns for old ones.

    Raises:
        ConfigurationError: for an option that is given by both names.
    """
    return _renamed(f"{label}: option", getattr(factory, _MARK, {}), options, 4)


def _renamed(what: str, gone: Mapping[str, Deprecation], given: Mapping[str, Any], stacklevel: int) -> dict[str, Any]:
    found = dict(given)
    for old in [name for name in given if name in gone]:
        new = gone[old].new
        if new in found:
            raise ConfigurationError(f"{what} {new!r} is given twice, once by its old name {old!r}")
        gone[old].warn(what, stacklevel)
        found[new] = found.pop(old)
    return found
