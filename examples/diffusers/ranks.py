"""FLUX.1 on several GPUs or machines: ``torchrun --nproc-per-node=4 examples/diffusers/ranks.py``.

Every rank loads the pipeline and makes the same call; the network calls of each round are shared out. ``--tiny`` runs
on CPUs: ``torchrun --nproc-per-node=2 examples/diffusers/ranks.py --tiny``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from common import load, parse, rms, save, timed
from flux import FAMILY
from torch import distributed

from paracore_diffusers import parallelize


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(FAMILY, arguments, window="auto")
    if options.device == "cuda":
        options.device = f"cuda:{os.environ['LOCAL_RANK']}"
    pipe, call = load(FAMILY, options)
    fast = parallelize(
        pipe,
        options.sampler,
        window=options.window,
        tolerance=options.tolerance,
        exact=options.exact,
        process_group="world",
    )
    main_rank, ranks = distributed.get_rank() == 0, distributed.get_world_size()
    pipe.set_progress_bar_config(disable=not main_rank)
    output, seconds = timed(fast, options, call, options.steps)
    last = fast.last
    if main_rank:
        save(output, options.out, FAMILY.fps)
        print(f"{ranks} ranks: {last.rounds} rounds for {options.steps} steps, {last.evaluations} evaluations", end="")
        print(f", {seconds:.1f} s; saved as {options.out}")
        if options.compare:
            reference, seconds = timed(pipe, options, call, options.steps)
            print(f"sequential run: {seconds:.1f} s; the parallel one differs from it by {rms(output, reference):.2g}")
    fast.release()


if __name__ == "__main__":
    main()
