"""The record of a wrong part, and the short vocabulary of what it breaks."""

from __future__ import annotations

from collections.abc import Callable

import attrs

__all__ = ["BREAKS", "Mutant", "correct"]

BREAKS: dict[str, str] = {
    "acceptance": "a stopping rule tells good rows from bad ones, by the tolerance",
    "batch": "a sample's answer does not depend on its batch mates",
    "capability": "what is read is declared, what is declared is done, what cannot be done is refused",
    "causal": "a row hears of itself and of earlier rows only",
    "checkpoint": "the run that goes on from a checkpoint has the bits of the unbroken one",
    "convergence": "an update moves towards the root, and leaves it alone",
    "counts": "rounds, evaluations and network calls are what was spent",
    "deterministic": "same inputs, same bits; nobody else's random numbers are used up",
    "documented": "a docstring names the options, and a source is given",
    "dtype": "states keep their dtype, and the precision that it has",
    "exact": "tolerance 0 gives the sequential sampler's bits",
    "fresh": "an answer is a new tensor, not a buffer that is written again",
    "nonfinite": "numbers of one sample that are not finite neither spread nor vanish",
    "plain-state": "a state is plain data, of bounded size",
    "range": "every window, every N, every last row; no value outside what is allowed",
    "read-only": "views, requests, states and the problem are not written into",
    "realign": "memory of a row belongs to its node, and moves with the front",
    "record": "a part is an immutable record of options that can be hashed and compared",
    "rows": "a row of a request has its own node, time and sample, and keeps its place",
    "scale": "a quantity has the unit that it says it has",
    "shape": "shapes and types are those of the contract",
    "stateless": "what changes lives in the state, not in the instance, class, module or closure",
    "tables": "any table: several past states and outputs, stages, noise, every prediction",
    "zero": "a zero residual gives a zero update",
}
"""What a mutant breaks, in one word, and the rule in words."""


@attrs.frozen
class Mutant:
    """A part with one mistake, or, with ``breaks`` empty, the correct part that it was made from.

    Attributes:
        name: ``kind:what``, unique.
        kind: residual, jacobian, preconditioner, damping, stopping, initializer, selection, sampler, model, evaluator.
        make: gives the class, instance or factory that is checked.
        breaks: one of :data:`BREAKS`.
        contract: the contract that is broken, one sentence.
        original: name of the correct part.
        runs: ``"yes"``, ``"no"`` (the engine stops it in any solve) or where it is stopped.
    """

    name: str
    kind: str
    make: Callable[[], object]
    breaks: str = attrs.field(default="", validator=attrs.validators.in_(["", *BREAKS]))
    contract: str = ""
    original: str = ""
    runs: str = "yes"


def correct(name: str, kind: str, make: Callable[[], object]) -> Mutant:
    """The record of a correct part."""
    return Mutant(name, kind, make)
