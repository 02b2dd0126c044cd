"""Why the residual of spectral deferred correction is not among the parts: it belongs to another sampler."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

import paracore
from paracore.schemes import RowWeights
from paracore.testing import CheckFailure, check_residual_is_zero_at_the_solution
from paracore.window import Window


@attrs.frozen
class Trapezoids(paracore.ResidualConstruction):
    """The scheme's own one-step residual, with half of each output's weight on the row before (order 2, not 1).

    It has no options.
    """

    reference = "Dutt, Greengard, Rokhlin 2000, doi:10.1023/A:1022338906936, Section 3"

    def weights(self, window: Window, state: Any) -> RowWeights:
        plain = paracore.schemes.look_ahead_weights(window.scheme, window.nodes, np.ones_like(window.nodes))
        f, depth = plain.f.copy(), window.scheme.memory
        for r in range(1, window.rows):
            f[r, depth + r] *= 0.5
            f[r, depth + r - 1] += f[r, depth + r]
        return RowWeights(plain.x, f, plain.c)


def test_another_quadrature_has_another_fixed_point():
    with pytest.raises(CheckFailure, match="at the solution row"):
        check_residual_is_zero_at_the_solution(Trapezoids)
