"""What paracore itself registers, through the same hooks as any plugin."""

from __future__ import annotations

import torch

from paracore import evaluators, parts
from paracore.plugins.conformance import Conformance
from paracore.plugins.hookspecs import Conformances, Factories, hookimpl
from paracore.problem import Problem
from paracore.strategies import NoDamping, NoJacobian, NoPreconditioner

__all__: list[str] = []


@hookimpl
def paracore_residuals() -> Factories:
    """Residual constructions."""
    return {"look-ahead": parts.LookAhead}


@hookimpl
def paracore_jacobians() -> Factories:
    """Jacobian approximations."""
    return {"none": NoJacobian, "identity": parts.Identity}


@hookimpl
def paracore_preconditioners() -> Factories:
    """Preconditioners."""
    return {"none": NoPreconditioner}


@hookimpl
def paracore_dampings() -> Factories:
    """Damping policies."""
    return {"none": NoDamping}


@hookimpl
def paracore_stopping_rules() -> Factories:
    """Stopping rules."""
    return {
        "error-target": parts.ErrorTarget,
        "scaled-residual": parts.ScaledResidual,
        "noise-scaled-change": parts.NoiseScaledChange,
        "change": parts.AbsoluteChange,
        "fixed-rounds": parts.FixedRounds,
    }


@hookimpl
def paracore_initializers() -> Factories:
    """Initial guesses."""
    return {
        "copy": parts.Copy,
        "hold": parts.Hold,
        "linear": parts.Linear,
        "damped-linear": parts.DampedLinear,
        "warm-start": parts.WarmStart,
    }


@hookimpl
def paracore_selections() -> Factories:
    """Selections."""
    return {"all": parts.AllRows, "every-kth": parts.EveryKth}


@hookimpl
def paracore_evaluators() -> Factories:
    """Evaluators."""
    return {
        "batched": evaluators.batched,
        "devices": evaluators.devices,
        "distributed": evaluators.distributed,
        "ray": evaluators.ray,
    }


@hookimpl
def paracore_conformance() -> Conformances:
    """A guess from an earlier trajectory belongs to its problem."""
    near = "as near as the trajectory that it is given; the kit gives it a crude one"
    expected = {"check_guesses_are_near": near, "check_guesses_follow_a_trend": near}
    return {"warm-start": Conformance(examples=(_earlier,), expected_failures=expected)}


def _earlier(problem: Problem) -> parts.WarmStart:
    """Some trajectory: the initial state, scaled with the noise level where it is known."""
    scheme, x0 = problem.scheme, problem.x0
    size = torch.ones(scheme.steps + 1, dtype=torch.float64)
    if scheme.levels is not None:
        size = torch.from_numpy(scheme.levels.sigma / max(float(scheme.levels.sigma[0]), 1e-30))
    return parts.WarmStart((x0 * size.to(x0).reshape(-1, *[1] * x0.ndim)).to(x0.dtype))
