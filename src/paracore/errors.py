"""Every error that paracore raises on purpose. All derive from :class:`ParacoreError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paracore.result import Result

__all__ = [
    "CapabilityError",
    "CheckpointError",
    "CheckpointWriteError",
    "ConfigurationError",
    "DenoiserError",
    "EvaluatorError",
    "ParacoreDeprecationWarning",
    "ParacoreError",
    "PluginError",
    "ProblemError",
    "SchemeError",
    "SolveError",
    "SolveInterrupted",
    "StrategyError",
    "UnknownNameError",
    "VersionWarning",
    "suggest",
]


class ParacoreError(Exception):
    """Base of all errors raised on purpose; catch it to catch them all."""


class ConfigurationError(ParacoreError, ValueError):
    """An option has a value that is not allowed."""


class UnknownNameError(ParacoreError, LookupError):
    """A name that nothing is registered under."""


class VersionWarning(UserWarning):
    """A sampler was loaded from a file that was made with other versions of paracore or of a plugin."""


class CapabilityError(ConfigurationError):
    """Two parts that cannot work together; the message names both."""


class ParacoreDeprecationWarning(FutureWarning):
    """Something that was used is called otherwise now; the old name goes in the next minor version.

    A ``FutureWarning``, since that is shown by default: who uses a plugin sees it, even if its author does not. In a
    test suite, ``filterwarnings = ["error::paracore.errors.ParacoreDeprecationWarning"]`` makes it an error.
    """


class SchemeError(ConfigurationError):
    """A scheme whose table is malformed, or that cannot do what was asked."""


class ProblemError(ConfigurationError):
    """An initial state of wrong shape or dtype, or a problem that lacks something its scheme needs."""


class CheckpointError(ParacoreError, ValueError):
    """A checkpoint that does not belong to this sampler and problem, or is damaged."""


class CheckpointWriteError(ParacoreError, OSError):
    """A checkpoint that could not be written in the middle of a solve. Nothing that was accepted is lost.

    Attributes:
        result: what was accepted so far.
        state: the sampler's state, from which :func:`paracore.solve` can go on (``state=``).
    """

    def __init__(self, message: str, result: Result, state: Any) -> None:
        super().__init__(message)
        self.result = result
        self.state = state


class DenoiserError(ParacoreError, RuntimeError):
    """A network that returned a wrong shape, dtype or device."""


class EvaluatorError(ParacoreError, RuntimeError):
    """No worker, or not every rank, is left to evaluate with. Nothing that was accepted is lost.

    Attributes:
        result: what was accepted so far; ``None`` outside of a solve.
        state: the sampler's state, from which :func:`paracore.solve` can go on (``state=``); ``None`` outside of one.
    """

    def __init__(self, message: str, result: Result | None = None, state: Any = None) -> None:
        super().__init__(message)
        self.result = result
        self.state = state


class StrategyError(ParacoreError, RuntimeError):
    """A strategy that broke its contract; the message names it."""


class PluginError(ParacoreError, RuntimeError):
    """A plugin that cannot be loaded, or registers something it must not."""


class SolveError(ParacoreError, RuntimeError):
    """A solve in which at least one sample failed.

    Attributes:
        result: the :class:`~paracore.Result`, with a status for each sample.
    """

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


class SolveInterrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a solve. Nothing that was accepted is lost.

    Attributes:
        result: what was accepted so far.
        state: the sampler's state, from which :func:`paracore.solve` can go on (``state=``).
    """

    def __init__(self, message: str, result: Result, state: Any) -> None:
        super().__init__(message)
        self.result = result
        self.state = state


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: near matches, or all names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    return f"known: {', '.join(names)}" if names else "nothing of this kind is registered"
