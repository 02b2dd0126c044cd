"""Stopping rules: five correct ones, and wrong ones made of them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kit.mutants_a.records import Mutant, correct
from paracore import Problem, Round, StoppingRule
from paracore.parts.options import integer, number
from paracore.window import Bools, Floats

__all__ = ["MUTANTS", "ORIGINALS"]


def sizes(round: Round) -> Floats:
    """``(P, B)`` root mean square of the chain's state at each row's own node (the front's: that of the next)."""
    return np.concatenate([round.size[:1], round.size[:-1]])


@attrs.frozen
class RelativeGap(StoppingRule):
    """A row is done when its output was evaluated near the chain's state: ``gap <= tolerance share size``.

    Attributes:
        share: of the tolerance, above 0.
    """

    share: float = attrs.field(default=1.0, validator=number(1e-6, 1e3))

    unit = "root-mean-square distance between an accepted state and the one evaluated, in units of the state's size"
    reference = "Lim et al. 2024 (DEER), arXiv:2309.12252, the relative part of its rule"

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(round.gap <= round.tolerance * self.share * sizes(round))


@attrs.frozen
class Steady(StoppingRule):
    """A row is done when its gap has been within ``tolerance size`` for some rounds in a row.

    Attributes:
        rounds: how many, at least 1.
    """

    rounds: int = attrs.field(default=2, validator=integer(1))

    unit = "root-mean-square distance between an accepted state and the one evaluated, in units of the state's size"
    reference = "Lim et al. 2024 (DEER), arXiv:2309.12252, asked more than once"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """No row has been seen."""
        count = np.zeros((rows, problem.batch), dtype=np.int64)
        return {"count": count, "front": np.zeros(problem.batch, dtype=np.int64)}

    def _counted(self, round: Round, state: Any) -> Any:
        """``(P, B)`` rounds in a row, this one included."""
        before = round.window.realign(state["count"], state["front"])
        return np.where(round.gap <= round.tolerance * sizes(round), before + 1, 0)

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(self._counted(round, state) >= self.rounds)

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Count on, up to what is asked."""
        count = np.minimum(self._counted(round, state), self.rounds)
        return {"count": count, "front": round.window.front.copy()}


@attrs.frozen
class Settled(StoppingRule):
    """A row is done when it was evaluated twice, and its state, output and gap all moved by at most the tolerance.

    Attributes:
        share: of the tolerance, for the state and its gap, relative to the state's size.
    """

    share: float = attrs.field(default=1.0, validator=number(1e-6, 1e3))

    unit = "relative root-mean-square change of a state, and root-mean-square change of its output"
    reads_changes = True
    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Algorithm 1, on three changes"

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        moved, changed = round.anchor_change, round.output_change
        seen = np.isfinite(moved) & np.isfinite(changed)
        return np.asarray(seen & self._small(round, np.where(seen, moved, 0.0), np.where(seen, changed, 0.0)))

    def _small(self, round: Round, moved: Floats, changed: Floats) -> Bools:
        bound = round.tolerance * self.share * sizes(round)
        return np.asarray((moved <= bound) & (round.gap <= bound) & (changed <= round.tolerance))


@attrs.frozen
class Widening(Settled):
    """Settled, and gaps count for more where outputs widen differences of their states.

    Attributes:
        share: of the tolerance, for the state and its gap, relative to the state's size.
    """

    reads_growth = True
    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Algorithm 1, on three changes and a direction"

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        known = np.isfinite(round.output_growth)
        wider = 1.0 + np.where(known, np.maximum(round.output_growth, 0.0), 0.0)
        near = round.gap * wider <= round.tolerance * self.share * sizes(round)
        return np.asarray(known & near & Settled.converged(self, round, state))


@attrs.frozen
class Spending(StoppingRule):
    """The relative gaps of all accepted rows sum to at most ``tolerance n / N`` up to node ``n``.

    Attributes:
        share: of the tolerance, above 0.
    """

    share: float = attrs.field(default=1.0, validator=number(1e-6, 1e3))

    unit = "sum of relative root-mean-square distances between accepted states and those evaluated"
    reference = "docs/mathematics.md, section 5, without the network's response"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing spent."""
        return {"spent": np.zeros(problem.batch)}

    def _moves(self, round: Round) -> Floats:
        return round.gap / np.maximum(sizes(round), 1e-30)

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        steps = round.window.scheme.steps
        summed = state["spent"] + np.cumsum(self._moves(round), axis=0)
        return np.asarray(summed <= self.share * round.tolerance * np.minimum(round.window.nodes + 1, steps) / steps)

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Book the accepted rows."""
        inside = np.arange(round.window.rows)[:, None] < accepted[None, :]
        return {"spent": state["spent"] + np.where(inside, self._moves(round), 0.0).sum(axis=0)}

    def estimate(self, state: Any) -> Floats | None:
        """``(B,)``: what was spent."""
        return np.asarray(state["spent"])


# -- mutants ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Everything(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.ones(round.gap.shape, dtype=np.bool_)


@attrs.frozen
class Nothing(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(round.gap < 0.0)


@attrs.frozen
class OwnTolerance(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(round.gap <= 1e-2 * self.share * sizes(round))


@attrs.frozen
class Turned(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(round.gap >= round.tolerance * self.share * sizes(round))


@attrs.frozen
class Squared(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(round.gap**2 <= round.tolerance * self.share * sizes(round) ** 2)


@attrs.frozen
class Absolute(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return np.asarray(round.gap <= round.tolerance * self.share)


@attrs.frozen
class AllTogether(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        near = round.gap <= round.tolerance * self.share * sizes(round)
        return np.repeat(near.all(axis=1, keepdims=True), near.shape[1], axis=1)


@attrs.frozen
class Suffix(RelativeGap):
    __doc__ = RelativeGap.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        near = round.gap <= round.tolerance * self.share * sizes(round)
        return np.logical_and.accumulate(near[::-1], axis=0)[::-1]


@attrs.frozen
class Unaligned(Steady):
    __doc__ = Steady.__doc__

    def _counted(self, round: Round, state: Any) -> Any:
        before = state["count"][: round.window.rows]
        return np.where(round.gap <= round.tolerance * sizes(round), before + 1, 0)


@attrs.frozen
class HiddenOption(Steady):
    __doc__ = Steady.__doc__

    rounds: int = attrs.field(default=2, validator=integer(1), repr=False)


@attrs.frozen
class KeepsAFunction(Steady):
    __doc__ = Steady.__doc__

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """With the test."""
        return {**super().start(problem, rows), "test": lambda gap, size: gap <= size}

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Count on."""
        return {**super().observe(round, accepted, state), "test": state["test"]}


@attrs.frozen
class UnknownIsZero(Settled):
    __doc__ = Settled.__doc__

    def converged(self, round: Round, state: Any) -> Bools:
        """``(P, B)``."""
        return self._small(round, np.nan_to_num(round.anchor_change), np.nan_to_num(round.output_change))


@attrs.frozen
class UndeclaredChanges(Settled):
    __doc__ = Settled.__doc__

    reads_changes = False


@attrs.frozen
class UndeclaredGrowth(Widening):
    __doc__ = Widening.__doc__

    reads_growth = False


@attrs.frozen
class OneEstimate(Spending):
    __doc__ = Spending.__doc__

    def estimate(self, state: Any) -> Any:
        """One number."""
        return float(state["spent"].max())


@attrs.frozen
class AddsUp(Spending):
    __doc__ = Spending.__doc__

    def observe(self, round: Round, accepted: Any, state: Any) -> Any:
        """Book the accepted rows."""
        inside = np.arange(round.window.rows)[:, None] < accepted[None, :]
        state["spent"] += np.where(inside, self._moves(round), 0.0).sum(axis=0)
        return state


ORIGINALS = [
    correct("stopping:relative-gap", "stopping", lambda: RelativeGap),
    correct("stopping:steady", "stopping", lambda: Steady),
    correct("stopping:settled", "stopping", lambda: Settled),
    correct("stopping:widening", "stopping", lambda: Widening),
    correct("stopping:spending", "stopping", lambda: Spending),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str, runs: str = "yes") -> Mutant:
    return Mutant(f"stopping:{name}", "stopping", lambda: part, breaks, contract, f"stopping:{original}", runs)


GAP = "relative-gap"
MUTANTS = [
    _wrong("everything", Everything, "acceptance", "a row far from where it was evaluated is not accepted", GAP),
    _wrong("nothing", Nothing, "acceptance", "a row that was evaluated where the chain stands is accepted", GAP),
    _wrong("own-tolerance", OwnTolerance, "acceptance", "the composition's tolerance decides", GAP),
    _wrong("turned", Turned, "acceptance", "what is accepted at one gap is accepted at any smaller one", GAP),
    _wrong("squared", Squared, "scale", "half the tolerance accepts half the gap", GAP),
    _wrong(
        "absolute", Absolute, "scale", "a rule in units of the state's size does not depend on the states' unit", GAP
    ),
    _wrong("all-together", AllTogether, "batch", "a row is not kept back for its mates' rows", GAP),
    _wrong("suffix", Suffix, "causal", "a row is judged by itself and those before it, not by those after it", GAP),
    _wrong("unaligned", Unaligned, "realign", "a row's count moves with its node when the front does", "steady"),
    _wrong(
        "hidden-option", HiddenOption, "record", "repr names all options; checkpoints tell parts apart by it", "steady"
    ),
    _wrong(
        "keeps-a-function", KeepsAFunction, "plain-state", "a state holds plain data", "steady", "but for checkpoints"
    ),
    _wrong(
        "unknown-is-zero",
        UnknownIsZero,
        "nonfinite",
        "NaN says that nothing is known, not that nothing moved",
        "settled",
    ),
    _wrong("undeclared-changes", UndeclaredChanges, "capability", "who reads changes says reads_changes", "settled"),
    _wrong("undeclared-growth", UndeclaredGrowth, "capability", "who reads growth says reads_growth", "widening"),
    _wrong("one-estimate", OneEstimate, "shape", "an estimate is (B,), one number per sample", "spending"),
    _wrong("adds-up", AddsUp, "read-only", "observe returns a new state and leaves the old one", "spending"),
]
