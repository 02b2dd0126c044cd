"""Validators for the options of strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from paracore.errors import ConfigurationError

__all__ = ["integer", "number", "one_of"]

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def integer(low: int) -> Validator:
    """An ``int`` of at least ``low``."""

    def check(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ConfigurationError(
                f"{type(owner).__name__}: {attribute.name} is {value!r}; an integer of at least {low} is needed"
            )

    return check


def number(low: float, high: float = float("inf")) -> Validator:
    """A finite number in ``[low, high]``."""

    def check(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            bound = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
            raise ConfigurationError(
                f"{type(owner).__name__}: {attribute.name} is {value!r}; a number {bound} is needed"
            )

    return check


def one_of(*allowed: str) -> Validator:
    """One of a few words."""

    def check(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in allowed:
            raise ConfigurationError(
                f"{type(owner).__name__}: {attribute.name} is {value!r}; allowed: {', '.join(allowed)}"
            )

    return check
