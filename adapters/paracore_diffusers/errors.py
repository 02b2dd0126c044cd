"""What can go wrong between paracore and diffusers. All are :class:`~paracore.ParacoreError`."""

from __future__ import annotations

from paracore.errors import CapabilityError

__all__ = [
    "NonFiniteSchedulerError",
    "NonlinearSchedulerError",
    "UnsupportedPipelineError",
    "UnsupportedSchedulerError",
]


class UnsupportedPipelineError(CapabilityError):
    """A pipeline (or the way it is called) that cannot be run in parallel; the message names the cause."""


class UnsupportedSchedulerError(UnsupportedPipelineError):
    """A scheduler that is neither a table nor can be replayed."""


class NonlinearSchedulerError(UnsupportedSchedulerError):
    """A scheduler whose step is not linear in states, outputs and noise (clipping, thresholding): no table."""


class NonFiniteSchedulerError(UnsupportedSchedulerError):
    """A scheduler whose own coefficients are not finite."""
