"""Whether a pipeline's loop draws random numbers of its own."""

from __future__ import annotations

import threading

import torch

from paracore_diffusers.errors import UnsupportedPipelineError

__all__ = ["DRAWS", "Randomness"]

DRAWS = "the pipeline draws random numbers inside its loop, beside its scheduler; that is not supported"

REPLICAS = "paracore-"
"""How the names of the replicas' threads begin."""


class Randomness:
    """The random states that a loop must leave alone: torch's global one of the CPU, and the generators of the call."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self._generators = generators
        self._states: list[torch.Tensor] = []
        self.settle()

    def settle(self) -> None:
        """Take the states as they are: what was drawn was not the loop's (a callback's, say)."""
        self._states = self._now()

    def drew(self) -> bool:
        """Whether the global state alone changed while other threads run; it is taken as it is then.

        Raises:
            UnsupportedPipelineError: if the loop drew, beyond doubt.
        """
        now = self._now()
        changed = [not torch.equal(a, b) for a, b in zip(self._states, now, strict=True)]
        if not any(changed):
            return False
        if any(changed[1:]) or not _other_threads():
            raise UnsupportedPipelineError(DRAWS)
        self._states = now
        return True

    def confirm(self) -> None:
        """After one more iteration that calls no network.

        Raises:
            UnsupportedPipelineError: if the global state changed in it, too.
        """
        if not torch.equal(self._states[0], torch.get_rng_state()):
            raise UnsupportedPipelineError(DRAWS)

    def _now(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *(g.get_state() for g in self._generators)]


def _other_threads() -> bool:
    """Whether threads beside this one, the replicas' and tqdm's run."""
    own = threading.current_thread()
    others = [t for t in threading.enumerate() if t is not own and not t.name.startswith(REPLICAS)]
    return any(type(t).__name__ != "TMonitor" for t in others)
