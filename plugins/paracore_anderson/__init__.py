"""Anderson acceleration of the whole window, and ParaTAA: its triangular form on residuals of any order."""

from paracore_anderson.part import Anderson
from paracore_anderson.plugin import anderson, taa
from paracore_anderson.stopping import FirstOrderResidual

__all__ = ["Anderson", "FirstOrderResidual", "anderson", "taa"]
