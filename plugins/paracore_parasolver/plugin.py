"""The preset and parts, and their registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paracore
from paracore.errors import ConfigurationError
from paracore_parasolver.citations import PARASOLVER
from paracore_parasolver.fine import FineSteps
from paracore_parasolver.frozen import FrozenData
from paracore_parasolver.sampler import ParaSolver, composition
from paracore_parasolver.selection import Subintervals
from paracore_parasolver.stopping import SubintervalChange

__all__ = [
    "paracore_citations",
    "paracore_initializers",
    "paracore_jacobians",
    "paracore_samplers",
    "paracore_selections",
    "paracore_stopping_rules",
    "parasolver",
]


def parasolver(
    window: int = 8, tolerance: float = 0.1, subintervals: int = 0, preconditioning: int = 1
) -> paracore.Sampler:
    """ParaSolver: ParaDIGMS' iteration over subintervals of sequential steps, from better initial points.

    Some subintervals are solved first; from there all points are extrapolated with the data prediction frozen, and so
    are points that enter the window. Tolerance: root-mean-square change of a point in units of the noise (ParaDIGMS).

    References: Lu, Zhu and Hou 2025 (ParaSolver), ICLR 2025, Algorithm 1; the update is Shih et al. 2023,
    arXiv:2305.16317, Eq. 8.

    Args:
        window: subintervals in the window, so evaluations per round and sample.
        tolerance: of the noise-scaled change; 0 gives the sequential answer itself.
        subintervals: how many; each of its steps is a round for all of them at once. 0: one step each.
        preconditioning: subintervals at the start that are solved alone (the paper: 1, for DDPM 5).
    """
    limits = (("subintervals", subintervals), ("preconditioning", preconditioning))
    for name, value in limits:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigurationError(f"parasolver: {name} is {value!r}; an integer of at least 0 is needed")
    if 0 < subintervals < preconditioning:
        raise ConfigurationError(
            f"parasolver: preconditioning is {preconditioning}, but there are {subintervals} subintervals; use at "
            f"most {subintervals}"
        )
    made = composition(window, tolerance, 1, 0, preconditioning)  # refuses a bad window or tolerance, too
    return ParaSolver(window, tolerance, subintervals, preconditioning) if subintervals else paracore.Engine(made)


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The preset of this package."""
    return {"parasolver": parasolver}


@paracore.hookimpl
def paracore_initializers() -> Mapping[str, Callable[..., Any]]:
    """Initial points with a frozen data prediction."""
    return {"frozen-data": FrozenData}


@paracore.hookimpl
def paracore_selections() -> Mapping[str, Callable[..., Any]]:
    """One row of each subinterval."""
    return {"subintervals": Subintervals}


@paracore.hookimpl
def paracore_jacobians() -> Mapping[str, Callable[..., Any]]:
    """Sequential steps inside subintervals."""
    return {"fine-steps": FineSteps}


@paracore.hookimpl
def paracore_stopping_rules() -> Mapping[str, Callable[..., Any]]:
    """ParaDIGMS' rule on the ends of subintervals."""
    return {"subinterval-change": SubintervalChange}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX by registered name."""
    names = ("parasolver", "frozen-data", "subintervals", "fine-steps", "subinterval-change")
    return dict.fromkeys(names, PARASOLVER)


@paracore.hookimpl
def paracore_conformance() -> Mapping[str, paracore.Conformance]:
    """What the published rule is known to fail."""
    why = "as published: the first subinterval that still changes is accepted too, and nothing bounds the last one"
    return {"subinterval-change": paracore.Conformance(expected_failures={"check_tolerance_is_kept": why})}
