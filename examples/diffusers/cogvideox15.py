"""CogVideoX 1.5 parallel in time: ``python examples/diffusers/cogvideox15.py --window 8``."""

from __future__ import annotations

from typing import Any

import tiny
from common import Family, main


def prepare(pipe: Any) -> None:
    """DDIM instead of the stochastic scheduler: the same trajectory whatever its number of steps."""
    from diffusers import CogVideoXDDIMScheduler

    pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")


FAMILY = Family(
    name="cogvideox15",
    pipeline="CogVideoXPipeline",
    repository="THUDM/CogVideoX1.5-5B",
    prompt="A sailing boat leaves a small harbour at dawn, gulls circling above it",
    steps=50,
    call={"height": 768, "width": 1360, "num_frames": 81, "guidance_scale": 6.0, "use_dynamic_cfg": True},
    tiny=tiny.cogvideox15,
    prepare=prepare,
    fps=16,
)

if __name__ == "__main__":
    main(FAMILY)
