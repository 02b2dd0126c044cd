"""Parallel in time over a network that is itself split over ranks.

    torchrun --nproc-per-node=4 examples/distributed/split_denoiser.py

The ranks form a grid of ``time`` x ``tensor``:

    rank 0  rank 1    one copy of the network, split over the two ranks (tensor parallel)
    rank 2  rank 3    another copy
      |       |
      time groups: the ranks that hold the same part, among which the rows of a round are shared out

An attention block has its heads, and an MLP its hidden units, split over the tensor group: each ends in a sum over
it. ``paracore.evaluators.distributed`` gets the time group, and knows nothing of the other. The answer is compared with
that of the unsplit network, sampled sequentially; rank 0 prints both as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed as dist

import paracore

TOKENS, WIDTH, HEADS, HIDDEN = 16, 32, 4, 128


class Block(torch.nn.Module):
    """Attention and an MLP on ``(M, TOKENS, WIDTH)``; of ``parts`` equal parts this is number ``part``.

    Every rank draws the same whole weights and keeps its part: rows of what comes first (heads, hidden units), columns
    of what follows. ``total`` sums over the tensor group.
    """

    def __init__(self, seed: int, part: int, parts: int, total: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        if HEADS % parts or HIDDEN % parts:
            raise ValueError(f"{HEADS} heads and {HIDDEN} hidden units cannot be split into {parts} parts")
        generator = torch.Generator().manual_seed(seed)

        def kept(*shape: int, split: int) -> torch.nn.Parameter:
            whole = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            return torch.nn.Parameter(whole.chunk(parts, dim=split)[part].clone(), requires_grad=False)

        size = WIDTH // HEADS
        self.qkv = kept(HEADS, 3 * size, WIDTH, split=0)
        self.join = kept(HEADS, WIDTH, size, split=0)
        self.up = kept(HIDDEN, WIDTH, split=0)
        self.down = kept(WIDTH, HIDDEN, split=1)
        self.total = total

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        q, k, v = torch.einsum("mtw,hsw->mhts", _normal(h), self.qkv).chunk(3, dim=-1)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        h = h + self.total(torch.einsum("mhts,hws->mtw", attended, self.join))
        inner = torch.nn.functional.gelu(_normal(h) @ self.up.T)
        return h + self.total(inner @ self.down.T)


class Denoiser(torch.nn.Module):
    """``x (M, TOKENS, WIDTH)``, ``t (M,)`` -> velocity; two blocks."""

    def __init__(self, part: int, parts: int, total: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(seed, part, parts, total) for seed in range(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Any = None) -> torch.Tensor:
        h = x + torch.sin(t)[:, None, None]
        for block in self.blocks:
            h = block(h)
        return _normal(h) - 0.5 * x


def _normal(h: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(h, h.shape[-1:])


def groups(tensor: int) -> tuple[Any, Any, int]:
    """This rank's time group and tensor group, and its place in the latter.

    ``new_group`` is collective over *all* ranks: each makes every group, in the same order, its own or not.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    if world % tensor:
        raise ValueError(f"{world} ranks cannot be split into tensor groups of {tensor}")
    mine = {}
    for first in range(0, world, tensor):  # neighbours: they exchange in every layer
        members = list(range(first, first + tensor))
        group = dist.new_group(members)
        if rank in members:
            mine["tensor"] = group
    for place in range(tensor):  # far apart: they exchange once a round
        members = list(range(place, world, tensor))
        group = dist.new_group(members)
        if rank in members:
            mine["time"] = group
    return mine["time"], mine["tensor"], rank % tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tensor", type=int, default=2, help="ranks that one copy of the network is split over")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    options = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    time_group, tensor_group, place = groups(options.tensor)

    def total(part: torch.Tensor) -> torch.Tensor:
        part = part.contiguous()
        dist.all_reduce(part, group=tensor_group)
        return part

    # paracore makes the ranks of a time group agree on x0; that the time groups do among each other is up to us
    x0 = torch.randn(options.samples, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)).to(device)
    dist.broadcast(x0, src=0)
    problem = paracore.Problem(paracore.schemes.flow_euler(options.steps), x0)
    sampler = paracore.sampler("picard", window=options.window, tolerance=options.tolerance)

    denoiser = Denoiser(place, options.tensor, total).to(device)
    evaluator = paracore.evaluators.distributed(denoiser, group=time_group)
    result = paracore.solve(sampler, problem, evaluator)

    samples = [torch.empty_like(x0) for _ in range(dist.get_world_size())]
    dist.all_gather(samples, result.sample.contiguous())
    if dist.get_rank() == 0:
        whole = Denoiser(0, 1, lambda part: part).to(device)
        expected = paracore.sequential(problem, paracore.evaluators.batched(whole))
        found = {
            "ranks": dist.get_world_size(),
            "time": dist.get_world_size(time_group),
            "tensor": dist.get_world_size(tensor_group),
            "steps": options.steps,
            "rounds": result.total_rounds,
            "weights_of_a_rank": sum(p.numel() for p in denoiser.parameters()),
            "weights": sum(p.numel() for p in whole.parameters()),
            "same_on_all_ranks": all(torch.equal(sample, samples[0]) for sample in samples),
            "relative_error": float((result.sample - expected).norm() / expected.norm()),
        }
        print(json.dumps(found), flush=True)
    evaluator.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
