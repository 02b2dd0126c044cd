"""The presets, and their registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paracore
from paracore.parts import ErrorTarget
from paracore_picard.citations import CITATIONS

__all__ = ["jacobi", "paracore_citations", "paracore_samplers", "paradigms", "picard"]

_NARROW = ErrorTarget(row=16.6, total=5.0)
"""Shares at window 2: one row beside the exact one per round leaves most of the target unused under the plain rule."""


def picard(
    window: int = 8,
    tolerance: float = 0.01,
    form: str = "network",
    guess: str = "damped-linear(trend=0.3)",
) -> paracore.Engine:
    """Picard iteration on the sliding window: outputs are held while states move, nothing else is modelled.

    ``x^{k+1}_{n+1} = x_front + sum_{j <= n} (step increments at x^k_j)``, with the output held in a form of your
    choice. Tolerance: relative root-mean-square error against the sequential sample.

    References: Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Eq. 8; the held outputs and the guess are ours.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
        form: the quantity that is held: network, drift, noise, data, velocity, v-prediction, score.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        output_form=form,
        initializer=guess,
        stopping=_NARROW if window < 3 else ErrorTarget(),
        name="picard",
    )


def paradigms(window: int = 8, tolerance: float = 0.1) -> paracore.Engine:
    """ParaDIGMS as published: drift-form Picard, entering rows copied, its own noise-scaled stopping rule.

    The first failing state is accepted too: it was just recomputed from converged ones. Tolerance: root-mean-square
    change of a state in units of the step's noise (the authors' scripts use 0.1; 0.01 to 0.5 in later comparisons).

    References: Shih et al. 2023, arXiv:2305.16317, Algorithm 1.

    Args:
        window: evaluations per round and sample.
        tolerance: of the noise-scaled change; 0 gives the sequential answer itself.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        output_form="drift",
        initializer="copy",
        stopping="noise-scaled-change",
        name="paradigms",
    )


def jacobi(window: int = 8, tolerance: float = 0.01) -> paracore.Engine:
    """Jacobi iteration: every state moves to one step from its neighbour's last iterate, ``J = I`` and look-ahead 1.

    Information travels one node a round, so it saves rounds only through acceptance; the yardstick for the others.

    References: Song et al. 2021 (feedforward computation as nonlinear equations), arXiv:2002.03629, Section 3.2.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        residual="look-ahead(width=1)",
        jacobian="identity",
        initializer="copy",
        name="jacobi",
    )


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The presets of this package."""
    return {"picard": picard, "paradigms": paradigms, "jacobi": jacobi}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX of the presets' papers."""
    return CITATIONS
