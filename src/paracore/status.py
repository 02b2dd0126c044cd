"""How a sample ended. Positive: converged; zero: running; negative: failed (the convention of PETSc's SNES)."""

from __future__ import annotations

import enum

__all__ = ["Status"]


class Status(enum.IntEnum):
    """The signed status of one sample; ``message`` says it in words."""

    RUNNING = 0
    CONVERGED = 1
    EXACT = 2
    BUDGET_COMPLETED = 3
    NONFINITE_OUTPUT = -1
    NONFINITE_STATE = -2
    INTERRUPTED = -3

    @property
    def message(self) -> str:
        """One sentence for a person."""
        return _MESSAGES[self]

    @property
    def ended(self) -> bool:
        """Whether the sample asks for no more evaluations."""
        return self is not Status.RUNNING

    @property
    def failed(self) -> bool:
        """Whether the sample did not reach the last node."""
        return self < 0


_MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "converged: every accepted state passed the stopping rule",
    Status.EXACT: "exact: every accepted output was evaluated at the accepted state itself",
    Status.BUDGET_COMPLETED: "the fixed number of rounds was completed; no accuracy was asked for",
    Status.NONFINITE_OUTPUT: "the network returned a non-finite output at a final state",
    Status.NONFINITE_STATE: "the scheme's own step gave a non-finite state",
    Status.INTERRUPTED: "interrupted before the last node",
}
