"""ParaTAA's stopping rule."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore.parts.options import one_of
from paracore.strategies import StoppingRule
from paracore.window import Bools, Round
from paracore_anderson.options import finite

__all__ = ["FirstOrderResidual"]


@attrs.frozen
class FirstOrderResidual(StoppingRule):
    """A row is done when the root mean square of its one-step residual is at most ``tolerance * max(floor, g)``.

    Whatever the order of the residual that is solved. With ``floor = 0`` this is the paper's
    ``|r|^2 <= tolerance^2 g^2 d``; the authors' code has ``max(tol1, tol2 * g)``, ``tol1 = tol2``: ``floor = 1``. As
    in that code the first failing state, just recomputed from converged ones, is accepted too.

    Attributes:
        g: ``"step"`` (the standard deviation of one ancestral step: the code) or ``"diffusion"`` (the SDE's
            coefficient: the paper).
        floor: smallest scale, in state units.
        successor: whether the first failing state is accepted.
    """

    g: str = attrs.field(default="step", validator=one_of("step", "diffusion"))
    floor: float = attrs.field(default=1.0, validator=finite)
    successor: bool = True

    needs = frozenset({"levels"})
    unit = "root-mean-square one-step residual, in state units or units of g(t)"
    reference = "Tang et al. 2024 (ParaTAA), arXiv:2402.09970, Section 2 and Algorithm 1"

    def converged(self, round: Round, state: Any) -> Bools:
        """The rows before the first that fails, and, with ``successor``, that one."""
        levels = round.window.scheme.levels
        assert levels is not None
        scale = levels.g if self.g == "diffusion" else np.sqrt(levels.posterior_variance)
        node = np.minimum(round.window.nodes, round.window.scheme.steps - 1)
        passes = round.one_step_rms <= round.tolerance * np.maximum(self.floor, scale[node])
        if self.successor:
            passes = np.concatenate([np.ones((1, passes.shape[1]), dtype=np.bool_), passes[:-1]])
        return np.logical_and.accumulate(passes, axis=0)
