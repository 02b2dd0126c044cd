"""A small plugin for tests: a class-conditional model that can be told to misbehave."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

import paracore

MISBEHAVIOURS = ("", "nan", "shape", "crash", "interrupt", "slow")


class StubModel(paracore.Model):
    """Pulls towards a smooth picture of the class. Nothing was trained.

    Args:
        trouble: what to do at a late node: nan, shape, crash, interrupt, slow.
        pictures: whether samples are pictures.
    """

    reference = "tests/stub_plugin.py"

    def __init__(self, *, trouble: str = "", pictures: bool = True) -> None:
        if trouble not in MISBEHAVIOURS:
            raise paracore.errors.ConfigurationError(f"trouble is {trouble!r}; allowed: {', '.join(MISBEHAVIOURS)}")
        self.shape, self.classes = (1, 6, 6), 3
        self.trouble, self.pictures = trouble, pictures

    def denoiser(
        self, scheme: paracore.schemes.Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0
    ) -> StubDenoiser:
        self.check_request(labels, guidance)
        return StubDenoiser(self, scheme, labels, guidance)

    def images(self, samples: torch.Tensor) -> torch.Tensor | None:
        return samples[:, 0].clamp(0, 1) if self.pictures else None


class StubDenoiser:
    """``D(x) = 0.6 tanh(x) + guidance * 0.2 * class``."""

    def __init__(self, model: StubModel, scheme: Any, labels: torch.Tensor | None, guidance: float) -> None:
        self.model, self.scheme, self.labels, self.guidance = model, scheme, labels, guidance
        self.calls_per_evaluation = 2 if guidance != 1.0 else 1
        self.late = scheme.steps // 2

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: paracore.Rows, /) -> torch.Tensor:
        late = bool((rows.node >= self.late).any())
        trouble = self.model.trouble if late else ""
        if trouble == "shape":
            return x[:, :, :2]
        if trouble == "crash":
            raise RuntimeError("the network\nfell over")
        if trouble == "interrupt":
            raise KeyboardInterrupt
        if trouble == "slow":
            print("asleep", flush=True)
            time.sleep(60.0)
        label = torch.zeros(len(x)) if self.labels is None else self.labels[rows.sample].float()
        data = 0.6 * torch.tanh(x) + self.guidance * 0.2 * label.reshape(-1, 1, 1, 1)
        if trouble == "nan":
            data = data * float("nan")
        return self.scheme.output_from_data(rows.node, x, data)


def shy(strength: float, *, window: int = 4) -> paracore.Sampler:
    """A preset with a required option."""
    return paracore.compose(window=window)


def windowless() -> paracore.Sampler:
    """A preset without options; Karras et al. 2022 have nothing to do with it. Really."""
    return paracore.compose(window=2, name="windowless")


@paracore.hookimpl
def paracore_models() -> Mapping[str, Callable[..., paracore.Model]]:
    return {"stub": StubModel, "liar": dict}


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    return {"shy": shy, "windowless": windowless}
