"""FLUX.1 parallel in time: ``python examples/diffusers/flux.py --window 8``."""

from __future__ import annotations

import tiny
from common import Family, main

FAMILY = Family(
    name="flux",
    pipeline="FluxPipeline",
    repository="black-forest-labs/FLUX.1-dev",
    prompt="A lighthouse on a cliff in a storm, seen from the sea, oil on canvas",
    steps=50,
    call={"height": 1024, "width": 1024, "guidance_scale": 3.5, "max_sequence_length": 512},
    tiny=tiny.flux,
)

if __name__ == "__main__":
    main(FAMILY)
