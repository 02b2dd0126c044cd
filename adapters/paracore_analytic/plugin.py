"""Registers the analytic models under their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paracore import Model, hookimpl
from paracore_analytic.gaussian import GaussianModel
from paracore_analytic.ideal import IdealDenoiser
from paracore_analytic.linear import LinearModel
from paracore_analytic.mixture import MixtureModel

__all__ = ["paracore_models"]


@hookimpl
def paracore_models() -> Mapping[str, Callable[..., Model]]:
    """The analytic models."""
    return {
        "gaussian": GaussianModel.random,
        "ideal": IdealDenoiser.random,
        "linear": LinearModel.random,
        "mixture": MixtureModel.random,
        "two-mode": MixtureModel.two_mode,
    }
