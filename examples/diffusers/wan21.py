"""Wan 2.1 parallel in time: ``python examples/diffusers/wan21.py --window 8``.

The smaller model: ``python examples/diffusers/wan21.py Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
"""

from __future__ import annotations

from typing import Any

import tiny
import torch
from common import Family, main


def parts(repository: str) -> dict[str, Any]:
    """The autoencoder stays in float32: in bfloat16 its videos show artefacts."""
    from diffusers import AutoencoderKLWan

    return {"vae": AutoencoderKLWan.from_pretrained(repository, subfolder="vae", torch_dtype=torch.float32)}


def prepare(pipe: Any) -> None:
    """A shift of 3 is for videos of 480 lines; 5 is for 720."""
    from diffusers import UniPCMultistepScheduler

    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=3.0)


FAMILY = Family(
    name="wan21",
    pipeline="WanPipeline",
    repository="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    prompt="A sailing boat leaves a small harbour at dawn, gulls circling above it",
    steps=50,
    call={
        "negative_prompt": "static, blurred, low quality, deformed, text",
        "height": 480,
        "width": 832,
        "num_frames": 81,
        "guidance_scale": 5.0,
    },
    tiny=tiny.wan21,
    parts=parts,
    prepare=prepare,
    fps=16,
)

if __name__ == "__main__":
    main(FAMILY)
