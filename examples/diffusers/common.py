"""What the examples share: load a pipeline, make it parallel in time, run it, report, save.

Every example is a :class:`Family`, the facts of one model, handed to :func:`main`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

__all__ = ["Family", "Report", "main"]

TINY_STEPS = 20


@attrs.frozen
class Family:
    """One model family.

    Attributes:
        name: of the output file.
        pipeline: name of the pipeline class in diffusers.
        repository: the model on the hub.
        prompt: unless ``--prompt`` is given.
        steps: unless ``--steps`` is given.
        call: further arguments of the call.
        tiny: builds a pipeline of the same class with a few random weights, and the arguments of its call.
        parts: builds components that are loaded differently from the rest, from the name of the repository.
        prepare: changes the loaded pipeline, e.g. its scheduler.
        fps: of a video; None for a picture.
    """

    name: str
    pipeline: str
    repository: str
    prompt: str
    steps: int
    call: dict[str, Any]
    tiny: Callable[[], tuple[Any, dict[str, Any]]]
    parts: Callable[[str], dict[str, Any]] = lambda repository: {}
    prepare: Callable[[Any], None] = lambda pipe: None
    fps: int | None = None


@attrs.frozen
class Report:
    """What a run found; differences are root mean squares of pixels in [0, 1], None without ``--compare``."""

    path: Path
    steps: int
    rounds: int
    evaluations: int
    error_estimate: float | None
    seconds: float
    difference: float | None = None
    shortened_difference: float | None = None


def main(family: Family, arguments: Sequence[str] | None = None) -> Report:
    """Run one example; ``--help`` lists its options."""
    options = parse(family, arguments)
    pipe, call = load(family, options)

    from paracore_diffusers import parallelize

    fast = parallelize(pipe, options.sampler, window=options.window, tolerance=options.tolerance, exact=options.exact)
    try:
        output, seconds = timed(fast, options, call, options.steps)
        last = fast.last
    finally:
        fast.release()
    path = save(output, options.out, family.fps)
    estimate = last.error_estimate
    report = Report(path, options.steps, last.rounds, last.evaluations, estimate, seconds)
    print(
        f"parallel    {last.rounds} rounds for {options.steps} steps, {last.evaluations} evaluations, {seconds:.1f} s"
    )
    print(f"            error estimate {'none' if estimate is None else f'{estimate:.2g}'}, saved as {path}")
    return compare(report, pipe, options, call, output, family.fps) if options.compare else report


def parse(family: Family, arguments: Sequence[str] | None, window: int | str = 8) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"{family.pipeline}, parallel in time.")
    add = parser.add_argument
    add("model", nargs="?", default=family.repository, help="repository or folder (default: %(default)s)")
    add("--prompt", default=family.prompt)
    add("--steps", type=int, help=f"sequential steps to reproduce (default: {family.steps}; {TINY_STEPS} with --tiny)")
    add("--window", type=width, default=window, help="steps worked on at once (default: %(default)s)")
    add("--sampler", help="name of a composition (default: paracore's own)")
    add("--tolerance", type=float, help="largest error allowed; smaller takes more rounds")
    add("--exact", action="store_true", help="bit for bit what the pipeline alone gives")
    add("--compare", action="store_true", help="also run the pipeline alone: all steps, and as many as rounds")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--out", type=Path, help="picture: .png; video: .mp4 (needs imageio and imageio-ffmpeg), .gif or .webp")
    add("--tiny", action="store_true", help="a few random weights instead of the model: nothing to download or to see")
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = TINY_STEPS if options.tiny else family.steps
    if options.out is None:
        suffix = ".png" if family.fps is None else ".gif" if options.tiny else ".mp4"
        options.out = Path(family.name + suffix)
    return options


def width(text: str) -> int | str:
    """Of a window: a number, or ``auto`` on several ranks."""
    return text if text == "auto" else int(text)


def load(family: Family, options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The pipeline on its device, and the arguments of its call."""
    if options.tiny:
        pipe, call = family.tiny()
    else:
        import diffusers

        pipeline = getattr(diffusers, family.pipeline)
        pipe = pipeline.from_pretrained(options.model, torch_dtype=torch.bfloat16, **family.parts(options.model))
        family.prepare(pipe)
        call = {"prompt": options.prompt, **family.call}
    if family.fps is not None and hasattr(pipe.vae, "enable_tiling"):
        pipe.vae.enable_tiling()  # decoding a whole video at once takes more memory than sampling it
    return pipe.to(options.device), call


def timed(pipe: Callable[..., Any], options: argparse.Namespace, call: dict[str, Any], steps: int) -> tuple[Any, float]:
    """The first picture (PIL) or video (list of PIL) of a call, and how long it took."""
    generator = torch.Generator(options.device).manual_seed(options.seed)
    began = time.perf_counter()
    output = pipe(**call, num_inference_steps=steps, generator=generator, output_type="pil")
    if torch.device(options.device).type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return (output.images if hasattr(output, "images") else output.frames)[0], seconds


def compare(
    report: Report, pipe: Any, options: argparse.Namespace, call: dict[str, Any], output: Any, fps: int | None
) -> Report:
    """Run the pipeline alone: with all steps, the reference, and with as many steps as there were rounds."""
    reference, seconds = timed(pipe, options, call, options.steps)
    path = save(reference, options.out.with_stem(f"{options.out.stem}-sequential"), fps)
    print(f"sequential  {options.steps} steps, {seconds:.1f} s, saved as {path}")
    print(f"            parallel differs from it by {(difference := rms(output, reference)):.2g} (RMS of pixels)")
    short, seconds = timed(pipe, options, call, report.rounds)
    path = save(short, options.out.with_stem(f"{options.out.stem}-sequential-{report.rounds}"), fps)
    print(f"sequential  {report.rounds} steps, as many as there were rounds, {seconds:.1f} s, saved as {path}")
    print(f"            differs from all steps by {(shortened := rms(short, reference)):.2g}")
    return attrs.evolve(report, difference=difference, shortened_difference=shortened)


def rms(a: Any, b: Any) -> float:
    """Root mean square of the difference of two pictures or videos, pixels in [0, 1]."""
    first, second = (np.asarray([np.asarray(p) for p in x] if isinstance(x, list) else x, float) for x in (a, b))
    return float(np.sqrt(np.mean(((first - second) / 255.0) ** 2)))


def save(output: Any, path: Path, fps: int | None) -> Path:
    """Write a picture or a video; returns the path."""
    if fps is None:
        output.save(path)
    elif path.suffix == ".mp4":
        from diffusers.utils import export_to_video

        export_to_video(output, str(path), fps=fps)
    else:
        output[0].save(path, save_all=True, append_images=output[1:], duration=round(1000 / fps), loop=0)
    return path
