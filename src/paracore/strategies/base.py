"""What all strategies share."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from paracore.problem import Problem

__all__ = ["Strategy"]


class Strategy(abc.ABC):  # noqa: B024 - the kinds below it are abstract
    """Base of the seven kinds: an immutable record of options.

    Strategies get read-only views, mutate nothing and never call the network. What changes from round to round lives
    in a plain-data state (numbers, arrays, tensors, and lists, tuples and dicts of them) that the engine carries:
    that is what makes a checkpoint.

    Attributes:
        needs: capabilities that must be there: ``"levels"`` (the scheme's noise levels), ``"score"`` (levels, and a
            known prediction), ``"jvp"`` (the evaluator answers tangents).
        causal: whether what a row gets depends on itself and earlier rows alone. ``False`` for a part that reads later
            rows on purpose (one least-squares fit for the whole window, say).
        null: whether the part does nothing, so that the engine may skip its work.
        reference: the source: paper and equation, for ``paracore show``.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    null: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    reference: ClassVar[str] = ""

    def start(self, problem: Problem, rows: int) -> Any:
        """The state before the first round; ``rows`` is the window's row count."""
        return None
