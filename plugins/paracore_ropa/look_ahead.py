"""The look-ahead of each row, adapted by its residual (ROPA, Eq. 13)."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore import Problem
from paracore.errors import ConfigurationError
from paracore.parts.options import integer, number
from paracore.schemes import RowWeights, look_ahead_weights
from paracore.strategies import ResidualConstruction
from paracore.window import Ints, Round, RowNorms, Window

__all__ = ["AdaptiveLookAhead"]


def _whole(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """As :func:`integer`, under the option's own name (the field may not be called like the method ``start``)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"AdaptiveLookAhead: start is {value!r}; an integer of at least 0 is needed")


@attrs.frozen
class AdaptiveLookAhead(ResidualConstruction):
    """A look-ahead per row: one more where the residual is large against the sample's mean, one less where small.

    ``e_n > alpha * mean`` grows ``w_n`` by one (at most ``largest``), ``e_n < beta * mean`` shrinks it by one (at least
    1). ``e_n`` is the root mean square of the row's look-ahead residual, the mean is over the rows of the sample's own
    window. Rows keep their look-ahead while the window slides; rows that enter get ``start``.

    The residual of a round is built with the last look-ahead, the Jacobian with the next one, as Algorithm 1 does. With
    a Jacobian that keeps the whole linear part of the residual the two differ only in the rows that have just changed.

    The paper starts at 1 (Algorithm 1, line 1). A fresh row's residual is large because its past is not there yet, not
    because the row needs one node more: ``start=0`` (the whole window) is what works best.

    Attributes:
        alpha: rows above ``alpha`` times the mean grow (1.5 throughout the paper); greater than ``beta``.
        beta: rows below ``beta`` times the mean shrink (0.7 throughout the paper).
        start: look-ahead of entering rows; 0 is the whole window.
        largest: bound of the look-ahead (the paper's ``w_max``: 8 in the listing, "8 to 16" in Appendix D.3); 0 is the
            whole window.
    """

    alpha: float = attrs.field(default=1.5, validator=number(0.0))
    beta: float = attrs.field(default=0.7, validator=number(0.0))
    start_width: int = attrs.field(default=1, validator=_whole, alias="start")
    largest: int = attrs.field(default=0, validator=integer(0))

    causal = False  # the mean is over the window
    reference = "ROPA, Eq. 9 to 13 and Algorithm 1, lines 3 to 19"

    def __attrs_post_init__(self) -> None:
        if self.alpha <= self.beta:
            raise ConfigurationError(
                f"AdaptiveLookAhead: alpha is {self.alpha} and beta {self.beta}; alpha must be greater than beta, or a "
                "row would have to grow and shrink at once (the paper: 1.5 and 0.7)"
            )
        if self.largest and self.start_width > self.largest:
            raise ConfigurationError(
                f"AdaptiveLookAhead: start is {self.start_width}, above largest = {self.largest}; lower start, or "
                "raise largest (0: the whole window)"
            )

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Every row at its first look-ahead."""
        top = min(self.largest, rows) if self.largest else rows
        first = min(self.start_width, top) if self.start_width else top
        width = np.full((rows, problem.batch), first, dtype=np.int64)
        return {"width": width, "front": np.zeros(problem.batch, dtype=np.int64), "first": first, "top": top}

    def look_ahead(self, window: Window, state: Any) -> Ints:
        """``(P, B)`` look-ahead of each row."""
        return window.realign(state["width"], state["front"], fill=state["first"])

    def weights(self, window: Window, state: Any) -> RowWeights:
        """The look-ahead weights."""
        return look_ahead_weights(window.scheme, window.nodes, self.look_ahead(window, state))

    def adapt(self, round: Round, state: Any) -> dict[str, Any]:
        """Eq. 13."""
        window = round.window
        norms = RowNorms()
        for row in round.residual:
            norms.add(row)
        error = norms.result()
        sound = window.valid & np.isfinite(error)
        mean = np.where(sound, error, 0.0).sum(axis=0) / np.maximum(sound.sum(axis=0), 1)
        width = self.look_ahead(window, state)
        grown = width + (error > self.alpha * mean) - (error < self.beta * mean)
        width = np.where(window.valid, np.clip(grown, 1, state["top"]), width)
        return {**state, "width": width, "front": window.front.copy()}
