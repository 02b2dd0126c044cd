"""HunyuanVideo parallel in time: ``python examples/diffusers/hunyuan_video.py --window 8``."""

from __future__ import annotations

import tiny
from common import Family, main

FAMILY = Family(
    name="hunyuan_video",
    pipeline="HunyuanVideoPipeline",
    repository="hunyuanvideo-community/HunyuanVideo",
    prompt="A sailing boat leaves a small harbour at dawn, gulls circling above it",
    steps=50,
    call={"height": 320, "width": 512, "num_frames": 61, "guidance_scale": 6.0},
    tiny=tiny.hunyuan_video,
    fps=15,
)

if __name__ == "__main__":
    main(FAMILY)
