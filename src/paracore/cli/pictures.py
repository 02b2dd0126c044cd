"""Grids of samples as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

__all__ = ["grid", "labelled_rows"]

_GAP = 2
_LEAST = 56  # pixels; smaller pictures are enlarged by a whole factor


def _tiles(images: torch.Tensor) -> list[Image.Image]:
    """``(B, H, W)`` or ``(B, H, W, 3)`` in [0, 1]; what is not finite is black."""
    shaped = images if images.ndim == 4 else images[..., None].expand(*images.shape, 3)
    pixels = (torch.nan_to_num(shaped.detach().cpu().float(), 0.0, 0.0, 0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    factor = max(1, -(-_LEAST // max(pixels.shape[1], 1)))
    made = [Image.fromarray(tile.numpy()) for tile in pixels]
    return [m.resize((m.width * factor, m.height * factor), Image.Resampling.NEAREST) for m in made]


def _png(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str]) -> bytes:
    width, height = rows[0][0].size
    margin = 0
    if any(labels):
        ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        margin = 2 * _GAP + int(max(ruler.textlength(label) for label in labels))
    columns = max(len(row) for row in rows)
    size = (margin + columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        top = _GAP + r * (height + _GAP)
        if labels[r]:
            draw.text((_GAP, top + height // 2 - 6), labels[r], fill="black")
        for c, tile in enumerate(row):
            sheet.paste(tile, (margin + _GAP + c * (width + _GAP), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def grid(images: torch.Tensor, columns: int = 10) -> bytes:
    """All pictures, ``columns`` in a row."""
    tiles = _tiles(images)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return _png(rows, [""] * len(rows))


def labelled_rows(rows: Sequence[tuple[str, torch.Tensor]]) -> bytes:
    """One labelled row of pictures each."""
    return _png([_tiles(images) for _, images in rows], [label for label, _ in rows])
