"""The presets ``deer``, ``quasi-deer``, ``elk`` and ``quasi-elk``."""

from __future__ import annotations

import paracore
from paracore_newton.damped import BlocksFilter, DiagonalFilter, Kalman
from paracore_newton.diagonal import Diagonal
from paracore_newton.exact import Blocks, BlockSampler

__all__ = ["deer", "elk", "quasi_deer", "quasi_elk"]

GUESS = "damped-linear(trend=0.3)"


def deer(window: int = 8, tolerance: float = 0.01, guess: str = GUESS, limit: int = 16) -> BlockSampler:
    """DEER: Newton's method with exact Jacobian blocks; for samples of few numbers only.

    ``x^{k+1}_{n+1} = step_n(x^k_n) + (d step_n / d x)(x^{k+1}_n - x^k_n)``, by forward substitution. A node of the
    window costs ``d`` products (``d`` numbers in a sample), all asked in the round's one request:
    ``1 + (window - 1) d`` evaluations a round. The evaluator must answer tangents.

    References: Lim et al. 2024 (DEER), arXiv:2309.12252, Section 3.

    Args:
        window: nodes per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
        guess: how rows enter: hold, copy, linear, damped-linear.
        limit: largest sample, in numbers, that is taken.
    """
    composition = paracore.compose(
        window=window,
        tolerance=tolerance,
        jacobian=Blocks(),
        initializer=guess,
        name="deer",
    )
    return BlockSampler(composition, limit)


def elk(
    window: int = 8, tolerance: float = 0.01, variance: float = 1e8, guess: str = GUESS, limit: int = 16
) -> BlockSampler:
    """ELK: DEER with Levenberg-Marquardt damping as a Kalman filter; for samples of few numbers only.

    The last iterate is measured with noise of variance ``sigma^2 = 1 / lambda``, the linearised step predicts with
    noise of variance 1, and the filter's means are the next iterate. What is accepted is decided without damping.

    References: Gonzalez et al. 2024 (ELK), arXiv:2407.19115, Section 4.2.

    Args:
        window: nodes per round and sample; each costs ``d`` products.
        tolerance: error target; 0 gives the sequential answer itself.
        variance: ``sigma^2``; the larger, the closer to DEER.
        guess: how rows enter: hold, copy, linear, damped-linear.
        limit: largest sample, in numbers, that is taken.
    """
    composition = paracore.compose(
        window=window,
        tolerance=tolerance,
        jacobian=BlocksFilter(),
        damping=Kalman(variance),
        initializer=guess,
        name="elk",
    )
    return BlockSampler(composition, limit)


def quasi_deer(
    window: int = 8, tolerance: float = 0.01, seed: int = 0, clip: float | None = None, guess: str = GUESS
) -> paracore.Engine:
    """Quasi-DEER: DEER with the Jacobian's diagonal, estimated from one random-sign product per node.

    ``g = z * (df/dx z)``, Hutchinson's estimate, rides along in the round's own request. The evaluator must answer
    tangents.

    References: Gonzalez et al. 2024 (quasi-DEER), arXiv:2407.19115, Section 4.1; the estimator as in the authors' code.

    Args:
        window: evaluations per round and sample, each with one product.
        tolerance: error target; 0 gives the sequential answer itself.
        seed: of the signs, which are the same in all rounds and for all samples.
        clip: keeps the diagonal of the step's Jacobian in [-clip, clip]; None: as estimated.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        jacobian=Diagonal(seed, clip),
        initializer=guess,
        name="quasi-deer",
    )


def quasi_elk(
    window: int = 8,
    tolerance: float = 0.01,
    variance: float = 1e8,
    seed: int = 0,
    clip: float | None = None,
    guess: str = GUESS,
) -> paracore.Engine:
    """Quasi-ELK: quasi-DEER with Levenberg-Marquardt damping as a scalar Kalman filter per entry.

    ``K = P / (P + sigma^2)`` pulls each entry back to the last iterate; ``P`` grows along the window with the estimated
    diagonal. What is accepted is decided without damping.

    References: Gonzalez et al. 2024 (quasi-ELK), arXiv:2407.19115, Section 4.2.

    Args:
        window: evaluations per round and sample, each with one product.
        tolerance: error target; 0 gives the sequential answer itself.
        variance: ``sigma^2 = 1 / lambda``; the larger, the closer to quasi-DEER.
        seed: of the signs, which are the same in all rounds and for all samples.
        clip: keeps the diagonal of the step's Jacobian in [-clip, clip]; None: as estimated.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        jacobian=DiagonalFilter(seed, clip),
        damping=Kalman(variance),
        initializer=guess,
        name="quasi-elk",
    )
