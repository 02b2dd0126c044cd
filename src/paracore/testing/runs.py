"""What checks of behaviour share: trials of a subject, their runs, and comparing these."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from paracore.request import Denoiser
from paracore.schemes import flow_euler
from paracore.testing.drive import CheckFailure, Run, drive
from paracore.testing.hosts import Trial, cases, trials
from paracore.testing.problems import Case, exponential_scheme, make_case
from paracore.testing.subject import Subject

__all__ = ["SOME", "STEPS", "all_trials", "between_rounds", "compare", "easy_case", "easy_cases", "plain_run", "run"]
__all__ += ["seeded", "some_trials"]

STEPS = 7
"""Steps of the schemes."""

SOME = ("flow", "multistep", "ddpm", "table-memory")
"""Kinds of schemes for checks that need several runs each."""


def all_trials(subject: Subject) -> list[Trial]:
    """Over every kind of scheme, at tolerance 0 and above.

    Raises:
        CheckFailure: if the subject runs on no kind of scheme at all.
    """
    found: list[Trial] = []
    for case in cases(steps=STEPS):
        hosts = 2 if case.label.split()[0] in SOME else 1
        found += [*trials(subject, case, hosts=hosts), *trials(subject, case, tolerance=1e-2, hosts=1)]
    if not found:
        why = "; ".join(sorted(subject.memo.get("refusals", ()))[:3])
        raise CheckFailure(f"it runs on no kind of scheme{': ' + why if why else ''}")
    return found


def some_trials(subject: Subject, tolerance: float | None = None) -> list[Trial]:
    """Over some kinds of schemes. Decisions of a stopping rule show where it has something to accept."""
    if tolerance is None:
        tolerance = 0.2 if subject.kind == "stopping" else 1e-2
    found: list[Trial] = []
    for number, case in enumerate(cases(kinds=SOME, steps=STEPS)):
        found += trials(subject, case, tolerance=tolerance, hosts=1 + number % 2)
    return found or all_trials(subject)[:2]


def run(trial: Trial, network: Denoiser | None = None, **options: Any) -> Run:
    """Drive a trial's fresh sampler; what it raises is named."""
    try:
        return drive(trial.make(), trial.case.problem, network or trial.case.network, max_batch=None, **options)
    except CheckFailure as error:
        raise CheckFailure(f"{trial.label}: {error}") from error
    except Exception as error:
        raise CheckFailure(f"{trial.label}: raised {type(error).__name__}: {error}") from error


def plain_run(subject: Subject, trial: Trial) -> Run:
    """The undisturbed run of a trial, made once."""
    key = f"run {trial.label}"
    if key not in subject.memo:
        subject.memo[key] = run(trial)
    found: Run = subject.memo[key]
    return found


def compare(left: Run, right: Run, what: str, label: str) -> None:
    """Both asked the same, bit for bit.

    Raises:
        CheckFailure.
    """
    for number, (a, b) in enumerate(zip(left.asked, right.asked, strict=False)):
        if (a.nodes, a.samples) != (b.nodes, b.samples):
            raise CheckFailure(f"{label}: {what}: round {number + 1} asks for other nodes")
        if not torch.equal(torch.nan_to_num(a.states), torch.nan_to_num(b.states)):
            raise CheckFailure(f"{label}: {what}: round {number + 1} asks at other states")
    if len(left.asked) != len(right.asked):
        raise CheckFailure(f"{label}: {what}: {len(left.asked)} rounds against {len(right.asked)}")
    if not torch.equal(torch.nan_to_num(left.result.sample), torch.nan_to_num(right.result.sample)):
        raise CheckFailure(f"{label}: {what}: other samples")


@contextmanager
def seeded(seed: int) -> Iterator[Callable[[], bool]]:
    """The global random generators from a seed; they are as they were afterwards.

    Yields:
        Whether nothing was drawn since.
    """
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    begun = _generators()
    try:
        yield lambda: _generators() == begun
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


def _generators() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, np.asarray(keys).tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()


def between_rounds(state: Any) -> bool:
    """Whether a checkpoint may be taken: one waits for the end of a linear solve's round."""
    return getattr(state, "krylov", None) is None


def easy_case(steps: int, batch: int = 2) -> Case:
    """``dx/dt = -x / 2`` and a small coupling, from 0 to 1."""
    return make_case(exponential_scheme(steps), seed=1, batch=batch, dim=3, stiffness=0.5, linear=True)


def easy_cases(steps: int) -> list[Case]:
    """The easy system without noise levels, and on a scheme that has them."""
    return [easy_case(steps), make_case(flow_euler(steps), seed=1, batch=2, dim=3, stiffness=0.5, linear=True)]
