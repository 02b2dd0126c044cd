"""Validators that the core does not have."""

from __future__ import annotations

import math
from typing import Any

import attrs

from paracore.errors import ConfigurationError

__all__ = ["finite", "positive"]


def positive(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(
            f"{type(owner).__name__}: {attribute.name} is {value!r}; a finite number above 0 is needed"
        )


def finite(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigurationError(
            f"{type(owner).__name__}: {attribute.name} is {value!r}; a finite number of at least 0 is needed"
        )
