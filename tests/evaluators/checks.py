"""What every evaluator must do; the same checks for all of them, in this process and on every rank."""

from __future__ import annotations

import torch

import paracore
from evaluators.networks import Matrix, Smooth
from paracore.schemes import flow_euler
from paracore.testing.problems import mixed_request as make_request

__all__ = ["SIZES", "Split", "check_rows", "check_solve", "check_tangents", "make_request", "problem"]

SIZES = (1, 2, 3, 5, 8)


def problem(batch: int = 3, steps: int = 12, size: int = 48, seed: int = 3) -> paracore.Problem:
    generator = torch.Generator().manual_seed(seed)
    return paracore.Problem(flow_euler(steps), torch.randn(batch, size, generator=generator))


def check_rows(evaluator: paracore.Evaluator, dtype: torch.dtype = torch.float32) -> None:
    """Order kept, whatever the number of rows; each row as if it were alone; the request untouched."""
    alone = paracore.evaluators.batched(Smooth(), max_batch=1)
    for rows in SIZES:
        request = make_request(rows, rows, dtype=dtype)
        before = request.states.clone()
        found, expected = evaluator.evaluate(request), alone.evaluate(request)
        assert torch.equal(found.values, expected.values), rows
        assert found.values.dtype == dtype
        assert torch.equal(request.states, before)
        assert found.calls == rows
        assert (found.jvps, found.incidents) == (None, ())


def check_tangents(evaluator: paracore.Evaluator) -> None:
    alone = paracore.evaluators.batched(Smooth(), jvp=True)
    assert "jvp" in evaluator.capabilities
    for rows in SIZES:
        request = make_request(rows, rows, tangents=True)
        found, expected = evaluator.evaluate(request), alone.evaluate(request)
        assert torch.equal(found.values, expected.values)
        assert found.jvps is not None
        torch.testing.assert_close(found.jvps, expected.jvps, rtol=1e-6, atol=1e-6)
        assert found.calls == 2 * rows


def check_solve(evaluator: paracore.Evaluator, shards: int) -> None:
    """The batched evaluator's bits with the same calls; within 1e-6 of it with others."""
    task, network = problem(), Matrix()
    for name, window in (("picard", 4), ("ropa", 2), ("picard", 1)):
        sampler = paracore.sampler(name, window=window)
        found = paracore.solve(sampler, task, evaluator)
        same = paracore.solve(sampler, task, Split(network, shards))
        assert torch.equal(found.sample, same.sample), (name, window)
        assert found.evaluations.tolist() == same.evaluations.tolist()
        near = paracore.solve(sampler, task, paracore.evaluators.batched(network))
        assert float((found.sample - near.sample).norm() / near.sample.norm()) < 1e-6


class Split:
    """The batched evaluator, called for each share by itself: the same calls as sharded evaluators make."""

    capabilities = frozenset[str]()

    def __init__(self, network: paracore.Denoiser, shards: int) -> None:
        self._inner, self._shards = paracore.evaluators.batched(network), shards

    def evaluate(self, request: paracore.Request) -> paracore.Outputs:
        size, more = divmod(len(request), self._shards)
        values, begin = [], 0
        for i in range(self._shards):
            end = begin + size + (i < more)
            if end > begin:
                part = paracore.Request(
                    request.nodes[begin:end],
                    request.samples[begin:end],
                    request.states[begin:end],
                    request.times[begin:end],
                )
                values.append(self._inner.evaluate(part).values)
            begin = end
        return paracore.Outputs(torch.cat(values), calls=len(request))
