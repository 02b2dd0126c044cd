"""The presets that stand on block secants."""

from __future__ import annotations

import paracore

__all__ = ["front", "secant"]


def secant(
    window: int = 8,
    tolerance: float = 0.01,
    memory: int = 2,
    form: str = "network",
    guess: str = "damped-linear(trend=0.3)",
) -> paracore.Engine:
    """Picard's window with each node's own secants: outputs move with their states as their past evaluations did.

    It costs no evaluation; nodes that were evaluated once respond by the nearest node's before them.
    Tolerance: relative root-mean-square error against the sequential sample.

    References: Fang and Saad 2009 (two classes of multisecant methods), doi:10.1002/nla.617; per node: ours.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself.
        memory: differences per node.
        form: the quantity that is held: network, drift, noise, data, velocity, v-prediction, score.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        output_form=form,
        initializer=guess,
        jacobian=f"secant(memory={memory})",
        name="secant",
    )


def front(
    window: int = 8,
    tolerance: float = 0.01,
    memory: int = 2,
    stride: int = 0,
    trend: float = 0.5,
    form: str = "auto",
    guess: str = "damped-linear(trend=0.5)",
) -> paracore.Engine:
    """The strided secant front: every k-th node from the front is evaluated, the others interpolated, secants between.

    Small windows reach further than they evaluate; from windows of 0.08 N on (0.04 N in stochastic
    schemes) every row is evaluated.
    Interpolation leaves an error that the stopping rule does not see. Tolerance: relative root-mean-square error
    against the sequential sample.

    References: this library.

    Args:
        window: evaluations per round and sample.
        tolerance: error target; 0 gives the sequential answer itself, and every row is evaluated.
        memory: differences per node.
        stride: k; 0 chooses it by window, N and scheme (half as large where noise is drawn).
        trend: how much of the last slope is kept beyond the last evaluated node.
        form: the quantity that is held: auto (by scheme), network, drift, noise, data, velocity, v-prediction, score.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(
        window=window,
        tolerance=tolerance,
        output_form=form,
        initializer=guess,
        jacobian=f"secant(memory={memory})",
        selection=f"every-kth(stride={stride}, trend={trend})",
        name="front",
    )
