"""Stable Diffusion 3.5 parallel in time: ``python examples/diffusers/sd35.py --window 8``."""

from __future__ import annotations

import tiny
from common import Family, main

FAMILY = Family(
    name="sd35",
    pipeline="StableDiffusion3Pipeline",
    repository="stabilityai/stable-diffusion-3.5-large",
    prompt="A lighthouse on a cliff in a storm, seen from the sea, oil on canvas",
    steps=50,
    call={"negative_prompt": "", "height": 1024, "width": 1024, "guidance_scale": 4.5},
    tiny=tiny.sd35,
)

if __name__ == "__main__":
    main(FAMILY)
