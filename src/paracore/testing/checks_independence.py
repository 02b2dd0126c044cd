"""Checks of what may depend on what: rows on earlier rows, samples on themselves."""

from __future__ import annotations

from typing import Any

import torch

from paracore.engine import Engine
from paracore.testing.drive import AfterNode, CheckFailure, ForSample, Run
from paracore.testing.hosts import Trial, cases, trials
from paracore.testing.runs import (
    SOME,
    STEPS,
    plain_run,
    run,
    some_trials,
)
from paracore.testing.subject import Subject, subject_of
from paracore.testing.watch import evidence

__all__ = [
    "check_batch_independent",
    "check_causal",
]


def check_causal(thing: Any) -> None:
    """What a row does depends on itself and earlier rows: other outputs at later nodes change nothing before them."""
    subject = subject_of(thing)
    for broken, what in evidence(subject).broken if subject.is_strategy else ():
        if broken == "causal":
            raise CheckFailure(what)
    for trial in some_trials(subject):
        sampler = trial.make()
        if isinstance(sampler, Engine) and not all(p.causal for p in sampler.composition.parts.values()):
            continue
        if not isinstance(sampler, Engine) and not getattr(sampler, "causal", False):
            continue
        plain, steps = plain_run(subject, trial), trial.case.problem.scheme.steps
        for node, how in ((1, "other"), (steps // 2, "nan"), (steps // 2, "other")):
            other = run(trial, AfterNode(trial.case.network, node, how))
            _same_before(plain, other, node, f"{trial.label}, {how} outputs after node {node}")


def _same_before(left: Run, right: Run, node: int, label: str) -> None:
    """As long as the front has not passed ``node``: the same front, the same states up to the one after it."""
    for b in range(len(left.result.sample)):
        for number, (mine, others) in enumerate(zip(left.of(b), right.of(b), strict=False)):
            front = min(min(mine), node + 1), min(min(others), node + 1)
            if front[0] != front[1]:
                raise CheckFailure(f"{label}: round {number + 1} stands at node {front[0]} or {front[1]}")
            if front[0] > node:
                break
            for at in sorted(mine.keys() & others.keys()):
                if at <= node + 1 and not torch.allclose(mine[at], others[at], rtol=1e-9, atol=1e-12):
                    raise CheckFailure(f"{label}: round {number + 1} asks at another state of node {at}")


def check_batch_independent(thing: Any) -> None:
    """A sample's answer does not depend on its batch mates, whatever they are."""
    subject = subject_of(thing)
    for broken, what in evidence(subject).broken if subject.is_strategy else ():
        if broken == "batch":
            raise CheckFailure(what)
    steps, most = (11, 0.5) if subject.kind == "selection" else (STEPS, 0.1)  # windows span more rows
    for number, case in enumerate(cases(kinds=SOME, batch=3, steps=steps)):
        tolerance = (0.0, 1e-2, most, 1e-3)[number]
        for trial in trials(subject, case, tolerance=tolerance, hosts=1 + number % 2):
            _independent(subject, trial, tolerance)


def _independent(subject: Subject, trial: Trial, tolerance: float) -> None:
    """Sample 2 alone and beside others; and sample 1, made to finish sooner than the others, alone too."""
    together = run(trial)
    calm = run(trial, ForSample(trial.case.network, 1, 0, "calm"))
    for b in (1, 2):
        for single in trials(subject, trial.case.alone(b), tolerance=tolerance):
            if single.host != trial.host:
                continue
            if b == 2:
                _same_sample(together, b, run(single), 0, f"{trial.label}: sample {b} alone")
            else:
                alone = run(single, ForSample(single.case.network, 0, 0, "calm"))
                _same_sample(calm, b, alone, 0, f"{trial.label}: sample {b}, done sooner than the others, alone")
    broken = run(trial, ForSample(trial.case.network, 1, 2, "nan"))
    huge = run(trial, ForSample(trial.case.network, 1, 3, "huge"))
    for b in (0, 2):
        _same_sample(together, b, broken, b, f"{trial.label}: sample {b} beside one that is not finite")
        _same_sample(together, b, huge, b, f"{trial.label}: sample {b} beside one that overflows")
        _same_sample(together, b, calm, b, f"{trial.label}: sample {b} beside one that is done sooner")


def _same_sample(left: Run, a: int, right: Run, b: int, label: str) -> None:
    mine, others = left.of(a), right.of(b)
    for number, (one, two) in enumerate(zip(mine, others, strict=False)):
        if one.keys() != two.keys():
            raise CheckFailure(f"{label}: request {number + 1} asks for nodes {sorted(two)}, not {sorted(one)}")
        for node in one:
            if not torch.allclose(one[node], two[node], rtol=1e-9, atol=1e-12):
                raise CheckFailure(f"{label}: request {number + 1} asks at another state of node {node}")
    if len(mine) != len(others):
        raise CheckFailure(f"{label}: {len(others)} rounds, not {len(mine)}")
    if not torch.allclose(left.result.sample[a], right.result.sample[b], rtol=1e-9, atol=1e-12):
        raise CheckFailure(f"{label}: another sample")
