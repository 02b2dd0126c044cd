"""Wrong parts that a conformance kit should find, written from the contracts alone: forty of one mistake each.

Each stands beside the correct part that it was made from (``ORIGINALS``), so that what a kit says of the one and not of
the other is the mistake. Names are ``kind:what``.
"""

from __future__ import annotations

from kit.mutants_b import jacobians, outside, residuals, samplers, stopping, updates, windows
from kit.mutants_b.record import Mutant

__all__ = ["MUTANTS", "ORIGINALS", "Mutant"]

_MODULES = (residuals, jacobians, updates, stopping, windows, samplers, outside)

ORIGINALS: list[Mutant] = [one for module in _MODULES for one in module.ORIGINALS]
MUTANTS: list[Mutant] = [one for module in _MODULES for one in module.MUTANTS]
