"""The contracts of the seven kinds of strategies. Each is an immutable record; what changes is an explicit state."""

from paracore.strategies.base import Strategy
from paracore.strategies.damping import DampingPolicy, NoDamping
from paracore.strategies.initializer import Initializer
from paracore.strategies.jacobian import JacobianApproximation, Krylov, NoJacobian
from paracore.strategies.preconditioner import NoPreconditioner, Preconditioner
from paracore.strategies.residual import ResidualConstruction
from paracore.strategies.selection import Selection
from paracore.strategies.stopping import StoppingRule

__all__ = [
    "DampingPolicy",
    "Initializer",
    "JacobianApproximation",
    "Krylov",
    "NoDamping",
    "NoJacobian",
    "NoPreconditioner",
    "Preconditioner",
    "ResidualConstruction",
    "Selection",
    "StoppingRule",
    "Strategy",
]
