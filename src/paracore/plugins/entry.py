"""What is known of plugins and of the names that they register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from paracore.composition import KINDS, Composition
from paracore.distributions import OWN
from paracore.errors import ParacoreError, PluginError
from paracore.model import Model
from paracore.plugins.calls import call_factory
from paracore.plugins.conformance import Conformance
from paracore.request import Evaluator
from paracore.sampler import Sampler
from paracore.schemes import Scheme

__all__ = ["IN_PROCESS", "Broken", "Entry", "Plugin"]

IN_PROCESS = "this process"
"""The distribution of plugins that were registered by a call."""

_BUILT: dict[str, tuple[type, ...]] = {
    **{kind: (base,) for kind, base in KINDS.items()},
    "sampler": (Sampler, Composition),
    "model": (Model,),
    "evaluator": (Evaluator,),
    "scheme": (Scheme,),
}


@attrs.frozen
class Entry:
    """A registered name.

    Attributes:
        kind: one of :data:`~paracore.plugins.HOOKS`.
        name: kebab-case.
        factory: class or function; its keyword parameters are the options.
        plugin: entry-point name of the plugin that registered it.
        distribution: the installed distribution it came with.
        version: that distribution's version.
        citation: BibTeX entries of its source, empty if the plugin gives none.
        conformance: how the conformance kit builds it, and what it is known to fail.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    plugin: str
    distribution: str
    version: str
    citation: str = ""
    conformance: Conformance = attrs.field(factory=Conformance, hash=False)  # it holds dicts

    @property
    def origin(self) -> str:
        """Plugin, distribution and version, for messages: ``"mine (my-dist 1.2)"``."""
        return _origin(self.plugin, self.distribution, self.version)

    def make(self, *args: Any, **options: Any) -> Any:
        """Call the factory.

        Raises:
            ConfigurationError: for options that are unknown, missing or of another type.
            PluginError: if the factory raises what is no error of paracore's, or builds something else than its kind;
                the message names plugin, distribution and version.
        """
        who = f"{self.kind} {self.name!r} of plugin {self.origin}"
        try:
            made = call_factory(f"{self.kind} {self.name!r}", self.factory, args, options)
        except ParacoreError as error:
            if self.distribution != OWN:
                error.add_note(f"raised by {who}")
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{who} raised {type(error).__name__}: {error}") from error
        needed = _BUILT[self.kind]
        if not isinstance(made, needed):
            names = " or ".join(f"paracore.{one.__name__}" for one in needed)
            raise PluginError(f"{who} built {type(made).__name__}; a {names} is needed")
        return made


@attrs.frozen
class Plugin:
    """A plugin that was found.

    Attributes:
        plugin: its entry-point name.
        distribution: the installed distribution it came with.
        version: that distribution's version.
        target: what the entry point names: a module, or ``module:object``; empty for one of this process.
        api: the version of the hooks that it was made for; ``None`` if it was left out unread.
        entries: what it registers.
    """

    plugin: str
    distribution: str
    version: str
    target: str = ""
    api: int | None = None
    entries: tuple[Entry, ...] = ()

    @property
    def origin(self) -> str:
        """Plugin, distribution and version, for messages: ``"mine (my-dist 1.2)"``."""
        return _origin(self.plugin, self.distribution, self.version)


@attrs.frozen
class Broken:
    """A plugin that could not be used, and why.

    Attributes:
        plugin: its entry-point name.
        distribution: the installed distribution it came with.
        version: that distribution's version.
        cause: the error's type and message.
        details: the traceback.
        target: what the entry point names.
    """

    plugin: str
    distribution: str
    version: str
    cause: str
    details: str
    target: str = ""

    @property
    def origin(self) -> str:
        """Plugin, distribution and version, for messages: ``"mine (my-dist 1.2)"``."""
        return _origin(self.plugin, self.distribution, self.version)


def _origin(plugin: str, distribution: str, version: str) -> str:
    return f"{plugin} ({distribution})" if distribution == IN_PROCESS else f"{plugin} ({distribution} {version})"
