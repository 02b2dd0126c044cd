"""Damping policy: the diagonal added to the Jacobian."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from paracore.strategies.base import Strategy
from paracore.window import Bools, Floats, Round

__all__ = ["DampingPolicy", "NoDamping"]


class DampingPolicy(Strategy):
    """Chooses the damping factors of ``(J + diag(factors)) dX = R``.

    Attributes:
        retries: how many times at most a trial may be sent back in one round (no network calls are made for it).
    """

    retries: ClassVar[int] = 0

    @abc.abstractmethod
    def factors(self, round: Round, state: Any) -> Floats:
        """``(P, B)`` non-negative factors."""

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools | None, Any]:
        """Judge the trial states ``(P, B, *event)``: rows to try again with new factors (or ``None``), and the state.

        Called after every trial. Samples with a marked row are tried again while ``retries`` last; others keep their
        trial, and a policy leaves their state as it is.
        """
        return None, state


@attrs.frozen
class NoDamping(DampingPolicy):
    """All factors are zero."""

    null = True

    def factors(self, round: Round, state: Any) -> Floats:
        return np.zeros(round.age.shape)
