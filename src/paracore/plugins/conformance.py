"""What the conformance kit must know of a registered name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from paracore.errors import ConfigurationError
from paracore.problem import Problem

__all__ = ["Conformance", "Example"]

Example = Mapping[str, Any] | Callable[[Problem], Any]
"""Options of the factory, or a function of the problem at hand that returns the finished part."""


def _examples(given: Any) -> tuple[Example, ...]:
    if isinstance(given, (Mapping, str)) or callable(given):
        raise ConfigurationError(f"examples is {given!r}; a tuple of examples is needed, like ({{'memory': 2}},)")
    found = tuple(given)
    for example in found:
        if not isinstance(example, Mapping) and not callable(example):
            raise ConfigurationError(
                f"the example {example!r} is neither a dict of options nor a function of the problem"
            )
    if not found:
        raise ConfigurationError("examples is empty; a name without an example is not checked: write ({},)")
    return found


def _reasons(given: Any) -> dict[str, str]:
    found = dict(given)
    for check, reason in found.items():
        if not isinstance(check, str) or not isinstance(reason, str) or not reason.strip():
            raise ConfigurationError(f"expected failure {check!r} has the reason {reason!r}; a sentence is needed")
    return found


@attrs.frozen
class Conformance:
    """How the conformance kit builds what a plugin registered, and which checks it is known to fail.

    A plugin returns one for each name that the kit could not build without options, or that breaks a contract by
    intention (hook ``paracore_conformance``); all other names are built without options and must pass everything.

    Attributes:
        examples: each is checked: a dict of options of the factory; or, for a part that depends on the problem (as a
            guess from an earlier trajectory does), a function of a :class:`~paracore.Problem` that returns the part.
        expected_failures: names of checks, each with the reason. The kit is strict: a check that is expected to fail
            and passes is an error too.

    Raises:
        ConfigurationError: if there is no example, one is of another type, or a reason is empty.
    """

    examples: tuple[Example, ...] = attrs.field(default=({},), converter=_examples)
    expected_failures: Mapping[str, str] = attrs.field(factory=dict, converter=_reasons)
