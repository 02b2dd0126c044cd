"""What ranks do in tests: ``ranks.py FOLDER CASE...`` forks two ranks per case and writes what became of them.

One import of diffusers for all: a rank that ends well writes ``CASE-RANK.json``, ``CASE.json`` has exit codes and time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import attrs
import torch
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapters.diffusers import fakes, zoo
from paracore.errors import EvaluatorError
from paracore_diffusers import parallelize
from paracore_diffusers.calls import Call
from paracore_diffusers.distributed import Distributed
from paracore_diffusers.execution import OneByOne

WORLD = 2
LIMIT = 120.0
"""Seconds for a case."""
RANK = 0
MADE: dict[str, zoo.Example] = {}
"""Pipelines of several cases, built once before ranks are forked."""


def everyone(value):
    """Of all ranks."""
    found = [None] * WORLD
    dist.all_gather_object(found, value)
    return found


def shared(pipe, sampler="picard", **options):
    return parallelize(pipe, sampler, process_group="world", **{"timeout": 60.0, "window": 4, **options})


def example(name):
    if name not in MADE:
        MADE[name] = zoo.ZOO[name]()
    return MADE[name]


def count_calls(module):
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


# ------------------------------------------------------------------------------------------------------------- cases


def pipelines(*names, steps=4):
    """Bits in exact mode, in single and half precision; merged calls; the default sampler: the same on all ranks."""
    told = {}
    for name in names:
        for half in (False, True):
            made = example(name)
            if half and not made.supports_bf16:
                continue
            made = zoo.in_bfloat16(made) if half else made
            expected = zoo.run(made, steps, 3)
            fast = shared(made.pipe, exact=True)
            exact = zoo.run(made, steps, 3, through=fast)
            record = {"exact": torch.equal(exact, expected), "left": torch.equal(zoo.run(made, steps, 3), expected)}
            if not half:
                fast = shared(made.pipe, tolerance=0.0)
                found = zoo.run(made, steps, 3, through=fast)
                record["merged"] = float((found - expected).norm() / expected.norm())
                record["verdicts"] = list(fast.last.merges.values())
                found = zoo.run(made, steps, 3, through=shared(made.pipe, None))
                record["agree"] = all(torch.equal(found, other) for other in everyone(found))
            told[f"{name}{' bf16' if half else ''}"] = record
    return told


def quick():
    return pipelines("flux", "sd", "wan22", "sd_euler_ancestral")


def many():
    return pipelines(
        "sd3_slg", "hyv", "sdxl", "sd_heun", "sd_controlnet", "lumina2", "hidream", "stable_audio", steps=6
    )


def shares():
    """Calls are made once in all; only the first, from which the others follow, is made everywhere."""
    made = example("flux")
    calls, fast = count_calls(made.pipe.transformer), shared(made.pipe, exact=True)
    zoo.run(made, 9, 3, through=fast)
    return {"mine": len(calls), "all": sum(everyone(len(calls))), "said": fast.last.network_calls}


LOOPS = ("Plain", "InPlace", "InPlaceInput", "InPlaceOutput", "Depends", "DependsByNumber", "OneCall")
REFUSED = ("Listed", "Momentum", "Edits", "Draws", "BreaksEarly", "StepsTwiceLate")


def loops():
    """Every way of a loop: the bits, or the same refusal on all ranks; and a loop that ends on one rank alone."""
    told = {}
    for name in LOOPS:
        pipe = fakes.made(getattr(fakes, name))
        expected = pipe(8, generator=torch.Generator().manual_seed(0)).images
        found = shared(pipe, exact=True, timeout=10.0)(8, generator=torch.Generator().manual_seed(0)).images
        told[name] = torch.equal(found, expected)
    for name in REFUSED:
        fast = shared(fakes.made(getattr(fakes, name)), timeout=10.0)
        told[name] = raised(lambda fast=fast: fast(8, generator=torch.Generator().manual_seed(0)))
    pipe = fakes.made(fakes.BreaksEarly if RANK else fakes.Plain)
    told["alone"] = raised(lambda: shared(pipe, timeout=10.0)(8, generator=torch.Generator().manual_seed(0)))
    made = example("flux")

    def callback(own, step, time, tensors):
        own._interrupt = RANK == WORLD - 1 and step >= 2
        return tensors

    fast = shared(made.pipe, tolerance=0.0, timeout=10.0)
    told["interrupt"] = raised(lambda: zoo.run(made, 9, 3, through=fast, callback_on_step_end=callback))
    return told


class Failing(fakes.Network):
    """Does something in its n-th call on the last rank."""

    def __init__(self, when, what) -> None:
        super().__init__()
        self.when, self.what = when, what

    def forward(self, sample, timestep, context=None, strength=1.0):
        self.when -= 1
        if self.when == 0 and RANK == WORLD - 1:
            self.what()
        return super().forward(sample, timestep, context, strength)


def divide():
    raise ZeroDivisionError("no schedule")


def run_failing(when, what, **options):
    pipe = fakes.Plain(Failing(when, what), zoo.flow())
    pipe.set_progress_bar_config(disable=True)
    fast = shared(pipe, exact=True, **options)

    def draw(call):
        return call(8, generator=torch.Generator().manual_seed(0)).images

    return pipe, fast, draw


def raised(do) -> str:
    try:
        do()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def failing():
    """A network that raises: in a round, and in the first iteration; the group can be used afterwards."""
    told = {}
    for name, when in (("round", 3), ("first", 1)):
        pipe, fast, draw = run_failing(when, divide)
        try:
            draw(fast)
            told[name] = "nothing was raised"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
            told[f"{name} accepted"] = getattr(error, "result", None) is not None
        told[f"{name} again"] = torch.equal(draw(fast), draw(pipe))
    return told


def disagreeing():
    """Ranks that differ are named, everywhere, and before anything is gathered."""
    other = RANK == WORLD - 1
    made, noisy = example("sd"), example("sd_euler_ancestral")
    fast, stochastic = shared(made.pipe, exact=True), shared(noisy.pipe, exact=True)
    latents = zoo.noise(1, 4, 8, 8)
    embeds = made.call["prompt_embeds"]

    def prompt(change):
        more = {"prompt_embeds": change(embeds), "negative_prompt_embeds": change(-embeds)} if other else {}
        return raised(lambda: zoo.run(attrs.evolve(made, call={**made.call, **more}), 6, 3, through=fast))

    def fixed(seed):
        return raised(lambda: zoo.run(noisy, 6, seed, through=stochastic, latents=latents.clone()))

    return {
        "seed": raised(lambda: zoo.run(made, 6, 3 + other, through=fast)),
        "steps": raised(lambda: zoo.run(made, 6 + other, 3, through=fast)),
        "window": raised(lambda: zoo.run(made, 6, 3, through=shared(made.pipe, window=4 + other, exact=True))),
        "tolerance": raised(lambda: zoo.run(made, 12, 3, through=shared(made.pipe, tolerance=0.5 if other else 1e-9))),
        "shape": prompt(lambda e: torch.cat([e, e], dim=1)),
        "prompt": prompt(lambda e: 3 * e + 1),
        "noise": fixed(3 + other),
        "none": fixed(3),
    }


def odd():
    """Answers whose form is not known, or that are no tensors, on the executor alone; more ranks than calls."""
    forms = (
        lambda x: {"sample": x, "more": [x[:1], (x > 0, None)]},
        lambda x: (x.to(torch.bfloat16), f"node {float(x[0, 0])}"),
        lambda x: x[:, : 1 + int(x[0, 0]) % 3],
        lambda x: x.reshape(1, 2, 3, 2).to(memory_format=torch.channels_last),
        lambda x: x.to(torch.complex64),
    )
    told = []
    executor = Distributed(None, OneByOne(), 60.0)
    for make in forms:
        for known in (False, True):
            for many in (1, 5):
                calls = [Call(make, (torch.arange(12.0).reshape(2, 6) + i,), {}, 0, i) for i in range(many)]
                for call in calls:
                    call.like = make(torch.zeros(2, 6)) if known else None
                executor.run(calls, [])
                told.append(all(same(call.result, call.run()) for call in calls))
    return {"same": told}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b) and a.stride() in (b.stride(), b.clone().stride())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(map(same, a, b))
    return a == b


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killed():
    _, fast, draw = run_failing(4, kill, timeout=20.0)
    return ended(fast, draw)


def hanging():
    _, fast, draw = run_failing(4, lambda: time.sleep(300), timeout=1.0)
    return ended(fast, draw)


def ended(fast, draw):
    began = time.monotonic()
    try:
        draw(fast)
    except EvaluatorError as error:
        told = {"said": str(error), "seconds": time.monotonic() - began, "accepted": error.result is not None}
        return {**told, "again": raised(lambda: draw(fast))}
    return {}


# ------------------------------------------------------------------------------------------------------------ forking


def fork(rank: int, case: str, folder: Path, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    global RANK
    RANK = rank
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        with zoo.quiet():
            told = globals()[case]()
        (folder / f"{case}-{rank}.json").write_text(json.dumps(told))
        if case not in ("killed", "hanging"):
            dist.destroy_process_group()
        code = 0
    except BaseException:
        (folder / f"{case}-{rank}.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def attend(pids: list[int], stuck: bool) -> list[int]:
    """Exit codes; who is left after the time, or hangs on purpose, is killed."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LIMIT
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline or (stuck and pids[0] in codes):
            for pid in pids:
                if pid not in codes:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    codes[pid] = -signal.SIGKILL
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def main(folder: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    with zoo.quiet():
        for name in ("flux", "sd", "wan22", "sd_euler_ancestral"):
            example(name)
    for case in cases:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        began = time.monotonic()
        codes = attend([fork(rank, case, folder, port) for rank in range(WORLD)], stuck=case == "hanging")
        (folder / f"{case}.json").write_text(json.dumps({"codes": codes, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
