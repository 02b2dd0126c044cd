"""Faults at random points of a run: afterwards the pipeline is bit for bit what it was."""

from __future__ import annotations

import contextlib
import functools
import random
import sys

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import paracore
from adapters.diffusers import fakes, zoo
from paracore.errors import SolveInterrupted
from paracore_diffusers import parallelize
from paracore_diffusers.errors import UnsupportedPipelineError, UnsupportedSchedulerError
from paracore_diffusers.installation import _RUNNING, networks_of
from paracore_diffusers.proxies import _DRIVERS, Enumerating

PIPELINES = ("flux", "sd_euler_ancestral", "wan", "cogx_dpm", "lumina2", "hyv", "sd_controlnet", "ddim")
POINTS = ("network", "callback", "solver", "step", "decoder", "loop")
STEPS = 6


class Fault(Exception):  # noqa: N818
    """Raised on purpose."""


class Countdown:
    """Raises at its n-th tick."""

    def __init__(self, ticks: int, error: type[BaseException]) -> None:
        self.left, self.error, self.fired = ticks, error, False

    def __call__(self, *_: object, **__: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.fired = True
            raise self.error("on purpose")


class Failing(paracore.Sampler):
    """A sampler that breaks off while it takes what was evaluated."""

    def __init__(self, inner: paracore.Sampler, tick: Countdown) -> None:
        self.inner, self.tick = inner, tick

    @property
    def needs(self):
        return self.inner.needs

    def start(self, *args, **kwargs):
        return self.inner.start(*args, **kwargs)

    def request(self, state):
        return self.inner.request(state)

    def advance(self, state, outputs):
        self.tick()
        return self.inner.advance(state, outputs)

    def result(self, state, **options):
        return self.inner.result(state, **options)

    def plain(self, state):
        return self.inner.plain(state)

    def restore(self, problem, data):
        return self.inner.restore(problem, data)


@contextlib.contextmanager
def ticking(point: str, pipe, tick: Countdown):
    """Ticks whenever a run comes by a point."""
    with pytest.MonkeyPatch.context() as patch:
        handles = []
        if point == "network":
            handles = [m.register_forward_pre_hook(lambda *_: tick()) for m in networks_of(pipe).values()]
        elif point == "step":
            step = type(pipe.scheduler).step

            @functools.wraps(step)
            def ticked(*args, **kwargs):
                tick()
                return step(*args, **kwargs)

            patch.setattr(type(pipe.scheduler), "step", ticked)
        elif point == "decoder" and getattr(pipe, "vae", None) is not None:
            decode = pipe.vae.decode

            def broken(*args, **kwargs):
                tick()
                return decode(*args, **kwargs)

            patch.setattr(pipe.vae, "decode", broken, raising=False)
        elif point == "loop":
            make = type(pipe).progress_bar

            def bar(self, *args, **kwargs):
                tick()
                return make(self, *args, **kwargs)

            patch.setattr(type(pipe), "progress_bar", bar)
        yield
        for handle in handles:
            handle.remove()


def inside(pipe) -> dict[str, object]:
    return {k: v for k, v in vars(pipe).items() if isinstance(v, torch.nn.Module) or hasattr(v, "set_timesteps")}


def enumerating() -> list[str]:
    return [n for n, m in list(sys.modules.items()) if n.startswith("diffusers") and "enumerate" in vars(m)]


@functools.cache
def truth(name: str):
    """A pipeline that is broken again and again, and the picture of a fresh one."""
    made = zoo.ZOO[name]()
    zoo.run(made, STEPS, 3)  # a call leaves its settings among the pipeline's attributes
    return made, zoo.run(zoo.ZOO[name](), STEPS, 3)


def inject(seed: int) -> str | None:
    """One fault; returns what was hit, ``None`` if the run ended before the fault's turn."""
    chance = random.Random(seed)
    name, point = PIPELINES[seed % len(PIPELINES)], chance.choice(POINTS)
    error = chance.choice((Fault, KeyboardInterrupt))
    made, expected = truth(name)
    pipe = made.pipe
    most = {"network": 20, "callback": STEPS, "solver": 4, "step": 30, "decoder": 1, "loop": 1}[point]
    tick = Countdown(chance.randint(1, most), error)
    sampler = paracore.sampler("picard", window=chance.randint(2, 5), tolerance=0.0)
    if point == "solver":
        sampler = Failing(sampler, tick)
    options = chance.choice(({"execution": "one-by-one"}, {"execution": "merged"}, {"exact": True}))
    if point == "solver":
        options.pop("exact", None)
    devices = ["cpu", "cpu"] if chance.random() < 0.2 else None
    fast = parallelize(pipe, sampler, devices=devices, **options)
    more = {}
    if point == "callback" and name != "ddim":
        more["callback_on_step_end"] = lambda *_: tick() or {}
    before, keys, scheduler = inside(pipe), set(vars(pipe)), type(pipe.scheduler)
    with ticking(point, pipe, tick), contextlib.suppress(Fault, KeyboardInterrupt, UnsupportedSchedulerError):
        zoo.run(made, STEPS, 3, through=fast, **more)
    assert set(vars(pipe)) == keys
    assert inside(pipe) == before
    assert all(inside(pipe)[k] is part for k, part in before.items())
    assert type(pipe.scheduler) is scheduler
    assert type(pipe.scheduler.timesteps) is torch.Tensor
    assert "progress_bar" not in vars(pipe)
    assert not _RUNNING
    assert not _DRIVERS
    assert not Enumerating._users
    assert not enumerating()
    assert torch.equal(zoo.run(made, STEPS, 3), expected), (name, point, error)
    assert torch.equal(zoo.run(made, STEPS, 3, through=parallelize(pipe, "picard", exact=True)), expected)
    return f"{name}/{point}/{error.__name__}" if tick.fired else None


@pytest.mark.parametrize("seed", range(8))
def test_faults(seed):
    inject(seed)


@pytest.mark.slow
def test_a_hundred_faults():
    hit = [inject(seed) for seed in range(160)]
    fired = [h for h in hit if h]
    assert len(fired) >= 100, len(fired)
    assert {h.split("/")[1] for h in fired} == set(POINTS)


@pytest.mark.parametrize("point", ["network", "callback", "solver", "step"])
def test_ctrl_c_keeps_what_was_accepted(point):
    made, expected = truth("flux")
    tick = Countdown({"network": 4, "callback": 3, "solver": 3, "step": 40}[point], KeyboardInterrupt)
    sampler = paracore.sampler("picard", window=3, tolerance=0.0)
    fast = parallelize(made.pipe, Failing(sampler, tick) if point == "solver" else sampler)
    more = {"callback_on_step_end": lambda *_: tick() or {}} if point == "callback" else {}
    if point == "step":
        fast = parallelize(made.pipe, sampler, exact=True)
    with ticking(point, made.pipe, tick), pytest.raises(SolveInterrupted) as stop:
        zoo.run(made, STEPS, 3, through=fast, **more)
    assert bool(stop.value.result.sample.isfinite().all())
    assert 0 <= int(stop.value.result.front.min()) < STEPS
    assert torch.equal(zoo.run(made, STEPS, 3), expected)


def test_errors_are_the_users_own():
    made, _ = truth("flux")
    with ticking("network", made.pipe, Countdown(3, Fault)), pytest.raises(Fault, match="on purpose"):
        zoo.run(made, STEPS, 3, through=parallelize(made.pipe))


def test_a_fault_before_the_loop():
    made, expected = truth("sd_controlnet")
    with pytest.raises(ValueError, match="prompt"):
        zoo.run(made, STEPS, 3, through=parallelize(made.pipe), prompt_embeds=None)
    assert torch.equal(zoo.run(made, STEPS, 3), expected)


def test_the_scheduler_is_as_before_after_a_fault():
    pipe = fakes.made(fakes.EditsLast)
    before = dict(vars(pipe.scheduler))
    with pytest.raises(UnsupportedPipelineError):
        parallelize(pipe)(8, generator=torch.Generator().manual_seed(0))
    assert vars(pipe.scheduler).keys() == before.keys()
    assert all(vars(pipe.scheduler)[k] is v for k, v in before.items())
