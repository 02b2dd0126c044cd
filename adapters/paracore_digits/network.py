"""The class-conditional UNet behind ``digits``: plain torch, about 1.1 million parameters."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["CLASSES", "NULL_CLASS", "DigitsUNet"]

CLASSES = 10
NULL_CLASS = CLASSES
"""The label that stands for "no class": what the unconditional pass of guidance is asked."""


class _TimeEmbedding(nn.Module):
    """Sines and cosines of the flow time, then a small perceptron."""

    frequencies: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 4
        frequencies = torch.exp(torch.linspace(math.log(0.5), math.log(100.0), half)) * math.pi
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        angle = t[:, None] * self.frequencies
        out: torch.Tensor = self.mlp(torch.cat([angle.sin(), angle.cos()], dim=1))
        return out


class _Residual(nn.Module):
    """Two 3x3 convolutions around a scale and shift taken from the embedding."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        out: torch.Tensor = self.skip(x) + self.conv2(nn.functional.silu(h))
        return out


class _Attention(nn.Module):
    """Self-attention over the pixels; written out so that forward-mode derivatives work."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(rows, 3, self.heads, channels // self.heads, -1)
        q, k, v = qkv.unbind(1)
        weights = torch.softmax(q.transpose(-1, -2) @ k / math.sqrt(q.shape[-2]), dim=-1)
        mixed = (v @ weights.transpose(-1, -2)).reshape(rows, channels, height, width)
        out: torch.Tensor = x + self.out(mixed)
        return out


class DigitsUNet(nn.Module):
    """Velocity network for 28x28 digits: ``v(x, t, label)`` with ``x_t = (1 - t) data + t noise``.

    ``forward(x, t, labels)``: ``x (M, 1, 28, 28)`` float, ``t (M,)`` in [0, 1], ``labels (M,)`` int64 in
    0..10 (:data:`NULL_CLASS` = no class) -> velocity ``(M, 1, 28, 28)``.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), embedding: int = 128) -> None:
        super().__init__()
        a, b, c = widths
        self.time = _TimeEmbedding(embedding)
        self.label = nn.Embedding(CLASSES + 1, embedding)
        self.stem = nn.Conv2d(1, a, 3, padding=1)
        self.down1 = _Residual(a, a, embedding)
        self.shrink1 = nn.Conv2d(a, a, 3, stride=2, padding=1)
        self.down2 = _Residual(a, b, embedding)
        self.shrink2 = nn.Conv2d(b, b, 3, stride=2, padding=1)
        self.down3 = _Residual(b, c, embedding)
        self.middle1 = _Residual(c, c, embedding)
        self.attention = _Attention(c, heads=4)
        self.middle2 = _Residual(c, c, embedding)
        self.up3 = _Residual(c + c, c, embedding)
        self.up2 = _Residual(c + b, b, embedding)
        self.up1 = _Residual(b + a, a, embedding)
        self.norm = nn.GroupNorm(8, a)
        self.head = nn.Conv2d(a, 1, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        e = nn.functional.silu(self.time(t.to(x.dtype)) + self.label(labels))
        h1 = self.down1(self.stem(x), e)
        h2 = self.down2(self.shrink1(h1), e)
        h3 = self.down3(self.shrink2(h2), e)
        h = self.middle2(self.attention(self.middle1(h3, e)), e)
        h = self.up3(torch.cat([h, h3], dim=1), e)
        h = nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")
        h = self.up2(torch.cat([h, h2], dim=1), e)
        h = nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")
        h = self.up1(torch.cat([h, h1], dim=1), e)
        out: torch.Tensor = self.head(nn.functional.silu(self.norm(h)))
        return out
