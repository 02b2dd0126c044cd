"""Registers the analytic models under their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paracore import Conformance, Model, hookimpl
from paracore_analytic.gaussian import GaussianModel
from paracore_analytic.ideal import IdealDenoiser
from paracore_analytic.linear import LinearModel
from paracore_analytic.mixture import MixtureModel

__all__ = ["paracore_conformance", "paracore_models"]


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


@hookimpl
def paracore_conformance() -> Mapping[str, Conformance]:
    """What breaks a contract by intention."""
    why = "its output is A x + d whatever the scheme calls it: the test system of numerical analysis, no denoiser"
    return {"linear": Conformance(expected_failures={"check_model_answers_its_scheme": why})}
