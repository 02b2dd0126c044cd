"""Newton-like methods: DEER, quasi-DEER, ELK, block secants, the strided front."""

from paracore_newton.differences import finite_differences
from paracore_newton.exact import BlockSampler

__all__ = ["BlockSampler", "finite_differences"]
