"""Fixed-point methods: Picard iteration in any output form, ParaDIGMS as published, and Jacobi."""

from paracore_picard.plugin import jacobi, paradigms, picard

__all__ = ["jacobi", "paradigms", "picard"]
