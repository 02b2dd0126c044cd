"""The presets and parts, and their registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paracore
from paracore_newton.citations import CITATIONS
from paracore_newton.damped import DiagonalFilter, Kalman
from paracore_newton.deer import deer, elk, quasi_deer, quasi_elk
from paracore_newton.diagonal import Diagonal
from paracore_newton.differences import differenced
from paracore_newton.front import front, secant
from paracore_newton.secant import Secant

__all__ = [
    "paracore_citations",
    "paracore_dampings",
    "paracore_evaluators",
    "paracore_jacobians",
    "paracore_samplers",
]


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The presets of this package."""
    return {
        "deer": deer,
        "quasi-deer": quasi_deer,
        "elk": elk,
        "quasi-elk": quasi_elk,
        "secant": secant,
        "front": front,
    }


@paracore.hookimpl
def paracore_jacobians() -> Mapping[str, Callable[..., Any]]:
    """Jacobian approximations."""
    return {"diagonal": Diagonal, "diagonal-filter": DiagonalFilter, "secant": Secant}


@paracore.hookimpl
def paracore_dampings() -> Mapping[str, Callable[..., Any]]:
    """Damping policies."""
    return {"kalman": Kalman}


@paracore.hookimpl
def paracore_evaluators() -> Mapping[str, Callable[..., Any]]:
    """Evaluators."""
    return {"finite-differences": differenced}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX of the sources."""
    return CITATIONS
