"""The strategies that come with paracore itself, registered like anybody else's."""

from paracore.parts.error_target import ErrorTarget
from paracore.parts.initializers import Copy, DampedLinear, Hold, Linear, WarmStart
from paracore.parts.jacobians import Identity
from paracore.parts.residuals import LookAhead
from paracore.parts.selections import AllRows, EveryKth
from paracore.parts.stopping import (
    AbsoluteChange,
    FixedRounds,
    NoiseScaledChange,
    ScaledResidual,
)

__all__ = [
    "AbsoluteChange",
    "AllRows",
    "Copy",
    "DampedLinear",
    "ErrorTarget",
    "EveryKth",
    "FixedRounds",
    "Hold",
    "Identity",
    "Linear",
    "LookAhead",
    "NoiseScaledChange",
    "ScaledResidual",
    "WarmStart",
]
