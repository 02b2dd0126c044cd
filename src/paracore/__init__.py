"""paracore: parallel-in-time sampling of diffusion models.

    problem = paracore.Problem(scheme=paracore.schemes.flow_euler(50), x0=noise)
    result = paracore.solve(paracore.sampler(window=8), problem, paracore.evaluators.batched(denoiser))

Importing this package loads no plugin.
"""

from paracore import errors, evaluators, paced, recipes, schemes
from paracore.checkpoint import load_checkpoint, save_checkpoint
from paracore.compose import compose, sampler
from paracore.composition import Composition
from paracore.engine import Engine
from paracore.model import Model
from paracore.plugins import Conformance, hookimpl, registry
from paracore.problem import NoiseTape, Problem
from paracore.recipes.files import load_sampler, save_sampler
from paracore.request import Denoiser, Evaluator, Outputs, Request, Rows
from paracore.result import Result, RoundTrace
from paracore.sampler import Sampler
from paracore.sequential import sequential, skipping
from paracore.solve import Observer, RoundEvent, solve
from paracore.status import Status
from paracore.strategies import (
    DampingPolicy,
    Initializer,
    JacobianApproximation,
    Preconditioner,
    ResidualConstruction,
    Selection,
    StoppingRule,
    Strategy,
)
from paracore.window import Round, Window

__all__ = [
    "Composition",
    "Conformance",
    "DampingPolicy",
    "Denoiser",
    "Engine",
    "Evaluator",
    "Initializer",
    "JacobianApproximation",
    "Model",
    "NoiseTape",
    "Observer",
    "Outputs",
    "Preconditioner",
    "Problem",
    "Request",
    "ResidualConstruction",
    "Result",
    "Round",
    "RoundEvent",
    "RoundTrace",
    "Rows",
    "Sampler",
    "Selection",
    "Status",
    "StoppingRule",
    "Strategy",
    "Window",
    "compose",
    "errors",
    "evaluators",
    "hookimpl",
    "load_checkpoint",
    "load_sampler",
    "paced",
    "recipes",
    "registry",
    "sampler",
    "save_checkpoint",
    "save_sampler",
    "schemes",
    "sequential",
    "skipping",
    "solve",
]
