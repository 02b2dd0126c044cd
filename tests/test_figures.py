"""The figures that the documents state, on the digits network: rounds and errors, never times."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import paracore


def digits(seeds, guidance, max_batch):
    model = paracore.registry.make("model", "digits")
    scheme = paracore.schemes.flow_euler(50)
    x0 = torch.stack([torch.randn(model.shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
    labels = torch.tensor([s % 10 for s in seeds])
    evaluator = paracore.evaluators.batched(model.denoiser(scheme, labels, guidance), max_batch=max_batch)
    return paracore.Problem(scheme, x0), evaluator


def test_the_sequential_bits_in_at_most_forty_rounds():
    problem, evaluator = digits([0], 4.0, max_batch=1)
    result = paracore.solve(paracore.sampler("picard", window=8, tolerance=0), problem, evaluator)
    assert torch.equal(result.sample, paracore.sequential(problem, evaluator))
    assert result.total_rounds <= 40
    assert result.status == (paracore.Status.EXACT,)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "speedup"), [(2, 1.85), (4, 3.2), (8, 4.6)])
def test_picard_on_digits(window, speedup):
    problem, evaluator = digits(range(100, 132), 4.0, max_batch=32)
    exact = paracore.sequential(problem, evaluator)
    result = paracore.solve(paracore.sampler("picard", window=window), problem, evaluator)
    error = ((result.sample - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).numpy()
    assert 50 / result.rounds.mean() >= speedup
    assert error.mean() <= 0.01
    assert np.quantile(error, 0.95) <= 0.025
