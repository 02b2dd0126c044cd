"""Hypothesis strategies over the random problems and compositions. Needs hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from paracore.composition import Composition
from paracore.testing.adversarial import random_composition
from paracore.testing.problems import KINDS, Case, random_case

__all__ = ["cases", "compositions", "pairs"]

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
