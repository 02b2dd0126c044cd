"""The presets and parts, and their registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paracore
from paracore.errors import ConfigurationError
from paracore.parts import LookAhead
from paracore_anderson.citations import ANDERSON, PARATAA
from paracore_anderson.part import Anderson
from paracore_anderson.stopping import FirstOrderResidual

__all__ = [
    "anderson",
    "paracore_citations",
    "paracore_jacobians",
    "paracore_samplers",
    "paracore_stopping_rules",
    "taa",
]


def anderson(
    window: int = 8,
    tolerance: float = 0.01,
    memory: int = 2,
    regularisation: float = 1e-3,
    order: int = 0,
    guess: str = "damped-linear(trend=0.3)",
) -> paracore.Engine:
    """Anderson acceleration of the fixed-point iteration, one least-squares problem per sample for the whole window.

    The method that ParaTAA makes triangular; its coefficients mix rows that are far from done into rows that nearly
    are. Tolerance: relative root-mean-square error against the sequential sample.

    References: Anderson 1965 (J. ACM 12:547); as a parallel sampler Tang et al. 2024, arXiv:2402.09970, Section 3.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
        memory: iterates used, the newest included; 1 is the plain fixed-point iteration.
        regularisation: added to the diagonal of the Gram matrix (absolute).
        order: look-ahead of the residual, at most the window; 0 is the window.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        residual=_residual("anderson", order, window),
        jacobian=Anderson(memory, regularisation, "window"),
        initializer=guess,
        name="anderson",
    )


def taa(
    window: int = 8,
    tolerance: float = 1e-3,
    order: int = 0,
    memory: int = 2,
    regularisation: float = 1e-3,
    history: str = "newest",
    g: str = "step",
    floor: float = 1.0,
    guess: str = "copy",
) -> paracore.Engine:
    """ParaTAA: fixed-point iteration on residuals of a chosen order with triangular Anderson acceleration.

    ``x <- x - R - (dX_n - dR_n) gamma_n`` with ``gamma_n = (B_n + regularisation)^-1 d_n``, ``B_n`` and ``d_n`` summed
    over the row and those before it in the window; the earliest row is not accelerated. Tolerance: root mean square
    of the one-step residual, in units of ``max(floor, g)``.

    References: Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Definition 2.1, Section 3 and Algorithm 1.

    Args:
        window: evaluations per round and sample (the paper: as many as there are steps).
        tolerance: of the one-step residual; 0 gives the sequential answer itself.
        order: look-ahead of the residual, at most the window; 0 is the window. (The authors: 100 or 20 of 100.)
        memory: iterates used, the newest included (recommended: 2 to 5); 1 is the plain fixed-point iteration.
        regularisation: added to the diagonal of each Gram matrix (absolute).
        history: "newest", or "oldest" as in the authors' code.
        g: scale of the stopping rule: "step" (the authors' code) or "diffusion" (the paper).
        floor: smallest scale of the stopping rule; 0 is the paper's rule.
        guess: how rows enter: copy (the authors' code), hold, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        residual=_residual("taa", order, window),
        jacobian=Anderson(memory, regularisation, "triangular", history),
        stopping=FirstOrderResidual(g, floor),
        initializer=guess,
        name="taa",
    )


def _residual(name: str, order: int, window: int) -> LookAhead:
    if isinstance(order, int) and isinstance(window, int) and order > window >= 1:
        raise ConfigurationError(
            f"{name}: order is {order}, the window {window}; a residual reaches back over the window at most: use an "
            f"order of 1 to {window}, or 0 for all of it"
        )
    return LookAhead(order)


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The presets of this package."""
    return {"anderson": anderson, "taa": taa}


@paracore.hookimpl
def paracore_jacobians() -> Mapping[str, Callable[..., Any]]:
    """Anderson acceleration, triangular or not."""
    return {"anderson": Anderson}


@paracore.hookimpl
def paracore_stopping_rules() -> Mapping[str, Callable[..., Any]]:
    """ParaTAA's rule."""
    return {"first-order-residual": FirstOrderResidual}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX by registered name."""
    return {"anderson": f"{ANDERSON}\n\n{PARATAA}", "taa": PARATAA, "first-order-residual": PARATAA}
