"""Registers ``digits``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paracore import Model, hookimpl
from paracore_digits.model import DigitsModel

__all__ = ["paracore_models"]


@hookimpl
def paracore_models() -> Mapping[str, Callable[..., Model]]:
    """The digits network."""
    return {"digits": DigitsModel}
