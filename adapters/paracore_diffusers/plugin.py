"""Registers the commands ``paracore diffusers ...``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paracore import hookimpl

if TYPE_CHECKING:
    import typer

__all__ = ["paracore_commands"]


@hookimpl
def paracore_commands() -> Mapping[str, typer.Typer]:
    """``paracore diffusers``."""
    from paracore_diffusers.commands import app

    return {"diffusers": app}
