"""The digits problem that the benchmarks share: one sample a seed, of the class that the seed's last digit names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import paracore

__all__ = ["digits_seeds"]


def digits_seeds(seeds: Sequence[int], guidance: float, steps: int) -> tuple[paracore.Problem, paracore.Evaluator]:
    """Flow-matching Euler on the shipped network: the problem of these seeds, and what evaluates it."""
    model, scheme = paracore.registry.make("model", "digits"), paracore.schemes.flow_euler(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x0 = torch.stack([torch.randn(model.shape, generator=generator) for generator in generators])
    labels = torch.tensor([seed % model.classes for seed in seeds])
    return paracore.Problem(scheme, x0), paracore.evaluators.batched(
        model.denoiser(scheme, labels, guidance), max_batch=64
    )
