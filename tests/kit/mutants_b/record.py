"""The record of a wrong part, or of the correct one behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["Mutant"]


@attrs.frozen
class Mutant:
    """A part with exactly one mistake; or, with ``breaks=""``, one without.

    Attributes:
        name: ``kind:what``.
        kind: as the hooks have it.
        make: gives the class, instance or factory that is to be checked.
        breaks: which sort of mistake, in a word.
        contract: what it does not keep, in a sentence.
    """

    name: str
    kind: str
    make: Callable[[], Any]
    breaks: str
    contract: str
