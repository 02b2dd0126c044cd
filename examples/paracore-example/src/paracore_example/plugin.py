"""The hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paracore
from paracore_example.citations import CITATIONS
from paracore_example.collocation import Collocation
from paracore_example.guess import VariableOrder
from paracore_example.presets import smooth, two_step_parareal

__all__ = ["paracore_api", "paracore_citations", "paracore_initializers", "paracore_samplers", "paracore_selections"]

paracore_api = 1
"""The version of the hooks that this plugin was made for."""


@paracore.hookimpl
def paracore_initializers() -> Mapping[str, Callable[..., Any]]:
    """Initial guesses."""
    return {"variable-order": VariableOrder}


@paracore.hookimpl
def paracore_selections() -> Mapping[str, Callable[..., Any]]:
    """Selections of rows."""
    return {"collocation": Collocation}


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The presets."""
    return {"smooth": smooth, "two-step-parareal": two_step_parareal}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX of the sources."""
    return CITATIONS
