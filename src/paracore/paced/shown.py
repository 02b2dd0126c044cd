"""What is shown on the way: previews and the trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from paracore.paced.state import PacedState
from paracore.paced.tracks import Track
from paracore.paced.turn import Move
from paracore.result import RoundTrace
from paracore.window import Bools, where_rows

__all__ = ["data_prediction", "round_trace"]


def data_prediction(state: PacedState, move: Move, running: Bools) -> torch.Tensor | None:
    """The data predicted by the exact chain until there is a complete sample; ``None`` if levels are unknown."""
    scheme = state.problem.scheme
    if scheme.levels is None or scheme.prediction is None:
        return None
    u, v = scheme.levels.conversion(scheme.prediction, "data", slice(0, scheme.steps))
    node = move.before.node
    shown = move.before.states[0] * float(u[node]) + move.output * float(v[node])
    return shown if state.newest is None else where_rows(running & ~state.seen, shown, state.newest)


def round_trace(state: PacedState, new: PacedState, chosen: Sequence[Track], mask: Bools) -> RoundTrace:
    """Which nodes were evaluated, counted from the front; residuals and gaps are not known to these methods.

    A track that a narrow window let fall behind the front is no row of the record.
    """
    at = state.tracks[0].node
    evaluated = np.zeros((state.problem.scheme.steps - at, len(state.front)), dtype=np.bool_)
    for track, asked in zip(chosen, mask, strict=True):
        if track.node >= at:
            evaluated[track.node - at] |= asked
    unknown = np.full(evaluated.shape, np.nan)
    return RoundTrace(
        front=state.front,
        accepted=new.front - state.front,
        evaluated=evaluated,
        residual=unknown,
        gap=unknown,
        look_ahead=None,
        damping=np.zeros(evaluated.shape),
    )
