"""Look-ahead weights: every row of a window as a combination of its states, outputs and noise."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from paracore.schemes.table import Scheme

__all__ = ["RowWeights", "look_ahead_weights"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@attrs.frozen(eq=False)
class RowWeights:
    """``prediction of row r = sum_m x[r,m] X_m + sum_m f[r,m] F_m + sum_m c[r,m] C_m``, per sample.

    Columns ``m`` count from the oldest history row: column ``H`` is the front's state and output.

    Attributes:
        x: ``(P, H + P, B)`` float64 weights of states.
        f: ``(P, H + P, B)`` float64 weights of the network's own outputs.
        c: ``(P, P, B)`` float64 weights of the nodes' (already weighted) noise.
    """

    x: Array
    f: Array
    c: Array


def look_ahead_weights(scheme: Scheme, nodes: Ints, width: Ints) -> RowWeights:
    """Weights of the look-ahead residuals, by substituting states from the newest to the oldest.

    Row ``r`` predicts state ``r + 1`` (row 0's anchor is state 0). A state is replaced by its own step as long as it
    lies after the front and less than ``width`` nodes before state ``r + 1``; the others stay (ParaTAA, Tang et al.
    2024, Def. 2.1, for tables with any memory). How far back a state lies does not depend on the path to it, so one
    pass serves all rows. Rows beyond N have zero weights.

    Args:
        scheme: the table.
        nodes: ``(P, B)`` node of each window row; row 0 is the front.
        width: ``(P, B)`` look-ahead of each row, at least 1; 1 is the one-step residual, P is Picard's.
    """
    rows, batch = nodes.shape
    history = scheme.memory
    node = np.minimum(nodes, scheme.steps - 1)
    valid = nodes < scheme.steps
    kept = np.maximum(np.arange(1, rows + 1)[:, None] - width, 0)  # the newest state that row r leaves in place
    x = np.zeros((rows, history + rows + 1, batch))
    f = np.zeros((rows, history + rows, batch))
    c = np.zeros((rows, rows, batch))
    x[np.arange(rows), history + 1 + np.arange(rows)] = valid
    for m in range(rows, 0, -1):  # state m is one step from state m - 1, which is column history + m - 1
        share = np.where(kept[m - 1 :] < m, x[m - 1 :, history + m], 0.0)
        x[m - 1 :, history + m] -= share
        for table, out in ((scheme.a, x), (scheme.b, f)):
            for lag in range(min(table.shape[1], history + m)):
                out[m - 1 :, history + m - 1 - lag] += share * table[node[m - 1], lag]
        c[m - 1 :, m - 1] += share
    return RowWeights(x[:, :-1], f, c)
