"""The presets, and their registration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

import paracore
from paracore.errors import ConfigurationError
from paracore.parts import ErrorTarget
from paracore_ropa import citations
from paracore_ropa.banded import Banded, BandedLML
from paracore_ropa.damping import GainRatio, StepRatio
from paracore_ropa.gmres import GMRES
from paracore_ropa.guess import NoiseGuess
from paracore_ropa.l_curve import LCurve
from paracore_ropa.lml import LML
from paracore_ropa.look_ahead import AdaptiveLookAhead
from paracore_ropa.sparsity import ResidualSparsity

__all__ = ["ropa", "ropa_paper"]


_SHARES = (
    (4, ErrorTarget(row=13.5, total=4.5, coherence=0.0, growth=0.6, early=0.6, clean=0.5, directed=0.6), 0.1),
    (8, ErrorTarget(row=12.0, total=4.8, coherence=0.0, growth=0.6, tilt=1.3, clean=0.5, directed=0.5), 0.25),
    (
        16,
        ErrorTarget(row=22.5, total=9.0, coherence=0.0, trust=2.0, growth=1, tilt=0.8, clean=0.5, directed=0.45),
        0.1,
    ),
    (
        math.inf,
        ErrorTarget(row=19, total=6.8, coherence=0.5, trust=2.0, growth=0.75, tilt=1.4, clean=0.5, directed=0.9),
        0.2,
    ),
)
"""Shares of the target by window (the first bound above it), chosen on digits, N = 50, guidance 4 (docs); and how they
grow for targets below 1 %, by that power of ``0.01 / tolerance``, which counts as at most 5: obtained errors shrink
faster there than the error target assumes. Below window 4 errors of interpolated rows lead, which shares do not see."""
_TIGHT, _TIGHTEST = 0.01, 5.0


def _shares(window: int, tolerance: float) -> ErrorTarget:
    shares, power = next((rule, power) for bound, rule, power in _SHARES if window < bound)
    if not 0 < tolerance < _TIGHT:
        return shares
    more = min(_TIGHT / tolerance, _TIGHTEST) ** power
    return attrs.evolve(shares, row=shares.row * more, total=shares.total * more)


def ropa(
    window: int = 8,
    tolerance: float = 0.01,
    form: str = "auto",
    guess: str = "damped-linear(trend=0.3)",
    correction: str = "secant(memory=2)",
    widest: int = 0,
    reach: int = 0,
    share: float = 0.0,
    alpha: float = 1.5,
    beta: float = 0.7,
) -> paracore.Engine:
    """ROPA's mechanisms in the form in which they work: computation where residuals ask for it, and no row elsewhere.

    The adaptive sparsity decides which rows are *evaluated*: residuals in time widen and narrow the spacing of the
    evaluated rows (Eq. 13 on the spacing), and interpolation covers the others. The curvature correction is each
    node's own secants instead of the paper's LML. Rows enter with the whole window as their past: the next iterate is
    the chain, whose Jacobian keeps the scheme's own couplings, so that no look-ahead is left to adapt. Damping and LML
    gained nothing wherever they were measured (docs) and are left out; they are parts, to be added by name:
    ``jacobian="banded", damping="gain-ratio", preconditioner="lml(scaling=unit)"``. The stopping rule is the error
    target with shares that fit (the plain one leaves more of the target unused). Tolerance: relative root-mean-square
    error against the sequential sample.

    References: ROPA: Robust Parallel Diffusion Sampling (under review, 2025), Section 3; the form of it is ours.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself, and every row is evaluated.
        form: the quantity that is held while states move: auto (by scheme), network, drift, noise, data, velocity,
            v-prediction, score.
        guess: how rows enter: hold, copy, linear, damped-linear, noise.
        correction: the Jacobian approximation: secant, none, or another.
        widest: largest spacing of evaluated rows; 1 evaluates all rows; 0 is 4 for windows below 0.06 N, else 2.
        reach: nodes ahead of the front that may be evaluated; 0 is 0.22 N, at most four times the window.
        share: share of the tolerance for interpolation errors; 0 goes by scheme and window.
        alpha: residuals above alpha times their budget narrow the spacing of evaluated rows.
        beta: residuals below beta times their budget widen it.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        output_form=form,
        initializer=guess,
        jacobian=correction,
        selection=ResidualSparsity(widest=widest, reach=reach, share=share, alpha=alpha, beta=beta),
        stopping=_shares(window, tolerance),
        name="ropa",
    )


def ropa_paper(
    window: int = 8,
    tolerance: float = 1e-3,
    alpha: float = 1.5,
    beta: float = 0.7,
    start: int = 1,
    largest: int = 8,
    gamma: float = 0.3,
    scaling: str = "paper",
    damping: str = "step-ratio",
    solver: str = "banded",
    guess: str = "noise",
    warmup: int = 3,
) -> paracore.Engine:
    """ROPA as its paper's text says (Algorithm 1 and Section 4.1), every constant at its printed value.

    Look-ahead residuals that widen and narrow by one (Eq. 13), the LML correction of the aligned residuals (Eq. 14 and
    15), a banded Jacobian at the next look-ahead, damping raised until ``|dx| < 0.3 |R|``, guesses of Gaussian noise,
    three warm-up rounds, the variance-normalised stopping rule. It is slow; ``ropa`` is the same mechanisms as they
    work best. Tolerance: ``tau`` of ``|R_n|^2 <= tau^2 g^2 d``.

    Where the text contradicts itself: line 8 of Algorithm 1 stops when the mean residual is below a tolerance, Section
    4.1 row by row at ``tau = 1e-3`` (taken here). Algorithm 1 damps "via trust region", Section 4.1 by the step ratio
    (taken), the listing by gain ratios (``damping="gain-ratio"``). The listing's ``gamma`` is 0.85 and its first factor
    1e-2. Section 4.3 speaks of GMRES: ``solver="gmres"``, on an evaluator with products.

    References: ROPA: Robust Parallel Diffusion Sampling (under review, 2025), Algorithm 1, Eq. 9 to 16, Section 4.1.

    Args:
        window: evaluations per round and sample.
        tolerance: tau; 0 gives the sequential answer itself.
        alpha: rows with a residual above alpha times the mean look one node further back.
        beta: rows with a residual below beta times the mean look one node less far back.
        start: look-ahead of entering rows; 0 is the whole window.
        largest: bound of the look-ahead; 0 is the whole window.
        gamma: alignment of residual and score above which the correction acts.
        scaling: of the correction: paper, norm-preserving, unit.
        damping: a damping policy: step-ratio, gain-ratio, l-curve, none.
        solver: a Jacobian approximation: banded, gmres.
        guess: how rows enter: noise, hold, copy, damped-linear.
        warmup: rounds at the start that evaluate the front alone.
    """
    if start > window:
        raise ConfigurationError(
            f"ropa-paper: start is {start} in a window of {window}; rows cannot look back further than the window: "
            "lower start, or choose 0 (the whole window)"
        )
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        residual=AdaptiveLookAhead(alpha=alpha, beta=beta, start=start, largest=largest),
        jacobian=solver,
        preconditioner=LML(gamma=gamma, scaling=scaling),
        damping=damping,
        stopping="scaled-residual(g=diffusion)",
        initializer=guess,
        warmup=warmup,
        name="ropa-paper",
    )


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The presets of this package."""
    return {"ropa": ropa, "ropa-paper": ropa_paper}


@paracore.hookimpl
def paracore_residuals() -> Mapping[str, Callable[..., Any]]:
    """The look-ahead."""
    return {"adaptive-look-ahead": AdaptiveLookAhead}


@paracore.hookimpl
def paracore_jacobians() -> Mapping[str, Callable[..., Any]]:
    """The band, with the correction in it or without, and Newton-Krylov."""
    return {"banded": Banded, "banded-lml": BandedLML, "gmres": GMRES}


@paracore.hookimpl
def paracore_preconditioners() -> Mapping[str, Callable[..., Any]]:
    """The curvature correction."""
    return {"lml": LML}


@paracore.hookimpl
def paracore_dampings() -> Mapping[str, Callable[..., Any]]:
    """The damping policies."""
    return {"gain-ratio": GainRatio, "step-ratio": StepRatio, "l-curve": LCurve}


@paracore.hookimpl
def paracore_initializers() -> Mapping[str, Callable[..., Any]]:
    """The guess."""
    return {"noise": NoiseGuess}


@paracore.hookimpl
def paracore_selections() -> Mapping[str, Callable[..., Any]]:
    """The sparsity."""
    return {"residual-sparsity": ResidualSparsity}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX by name."""
    return {
        "ropa": citations.ROPA,
        "ropa-paper": citations.ROPA + citations.LML,
        "residual-sparsity": citations.ROPA,
        "adaptive-look-ahead": citations.ROPA,
        "banded": citations.ROPA,
        "banded-lml": citations.ROPA + citations.LML,
        "gmres": citations.ROPA + citations.GMRES + citations.NEWTON_KRYLOV,
        "lml": citations.ROPA + citations.LML,
        "gain-ratio": citations.ROPA,
        "step-ratio": citations.ROPA,
        "l-curve": citations.ROPA + citations.L_CURVE,
        "noise": citations.ROPA,
    }


@paracore.hookimpl
def paracore_conformance() -> Mapping[str, paracore.Conformance]:
    """What the paper's parts are known to fail."""
    slow = "as the paper has it: a factor that only grows while the step is long against the residual saves no round"
    far = "as the paper has it: entering states are noise of unit size, whatever the noise level there"
    shrunk = "as printed: H^-1 changes the length of the step in all directions, by 1 / (lambda g^2 |s|^2)"
    return {
        "step-ratio": paracore.Conformance(expected_failures={"check_converges_on_linear": slow}),
        "noise": paracore.Conformance(
            expected_failures={"check_guesses_are_near": far, "check_guesses_follow_a_trend": far}
        ),
        "lml": paracore.Conformance(
            expected_failures={
                "check_converges_on_linear": shrunk,
                "check_stays_at_the_solution": shrunk,
            }
        ),
        "banded-lml": paracore.Conformance(
            expected_failures={"check_converges_on_linear": shrunk, "check_stays_at_the_solution": shrunk}
        ),
    }
