"""The presets."""

from __future__ import annotations

import paracore
from paracore_example.collocation import Collocation
from paracore_example.guess import VariableOrder
from paracore_example.parareal import TwoStepParareal

__all__ = ["smooth", "two_step_parareal"]


def smooth(
    window: int = 8,
    tolerance: float = 0.01,
    stride: int = 0,
    degree: int = 3,
    highest: int = 3,
    form: str = "auto",
    correction: str = "secant(memory=2)",
) -> paracore.Engine:
    """For networks that are smooth in time: polynomials between the evaluated rows, and beyond them.

    The strided front of paracore with collocation for its lines, and guesses of variable order. Tolerance: relative
    root-mean-square error against the sequential sample.

    References: Dutt, Greengard, Rokhlin 2000 (spectral deferred correction), Section 3; the form of it is ours.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself, and every row is evaluated.
        stride: every which row is evaluated; 0 chooses it by window, N and scheme.
        degree: of the polynomials between the evaluated rows.
        highest: highest order of the guesses.
        form: the quantity that is held: auto (by scheme), network, drift, noise, data, velocity, v-prediction, score.
        correction: the Jacobian approximation: secant, none, or another.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        output_form=form,
        initializer=VariableOrder(highest=highest),
        jacobian=correction,
        selection=Collocation(stride=stride, degree=degree),
        name="smooth",
    )


def two_step_parareal(
    blocks: int | None = None,
    order: int = 2,
    window: int | None = None,
    tolerance: float = 0.02,
    norm: str = "relative",
) -> TwoStepParareal:
    """Parareal on blocks of the trajectory, pipelined; the coarse solver extrapolates the outputs of two blocks.

    Tolerance: change of the sample from one iteration to the next, by default relative to its root mean square. It is
    no bound on the error; the error is usually several times smaller, since the change is that of the iterate before.

    References: Lions, Maday, Turinici 2001 (parareal); Selvam, Merchant, Ermon 2024 (SRDS), arXiv:2412.08292,
    Algorithm 1; the coarse solver is ours.

    Args:
        blocks: how many, at most N / 2; None is the rounded square root of 2 N.
        order: of the coarse solver, 1 or 2.
        window: most evaluations per round and sample; None is as many as there are tasks.
        tolerance: of the change; 0 gives the sequential answer itself.
        norm: of the change: l1 (mean absolute), rms, max, relative, l2-over-size.
    """
    return TwoStepParareal(blocks=blocks, order=order, window=window, tolerance=tolerance, norm=norm)
