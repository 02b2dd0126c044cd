"""Hypothesis strategies over the random problems and compositions. Needs hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from paracore.composition import KINDS as STRATEGIES
from paracore.composition import Composition
from paracore.errors import UnknownNameError, suggest
from paracore.strategies import Strategy
from paracore.testing.adversarial import (
    MODES,
    BadDamping,
    BadInitializer,
    BadJacobian,
    BadPreconditioner,
    BadResidual,
    BadSelection,
    BadStopping,
    random_composition,
)
from paracore.testing.exact import LEVELLED, mixture_case
from paracore.testing.problems import KINDS, Case, random_case
from paracore.testing.reference import REFERENCES, Reference, linear_reference, reference, some

__all__ = [
    "adversarial",
    "batches",
    "cases",
    "compositions",
    "gaussians",
    "linear",
    "mixtures",
    "pairs",
    "references",
    "windows",
]

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = tuple(KINDS),
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    max_steps: int = 12,
    max_batch: int = 3,
    lockstep: bool = False,
) -> Case:
    """Random small problems with their networks."""
    return random_case(
        draw(SEEDS),
        kind=draw(st.sampled_from(kinds)),
        steps=draw(st.integers(1, max_steps)),
        batch=draw(st.integers(1, max_batch)),
        dtype=draw(st.sampled_from(dtypes)),
        lockstep=lockstep,
    )


def compositions(
    case: Case, *, tolerance: float | None = 0.0, adversarial: float = 0.5
) -> st.SearchStrategy[Composition]:
    """Random compositions that fit a case."""
    return SEEDS.map(lambda s: random_composition(s, case.problem, tolerance=tolerance, adversarial=adversarial))


@st.composite
def pairs(
    draw: st.DrawFn, source: st.SearchStrategy[Case], *, tolerance: float | None = 0.0, adversarial: float = 0.5
) -> tuple[Case, Composition]:
    """A case, and a composition that fits it."""
    case = draw(source)
    return case, draw(compositions(case, tolerance=tolerance, adversarial=adversarial))


# -- problems with known answers --------------------------------------------------------------------------------------


@st.composite
def linear(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = tuple(KINDS),
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    max_steps: int = 12,
    max_batch: int = 3,
) -> Reference:
    """Linear ordinary and stochastic differential equations under every kind of scheme, with their trajectories."""
    return linear_reference(
        draw(st.sampled_from(kinds)),
        steps=draw(st.integers(1, max_steps)),
        batch=draw(st.integers(1, max_batch)),
        dim=draw(st.integers(1, 4)),
        seed=draw(SEEDS),
        dtype=draw(st.sampled_from(dtypes)),
    )


@st.composite
def references(
    draw: st.DrawFn, names: tuple[str, ...] = tuple(REFERENCES), max_steps: int = 12, max_batch: int = 3
) -> Reference:
    """The reference problems, in all sizes."""
    steps, batch = draw(st.integers(1, max_steps)), draw(st.integers(1, max_batch))
    return reference(draw(st.sampled_from(names)), steps=steps, batch=batch, seed=draw(SEEDS))


@st.composite
def mixtures(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = LEVELLED,
    components: tuple[int, ...] = (2, 3, 5),
    max_steps: int = 12,
    max_batch: int = 3,
) -> Case:
    """Sampling from mixtures of Gaussians with the exact network, under every kind of scheme with noise levels."""
    return mixture_case(
        draw(st.sampled_from(kinds)),
        components=draw(st.sampled_from(components)),
        steps=draw(st.integers(1, max_steps)),
        batch=draw(st.integers(1, max_batch)),
        dim=draw(st.integers(1, 4)),
        spread=draw(st.sampled_from((0.05, 0.3, 1.0))),
        seed=draw(SEEDS),
    )


def gaussians(kinds: tuple[str, ...] = LEVELLED, max_steps: int = 12, max_batch: int = 3) -> st.SearchStrategy[Case]:
    """Sampling from Gaussian data with the exact network, under every kind of scheme with noise levels."""
    return mixtures(kinds, (1,), max_steps, max_batch)


# -- what surrounds them ----------------------------------------------------------------------------------------------


def windows(case: Case) -> st.SearchStrategy[int]:
    """Windows for a case, from one row to more than its scheme has."""
    return st.integers(1, case.problem.scheme.steps + 3)


@st.composite
def batches(draw: st.DrawFn, case: Case) -> Case:
    """The case with some of its samples, in any order: what they give must not depend on who is with them."""
    order = draw(st.permutations(range(case.problem.batch)))
    return some(case, order[: draw(st.integers(1, len(order)))])


def adversarial(kind: str) -> st.SearchStrategy[Strategy]:
    """Parts of a kind that answer with nonsense: random, huge, zero, or not finite.

    Raises:
        UnknownNameError: for another kind than those of strategies.
    """
    if kind not in STRATEGIES:
        raise UnknownNameError(f"unknown kind of strategy {kind!r}; {suggest(kind, STRATEGIES)}")
    mode, truth = st.sampled_from(MODES), st.booleans()
    chance = st.sampled_from((0.0, 0.5, 1.0))
    made: dict[str, st.SearchStrategy[Strategy]] = {
        "residual": st.builds(BadResidual, mode, SEEDS),
        "jacobian": st.builds(BadJacobian, mode, SEEDS, truth, truth),
        "preconditioner": st.builds(BadPreconditioner, mode, SEEDS),
        "damping": st.builds(BadDamping, mode, SEEDS),
        "stopping": st.builds(BadStopping, SEEDS, chance),
        "initializer": st.builds(BadInitializer, mode, SEEDS),
        "selection": st.builds(BadSelection, mode, SEEDS, chance, st.integers(0, 3)),
    }
    return made[kind]
