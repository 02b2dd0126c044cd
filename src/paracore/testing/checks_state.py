"""Checks of repeatability, and of the state."""

from __future__ import annotations

import io
from typing import Any

import torch

from paracore.errors import CheckpointError, ConfigurationError
from paracore.sampler import Sampler
from paracore.schemes import flow_euler
from paracore.testing.drive import CheckFailure, Run, drive
from paracore.testing.hosts import Trial, cases, trials
from paracore.testing.problems import Case, exponential_scheme, make_case
from paracore.testing.runs import (
    STEPS,
    between_rounds,
    compare,
    plain_run,
    run,
    seeded,
    some_trials,
)
from paracore.testing.subject import Subject, subject_of

__all__ = [
    "check_deterministic",
    "check_state_bounded",
    "check_state_round_trips",
    "check_stateless",
]


def check_deterministic(thing: Any) -> None:
    """The same inputs give the same bits, whatever the global random generators say, and leave those alone."""
    subject = subject_of(thing)
    for trial in some_trials(subject):
        first = plain_run(subject, trial)
        with seeded(1) as nothing_drawn:
            second = run(trial)
            if not nothing_drawn():
                raise CheckFailure(
                    f"{trial.label}: draws from a global random generator; keep one in the state, from a seed"
                )
        compare(first, second, "a second run", trial.label)


def check_stateless(thing: Any) -> None:
    """Nothing is kept outside the state: one instance serves several solves, one after the other and interleaved."""
    subject = subject_of(thing)
    for trial in some_trials(subject):
        fresh = plain_run(subject, trial)
        other = make_case(flow_euler(STEPS + 5), seed=99, batch=2, dim=3, arithmetic=True)
        shared = trial.make()

        def used(sampler: Sampler = shared, trial: Trial = trial, case: Case = trial.case) -> Run:
            try:
                return drive(sampler, case.problem, case.network, max_batch=None)
            except CheckFailure:
                raise
            except Exception as error:
                raise CheckFailure(f"{trial.label}: used again it raised {type(error).__name__}: {error}") from error

        if not subject.bound and _takes(shared, other):
            try:
                drive(shared, other.problem, other.network)
            except Exception as error:
                raise CheckFailure(f"{trial.label}: used again it raised {type(error).__name__}: {error}") from error
        compare(fresh, used(), "the same instance, used before", trial.label)
        compare(fresh, _interleaved(shared, trial.case), "the same instance in two solves at once", trial.label)
    if subject.kind == "sampler":
        _no_memory_of_others(subject)


def _takes(sampler: Sampler, case: Case) -> bool:
    try:
        sampler.start(case.problem)
    except ConfigurationError:
        return False
    return True


def _no_memory_of_others(subject: Subject) -> None:
    """Whether a longer problem was solved before with the very same settings, by another instance, does not matter."""
    (short,), (long,) = (list(cases(kinds=("flow",), steps=steps)) for steps in (STEPS, 3 * STEPS))
    settings = 0.0101, 0.0101 * (1 + 1e-12)  # the same, and yet told apart by whatever remembers
    for trial in trials(subject, long, tolerance=settings[0]):
        run(trial)
    first, second = ([run(t) for t in trials(subject, short, tolerance=tolerance)] for tolerance in settings)
    for one, other in zip(first, second, strict=True):
        compare(one, other, "after a longer problem, solved by another instance", subject.label)


def _interleaved(sampler: Sampler, case: Case) -> Run:
    """A run, in between whose rounds the same sampler advances a second one."""
    evaluator = case.evaluator(max_batch=None, jvp="jvp" in sampler.needs)
    second = sampler.start(case.problem)

    def between(own: Sampler, state: Any) -> tuple[Sampler, Any]:
        nonlocal second
        request = sampler.request(second)
        if request is not None:
            second = sampler.advance(second, evaluator.evaluate(request))
            request = sampler.request(second)
            if request is not None:
                second = sampler.advance(second, evaluator.evaluate(request))
        return own, state

    return drive(sampler, case.problem, case.network, between=between, max_batch=None)


def check_state_round_trips(thing: Any) -> None:
    """The state is plain data: saved and restored between any two rounds, it gives the same bits."""
    subject = subject_of(thing)
    for trial in some_trials(subject):
        plain = plain_run(subject, trial)

        def restored(sampler: Sampler, state: Any, trial: Trial = trial) -> tuple[Sampler, Any]:
            if not between_rounds(state):
                return sampler, state
            try:
                data = sampler.plain(state)
                file = io.BytesIO()
                torch.save(data, file)
                file.seek(0)
                again = trial.make()
                return again, again.restore(trial.case.problem, torch.load(file, weights_only=True))
            except CheckpointError as error:
                raise CheckFailure(f"{trial.label}: {error}") from error
            except Exception as error:
                raise CheckFailure(f"{trial.label}: a saved state cannot be loaded again: {error}") from error

        compare(plain, run(trial, between=restored), "saved and restored between all rounds", trial.label)
        if subject.is_strategy or not trial.case.problem.scheme.stochastic:  # a sampler may free noise as it advances
            compare(plain, run(trial, twice=True), "advanced twice from the same state", trial.label)


def check_state_bounded(thing: Any) -> None:
    """The state holds a few windows, not the whole trajectory: it does not grow with the rounds."""
    subject = subject_of(thing)
    scheme = exponential_scheme(60)
    case = make_case(scheme, seed=5, batch=1, dim=4, stiffness=3.0, arithmetic=True)
    for trial in trials(subject, case, window=3, tolerance=1e-9):
        sizes: list[int] = []

        def measured(sampler: Sampler, state: Any, sizes: list[int] = sizes) -> tuple[Sampler, Any]:
            if between_rounds(state):
                sizes.append(_numbers(sampler.plain(state)))
            return sampler, state

        run(trial, between=measured)
        early, late = max(sizes[: len(sizes) // 3], default=0), max(sizes[len(sizes) // 2 :], default=0)
        if late > 1.3 * early + 64:
            raise CheckFailure(f"{trial.label}: the state grew from {early} numbers to {late}")


def _numbers(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(_numbers(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(_numbers(v) for v in value)
    return 1
