"""A thousand random compositions, most of them with parts of nonsense."""

from __future__ import annotations

import collections

import pytest
import torch

import paracore
from paracore.engine import Engine
from paracore.testing.adversarial import random_composition
from paracore.testing.problems import random_case

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.slow
def test_a_thousand_adversarial_compositions(capsys):
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(1000):
        case = random_case(seed, dtype=DTYPES[seed % 3], lockstep=seed % 7 == 0)
        tolerance = 0.0 if seed % 2 == 0 else None
        composition = random_composition(seed, case.problem, tolerance=tolerance, adversarial=0.6, krylov=True)
        result = paracore.solve(Engine(composition), case.problem, case.evaluator(jvp=True), raise_on_failure=False)
        reference = case.reference()
        counts["compositions"] += 1
        counts["samples"] += case.problem.batch
        counts["over N rounds"] += int((result.rounds > result.steps).sum())
        finite = torch.isfinite(result.sample).flatten(1).all(dim=1)
        for b, status in enumerate(result.status):
            exact = torch.equal(result.sample[b], reference[b])
            counts["wrong at tolerance 0"] += tolerance == 0 and not exact
            counts["called exact but is not"] += status is paracore.Status.EXACT and not exact
            counts["non-finite without a status"] += not finite[b] and not status.failed
            counts["failed though the sequential sampler did not"] += status.failed
    with capsys.disabled():
        print("", *(f"{name}: {count}" for name, count in counts.items()), sep="\n")
    assert counts["compositions"] == 1000
    assert not any(count for name, count in counts.items() if name not in ("compositions", "samples"))
