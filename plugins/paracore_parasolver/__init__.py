"""ParaSolver: Picard iteration over subintervals of sequential steps, started from points with a frozen prediction."""

from paracore_parasolver.fine import FineSteps
from paracore_parasolver.frozen import FrozenData
from paracore_parasolver.plugin import parasolver
from paracore_parasolver.sampler import ParaSolver
from paracore_parasolver.selection import Subintervals
from paracore_parasolver.stopping import SubintervalChange

__all__ = ["FineSteps", "FrozenData", "ParaSolver", "SubintervalChange", "Subintervals", "parasolver"]
