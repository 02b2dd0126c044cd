"""Points extrapolated with the data prediction frozen: ParaSolver's initial guesses."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore import Problem
from paracore.schemes import Scheme
from paracore.slide import pick
from paracore.strategies import Initializer
from paracore.window import Bools, Round, Window, per_sample, where_rows

__all__ = ["FrozenData", "frozen_outputs"]

Ints = npt.NDArray[np.int64]


def convert(
    scheme: Scheme, source: str, target: str, nodes: Ints, states: torch.Tensor, given: torch.Tensor
) -> torch.Tensor:
    """A quantity in another form at one node per sample: ``(B, *event)``; nodes beyond N - 1 count as N - 1."""
    assert scheme.levels is not None
    u, v = scheme.levels.conversion(source, target, slice(0, scheme.steps))
    at = np.minimum(nodes, scheme.steps - 1)
    return (states * per_sample(u[at], states) + given * per_sample(v[at], given)).to(states.dtype)


def check(scheme: Scheme) -> None:
    """Refuse schemes whose outputs and data predictions do not determine each other.

    Raises:
        SchemeError: naming the forms and the node.
    """
    assert scheme.levels is not None
    assert scheme.prediction is not None
    for source, target in ((scheme.prediction, "data"), ("data", scheme.prediction)):
        scheme.levels.conversion(source, target, slice(0, scheme.steps))


def frozen_outputs(round: Round, rows: Bools) -> list[torch.Tensor]:
    """P outputs with which the chain carries the newest data prediction on over rows that were never evaluated.

    The chain corrects an output for its state's distance from the anchor, in the composition's form; what is
    returned allows for that, so that the chain's own states are those of the frozen prediction.

    Args:
        round: before its chain was made.
        rows: ``(P, B)`` rows to fill in.
    """
    window, out = round.window, list(round.outputs)
    scheme = window.scheme
    assert scheme.prediction is not None
    states, used = [window.state_rows[0]], list[torch.Tensor]()
    data: torch.Tensor | None = None
    for r in range(window.rows):
        nodes, here = window.nodes[r], states[r]
        gain = per_sample(window.gain[0][np.minimum(nodes, scheme.steps - 1)], here)
        anchor = where_rows(rows[r], window.state_rows[r], round.anchors[r])
        correction = (here - anchor) * gain
        if data is not None and rows[r].any():
            frozen = convert(scheme, "data", scheme.prediction, nodes, here, data)
            out[r] = where_rows(rows[r], (frozen - correction).to(frozen.dtype), out[r])
        seen = convert(scheme, scheme.prediction, "data", nodes, anchor, out[r])
        data = seen if data is None else where_rows(rows[r], data, seen)
        used.append((out[r] + correction).to(out[r].dtype))
        states.append(window.step(r, window.history(r, states, window.past_x), window.history(r, used, window.past_f)))
    return out


@attrs.frozen
class FrozenData(Initializer):
    """Entering states: the newest data prediction, held while the scheme carries the newest known state on.

    Before any output is known the data prediction is taken as zero.
    """

    needs = frozenset({"score"})
    reference = "Lu et al. 2025 (ParaSolver), ICLR 2025, Section 4: initial points from a frozen prediction"

    def start(self, problem: Problem, rows: int) -> None:
        """Check that data predictions and outputs determine each other."""
        check(problem.scheme)

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep with the newest prediction of each sample."""
        scheme, out = window.scheme, list(window.state_rows)
        assert scheme.prediction is not None
        data = torch.zeros_like(out[0]) if last is None else _newest(last)
        for r in range(max(int(np.argmax(rows.any(axis=1))) - 1, 0), window.rows):
            if not rows[r + 1].any():
                continue
            past = range(r, max(r - scheme.memory - 1, -1), -1)
            held = [convert(scheme, "data", scheme.prediction, window.nodes[i], out[i], data) for i in past]
            known = [*held, *window.past_f][: scheme.memory + 1]
            guess = window.step(r, window.history(r, out, window.past_x), known)
            out[r + 1] = where_rows(rows[r + 1], guess, out[r + 1])
        return out


def _newest(last: Round) -> torch.Tensor:
    """The data prediction of each sample's last row that was ever evaluated."""
    window = last.window
    assert window.scheme.prediction is not None
    row = window.rows - 1 - np.argmax((last.age[::-1] >= 0) & window.valid[::-1], axis=0)[None, :]
    nodes = np.take_along_axis(window.nodes, row, axis=0)[0]
    anchor, output = pick(last.anchors, row)[0], pick(last.outputs, row)[0]
    return convert(window.scheme, window.scheme.prediction, "data", nodes, anchor, output)
