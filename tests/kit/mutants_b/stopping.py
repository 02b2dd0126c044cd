"""Stopping rules: two correct ones, and four with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kit.mutants_b.record import Mutant
from paracore.parts.options import number
from paracore.strategies import StoppingRule
from paracore.window import Bools, Round

__all__ = ["MUTANTS", "ORIGINALS"]

_LEAST = 0.05


@attrs.frozen
class RelativeGap(StoppingRule):
    """A row is done when its output was evaluated near the state that is to be accepted, relative to that state's size.

    Attributes:
        share: of the tolerance that one row may take up, between 0 and 1.
    """

    share: float = attrs.field(default=0.25, validator=number(0.0, 1.0))

    unit = "distance between an accepted state and the evaluated one, relative to the state"
    reference = "Lim et al. 2024 (DEER), arXiv:2309.12252, with a relative tolerance alone"

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose gap is small."""
        return np.asarray(round.gap <= self.share * round.tolerance * round.size, dtype=np.bool_)


@attrs.frozen
class RelativeSquare(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose gap is small."""
        return np.asarray(round.gap**2 <= self.share * round.tolerance * round.size**2, dtype=np.bool_)


@attrs.frozen
class RelativeAhead(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose gap is small; a row between good ones is good."""
        good = np.asarray(round.gap <= self.share * round.tolerance * round.size, dtype=np.bool_)
        after = np.concatenate([good[1:], np.zeros_like(good[:1])])
        return good | (after & round.window.valid)


@attrs.frozen
class RelativeFloor(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose gap is small."""
        tolerance = max(round.tolerance, _LEAST)  # below this an image does not look any different
        return np.asarray(round.gap <= self.share * tolerance * round.size, dtype=np.bool_)


@attrs.frozen
class SteadyOutput(StoppingRule):
    """A row is done when its output changed by little since its last evaluation, or its state does not move at all.

    Attributes:
        share: of the tolerance that one row may take up, between 0 and 1.
    """

    share: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    unit = "change of an output, relative to the size of the state"
    reads_changes = True
    reference = "Song et al. 2021, arXiv:2002.03629, Section 3: stop where an iteration changes nothing"

    def converged(self, round: Round, state: Any) -> Bools:
        """Rows whose output is steady; one that was evaluated once is not."""
        with np.errstate(invalid="ignore"):
            steady = round.output_change <= self.share * round.tolerance * round.size
            near = round.gap <= round.tolerance * round.size
        return np.asarray((steady & near) | (round.gap == 0), dtype=np.bool_)


@attrs.frozen
class SteadyUnread(SteadyOutput):
    __doc__ = SteadyOutput.__doc__

    reads_changes = False


ORIGINALS = [
    Mutant("stopping:relative-gap", "stopping", lambda: RelativeGap, "", "Keeps the contract."),
    Mutant("stopping:steady-output", "stopping", lambda: SteadyOutput, "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "stopping:forgotten root",
        "stopping",
        lambda: RelativeSquare,
        "scale",
        "The error goes with the tolerance, not with its square root.",
    ),
    Mutant(
        "stopping:passed by the row after",
        "stopping",
        lambda: RelativeAhead,
        "acausal",
        "A row is not accepted because a later one looks good.",
    ),
    Mutant(
        "stopping:tolerance not below a floor",
        "stopping",
        lambda: RelativeFloor,
        "accepts",
        "A smaller tolerance gives a smaller error, all the way down.",
    ),
    Mutant(
        "stopping:changes never read",
        "stopping",
        lambda: SteadyUnread,
        "accepts",
        "A rule that reads changes says so: all of them are NaN otherwise, and it accepts nothing but what is exact.",
    ),
]
