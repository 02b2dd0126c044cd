"""Two strategies and a sampler for paracore, as a distribution of its own.

* :class:`VariableOrder`: an initial guess that extrapolates outputs by polynomials of the order that predicted best.
* :class:`Collocation`: a selection that evaluates few rows and reads the others off polynomials through them.
* :class:`TwoStepParareal`: parareal whose coarse solver is of second order at the cost of first.
"""

from paracore_example.collocation import Collocation
from paracore_example.guess import VariableOrder
from paracore_example.parareal import TwoStepParareal
from paracore_example.presets import smooth, two_step_parareal

__all__ = ["Collocation", "TwoStepParareal", "VariableOrder", "smooth", "two_step_parareal"]
