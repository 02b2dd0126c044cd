"""Wrong parts, one mistake each, and the correct ones that they were made from; written without knowledge of the kit
(but for "undeclared-growth").

``MUTANTS`` are to be caught, ``ORIGINALS`` are not. See :class:`~kit.mutants_a.records.Mutant`.
"""

from __future__ import annotations

from kit.mutants_a import (
    dampings,
    evaluators,
    initializers,
    jacobian_mutants,
    models,
    preconditioners,
    residuals,
    sampler_mutants,
    selections,
    stopping,
)
from kit.mutants_a.records import BREAKS, Mutant

__all__ = ["BREAKS", "MUTANTS", "ORIGINALS", "Mutant"]

_MODULES = (
    residuals,
    jacobian_mutants,
    preconditioners,
    dampings,
    stopping,
    initializers,
    selections,
    sampler_mutants,
    models,
    evaluators,
)

MUTANTS: list[Mutant] = [mutant for module in _MODULES for mutant in module.MUTANTS]
"""Parts with one mistake each."""

ORIGINALS: list[Mutant] = [original for module in _MODULES for original in module.ORIGINALS]
"""Parts without."""
