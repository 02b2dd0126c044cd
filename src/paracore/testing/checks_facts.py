"""Checks of the facts that the engine owns: a part cannot break them, a sampler of its own can."""

from __future__ import annotations

from typing import Any

import torch

from paracore.engine import Engine
from paracore.sampler import Sampler
from paracore.status import Status
from paracore.testing.drive import AfterNode, CheckFailure, ForSample
from paracore.testing.hosts import Trial, cases, trials
from paracore.testing.runs import (
    all_trials,
    between_rounds,
    plain_run,
    run,
    some_trials,
)
from paracore.testing.subject import subject_of

__all__ = [
    "check_at_most_n_rounds",
    "check_contains_nonfinite",
    "check_sequential_at_tolerance_zero",
]


def check_sequential_at_tolerance_zero(thing: Any) -> None:
    """At tolerance 0 the answer is the sequential sampler's, bit for bit, on every kind of scheme."""
    subject = subject_of(thing)
    more: list[Trial] = []
    if not subject.is_strategy:  # the engine sees to it for parts
        for case in cases(kinds=("flow", "ddim"), steps=24, dtype=torch.float32):
            more += [*trials(subject, case, window=24), *trials(subject, case)]
        for trial in some_trials(subject, tolerance=0.0):
            kept, exact = run(trial, trajectory=True).result.trajectory, trial.case.reference(trajectory=True)
            if kept is None or not torch.equal(kept, exact):
                raise CheckFailure(f"{trial.label}: asked for, the trajectory is not the sequential sampler's")
    for trial in all_trials(subject) + more:
        if trial.label.endswith("tolerance 0"):
            found = plain_run(subject, trial)
            if not torch.equal(found.result.sample, trial.case.reference()):
                worst = float((found.result.sample - trial.case.reference()).abs().max())
                raise CheckFailure(f"{trial.label}: the sample is off by {worst:.2g} from the sequential one")
            if not all(status is Status.EXACT for status in found.result.status):
                names = ", ".join(status.name for status in found.result.status)
                raise CheckFailure(f"{trial.label}: status {names}; EXACT is what tolerance 0 ends with")


def check_at_most_n_rounds(thing: Any) -> None:
    """Never more rounds than sequential sampling, and rounds and evaluations are reported as they were."""
    subject = subject_of(thing)
    for trial in all_trials(subject):
        found, steps = plain_run(subject, trial), trial.case.problem.scheme.steps
        result, label = found.result, trial.label
        rounds = [len(found.of(b)) for b in range(trial.case.problem.batch)]
        if max(rounds) > steps:
            raise CheckFailure(f"{label}: {max(rounds)} rounds for {steps} steps")
        if result.rounds.tolist() != rounds:
            raise CheckFailure(f"{label}: reports {result.rounds.tolist()} rounds for the samples; it made {rounds}")
        if not result.ok or result.sample.shape != trial.case.problem.x0.shape:
            raise CheckFailure(f"{label}: ended with {result!r}, not with a sample for each")
        if result.total_rounds != len(found.asked):
            raise CheckFailure(f"{label}: reports {result.total_rounds} rounds; it made {len(found.asked)} requests")
        rows = [sum(asked.samples.count(b) for asked in found.asked) for b in range(len(result.sample))]
        if result.evaluations.tolist() != rows:
            raise CheckFailure(f"{label}: reports {result.evaluations.tolist()} evaluations; it asked for {rows} rows")
        largest = max(len(asked.nodes) for asked in found.asked)
        if result.largest_request != largest:
            raise CheckFailure(f"{label}: reports a largest request of {result.largest_request}; it was {largest}")


def check_contains_nonfinite(thing: Any) -> None:
    """Outputs that are not finite raise nothing, and end their sample with a status: it is not asked for any more."""
    for trial in some_trials(subject_of(thing)):
        steps = trial.case.problem.scheme.steps
        found = run(trial, AfterNode(trial.case.network, steps // 2, "nan"))
        wrong = [status for status in found.result.status if status is not Status.NONFINITE_OUTPUT]
        if wrong and isinstance(trial.make(), Engine):  # others may end before they see it
            names = ", ".join(status.name for status in found.result.status)
            raise CheckFailure(f"{trial.label}: outputs from node {steps // 2 + 1} on are NaN, the status is {names}")
        if not bool(torch.isfinite(found.result.sample).all()):
            raise CheckFailure(f"{trial.label}: the newest accepted state is not finite")
        _none_after_the_end(trial)


def _none_after_the_end(trial: Trial) -> None:
    """A sample whose status is known is in no later request."""
    ended: list[list[bool]] = []

    def noted(sampler: Sampler, state: Any) -> tuple[Sampler, Any]:
        if between_rounds(state):
            statuses = sampler.result(state, unfinished=Status.RUNNING).status
            ended.append([status is not Status.RUNNING for status in statuses])
        else:
            ended.append(ended[-1] if ended else [False] * trial.case.problem.batch)
        return sampler, state

    found = run(trial, ForSample(trial.case.network, 1, 2, "nan"), between=noted)
    for number, asked in enumerate(found.asked[1:]):
        late = [b for b in set(asked.samples) if ended[number][b]]
        if late:
            raise CheckFailure(f"{trial.label}: request {number + 2} asks for sample {late[0]}, which has ended")
