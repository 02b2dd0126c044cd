"""The same round with other numbers in its later rows: what a causal part says of the earlier ones must not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paracore.window import Floats, Round, Window

__all__ = ["PLACES", "READS", "after", "agree", "mates_elsewhere"]

READS = ("adapt", "factors", "converged", "apply", "solve")
"""Methods that are given a round, and answer row by row."""

PLACES = ("rows", "look_ahead")
"""Methods that are given a window alone, and answer ``(P, B)``."""

_FIELDS: tuple[str, ...] = ("window", "outputs", "anchors", "evaluated", "age", "anchor_change", "output_change")
_FIELDS += ("output_growth", "spare", "tangents", "jvps", "chain", "gap", "size", "damping", "_weights")


def mates_elsewhere(window: Window, by: int) -> Window:
    """The same window with all samples but the first ``by`` nodes further on."""
    new = object.__new__(Window)
    kept = ("scheme", "tape", "rounds", "running", "width", "state_rows", "past_x", "past_f", "gain", "tolerance")
    new.__dict__.update({name: window.__dict__[name] for name in kept})
    new.front = np.clip(window.front + by * (np.arange(window.batch) > 0), 0, window.scheme.steps)
    return new


def after(args: tuple[Any, ...], row: int) -> tuple[Any, ...]:
    """The arguments with other numbers after a row: outputs of the next rows, states beyond the row's own unknown."""
    round = args[0]
    new = object.__new__(Round)
    new.__dict__.update({name: round.__dict__[name] for name in _FIELDS})
    new.memo, new._adapted = {}, None
    new.outputs = _rows(round.outputs, row + 1)
    new.anchors = _rows(round.anchors, row + 2)
    new.chain = _rows(round.chain, row + 2)
    new.window = round.window.moved(_rows(round.window.state_rows, row + 2))
    if round.jvps is not None:
        new.jvps = _rows(list(round.jvps), row + 1)
    for name in ("gap", "size", "anchor_change", "output_change", "output_growth"):
        setattr(new, name, _numbers(getattr(round, name), row + 2))
    return (new, *(_right_hand_side(a, round, new, row) if isinstance(a, torch.Tensor) else a for a in args[1:]))


def _right_hand_side(given: torch.Tensor, round: Round, new: Round, row: int) -> torch.Tensor:
    """The residual of the other round, if the given one was this round's."""
    if "residual" in round.__dict__ and given is round.residual:
        return new.residual
    if "one_step" in round.__dict__ and given is round.one_step:
        return new.one_step
    return torch.stack(_rows(list(given), row + 1))


def _rows(rows: list[torch.Tensor], first: int) -> list[torch.Tensor]:
    return [row if r < first else 5.0 - 3.0 * row for r, row in enumerate(rows)]


def _numbers(values: Floats, first: int) -> Floats:
    changed = values.copy()
    changed[first:] = 7.0 * changed[first:] + 1.0
    return changed


def agree(part: Any, name: str, row: int, args: tuple[Any, ...], answer: Any, other: Any) -> bool:
    """Whether two answers say the same of the rows up to ``row``."""
    if name == "adapt":
        window = args[0].window
        widths = part.look_ahead(window, answer), part.look_ahead(window, other)
        answer, other = (
            part.weights(window, state).f if width is None else width
            for state, width in zip((answer, other), widths, strict=True)
        )
    if answer is None or other is None or hasattr(other, "send"):
        return True
    if name in ("apply", "solve"):
        pairs = zip(list(answer)[: row + 1], list(other)[: row + 1], strict=True)
        return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in pairs)
    mine, others = np.asarray(answer)[: row + 1], np.asarray(other)[: row + 1]
    if mine.dtype == np.bool_:
        return bool((mine == others).all())
    return bool(np.allclose(mine, others, rtol=1e-9, atol=1e-12, equal_nan=True))
