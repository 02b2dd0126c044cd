"""Initializer: the guesses for rows that enter the window."""

from __future__ import annotations

import abc
from typing import Any

from paracore.strategies.base import Strategy
from paracore.window import Bools, Round, Window

__all__ = ["Initializer"]


class Initializer(Strategy):
    """Fills the states of entering rows."""

    @abc.abstractmethod
    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[Any]:
        """P + 1 state rows ``(B, *event)``; only those that ``rows (P + 1, B)`` marks as entering are used.

        ``window`` is the window to come; its known rows are set, entering ones hold a copy of the newest known state.
        ``last`` is the round just finished (its window may stand elsewhere), ``None`` before the first.
        """

    def observe(self, round: Round, state: Any) -> Any:
        """The state for the next round, once per round."""
        return state
