"""Small made-up pipelines, each with one habit that a parallel run must follow or refuse: never a wrong picture.

Every class is a pipeline with a network, a scheduler and a loop of its own. ``SERVED`` can be followed exactly;
``REFUSED`` maps the others to what the refusal must say.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from adapters.diffusers import zoo

d = zoo.d


class Network(d.ModelMixin, d.ConfigMixin):
    """Every output number depends on its sample, the time, the context and its neighbours."""

    config_name = "config.json"

    @d.configuration_utils.register_to_config
    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            for p in self.mix.parameters():
                p.copy_(0.4 * torch.randn(p.shape, generator=generator))

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, context: Any = None, strength: float = 1.0
    ) -> torch.Tensor:
        time = torch.as_tensor(timestep).to(sample.dtype).reshape(-1, 1, 1, 1) / 1000
        out = torch.tanh(self.mix(sample) + 0.5 * torch.sin(3 * time + sample))
        if context is not None:
            out = out + context.mean(dim=1).reshape(-1, 1, 1, 1) * torch.cos(sample)
        return out * strength


class Plain(d.DiffusionPipeline):
    """The ordinary loop; others change one part of it."""

    guidance = 2.0

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        num_inference_steps: int = 8,
        generator: Any = None,
        latents: Any = None,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> Any:
        self._interrupt = False
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps
        if latents is None:
            latents = torch.randn(1, 2, 6, 6, generator=generator)
        self.prepare(latents, generator)
        latents = self.loop(latents, timesteps, generator)
        image = latents if output_type == "latent" else self.finish(latents)
        return d.ImagePipelineOutput(images=image) if return_dict else (image,)

    def prepare(self, latents: torch.Tensor, generator: Any) -> None:
        self.context = torch.linspace(-1, 2, 4)[None]
        self.history: list[torch.Tensor] = []

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / 2

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        free = self.unet(latents, t, context=0 * self.context)
        held = self.unet(latents, t, context=self.context)
        return free + self.guidance * (held - free)

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return self.scheduler.step(noise, t, latents, return_dict=False)[0]

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                latents = self.step(self.guided(latents, t, i), t, latents)
                bar.update()
        return latents


# -------------------------------------------------------------------------------------------------- to be followed


class IndexedGuidance(Plain):
    """The strength of guidance is looked up by the loop's index."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        self.guidance = 1.0 + i
        return super().guided(latents, t, i)


class ReadsStepIndex(Plain):
    """Reads sigmas by the scheduler's step index and by the loop's."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        index = self.scheduler.step_index or 0
        size = self.scheduler.sigmas[index] + 0.1 * self.scheduler.sigmas[i + 1]
        return super().guided(latents, t, i) * (1 + 0.1 * size)


class InPlace(Plain):
    """Keeps its state in one tensor and writes each new one into it."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        held = latents.clone()
        for i, t in enumerate(timesteps):
            held[:] = self.step(self.guided(held, t, i), t, held)
        return held


class InPlaceInput(Plain):
    """Writes every network input into one buffer."""

    def prepare(self, latents: torch.Tensor, generator: Any) -> None:
        super().prepare(latents, generator)
        self.buffer = torch.empty_like(latents)

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        self.buffer.copy_(latents)
        return super().guided(self.buffer, t, i)


class InPlaceOutput(Plain):
    """Scales the network's answer in place."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        free, held = self.unet(latents, t, context=0 * self.context), self.unet(latents, t, context=self.context)
        held.sub_(free).mul_(self.guidance).add_(free)
        return held


class InPlaceFinish(Plain):
    """Scales the final state in place."""

    def finish(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.div_(2)


class EnumeratedBar(Plain):
    """The index comes from enumerate, the time through the progress bar."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(self.progress_bar(timesteps)):
            latents = self.step((1 + 0.1 * i) * self.guided(latents, t, i), t, latents)
        return latents


class OneCall(Plain):
    """Guidance in one call of a doubled batch."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        context = torch.cat([0 * self.context, self.context])
        free, held = self.unet(torch.cat([latents] * 2), t, context=context).chunk(2)
        return free + self.guidance * (held - free)


class StartsLate(Plain):
    """Starts inside the schedule and tells nobody."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        return super().loop(latents, timesteps[3:], generator)


class StrengthByTime(Plain):
    """A number that depends on the time goes to the network."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        return self.unet(latents, t, context=self.context, strength=1.0 + 0.01 * i)


class LastTime(Plain):
    """Uses the loop's variables after the loop."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(timesteps):
            latents = self.step(self.guided(latents, t, i), t, latents)
        return latents * (1 + t / 1000) + i


class ReadsResultByName(Plain):
    """Takes the next state by its name."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return self.scheduler.step(model_output=noise, timestep=t, sample=latents).prev_sample


class Inherited(IndexedGuidance):
    """``__call__`` of a class in another module than the loop."""


def _called(self: Any, *args: Any, **kwargs: Any) -> Any:
    return IndexedGuidance.__call__(self, *args, **kwargs)


# As if written in another module, in which nobody looks for ``enumerate``.
Inherited.__call__ = type(_called)(_called.__code__, {"IndexedGuidance": IndexedGuidance}, "__call__")  # type: ignore

SERVED: tuple[type, ...] = (
    Plain,
    IndexedGuidance,
    ReadsStepIndex,
    InPlace,
    InPlaceInput,
    InPlaceOutput,
    InPlaceFinish,
    EnumeratedBar,
    OneCall,
    StartsLate,
    StrengthByTime,
    LastTime,
    ReadsResultByName,
    Inherited,
)


# --------------------------------------------------------------------------------------------------- to be refused


class Momentum(Plain):
    """Guidance with momentum over steps."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        self.history.append(super().guided(latents, t, i))
        return self.history[-1] + (0.3 * self.history[-2] if len(self.history) > 1 else 0)


class LateMomentum(Plain):
    """The same, from the sixth step on."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        self.history.append(super().guided(latents, t, i))
        return self.history[-1] + (0.3 * self.history[-2] if len(self.history) > 9 else 0)


class Counts(Plain):
    """Counts its iterations itself, for the network's input."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        count = 0
        for t in timesteps:
            latents = self.step(self.unet(latents * (1 + 0.1 * count), t), t, latents)
            count += 1  # noqa: SIM113
        return latents


class CountsLater(Plain):
    """Counts its iterations itself, for what it makes of the network's output."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for count, t in zip(itertools.count(), timesteps):
            latents = self.step(self.unet(latents, t) * (1 + 0.1 * count), t, latents)
        return latents


class CountsStrength(Plain):
    """Counts its iterations for a plain number that goes to the network."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for count, t in zip(itertools.count(), timesteps):
            latents = self.step(self.unet(latents, t, strength=1 + 0.1 * count), t, latents)
        return latents


class Zipped(Plain):
    """Pairs timesteps with weights of its own."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for t, weight in zip(timesteps, torch.linspace(1, 2, len(timesteps)), strict=False):
            latents = self.step(weight * self.guided(latents, t, 0), t, latents)
        return latents


class Pairs(Plain):
    """Iterates over pairs of timesteps."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for t, after in zip(timesteps[:-1], timesteps[1:], strict=True):  # noqa: RUF007
            latents = self.step((1 + after / 1000) * self.guided(latents, t, 0), t, latents)
        return latents


class ByPosition(Plain):
    """Iterates over positions."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i in range(len(timesteps)):
            latents = self.step(self.guided(latents, timesteps[i], i), timesteps[i], latents)
        return latents


class Listed(Plain):
    """Iterates over a list of the timesteps."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(list(timesteps)):
            latents = self.step(self.guided(latents, t, i), t, latents)
        return latents


class ListedOnce(Plain):
    """The same with one step."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(timesteps.tolist()):
            latents = self.step(self.guided(latents, torch.tensor(t), i), t, latents)
        return latents


class BreaksEarly(Plain):
    """Leaves its loop before the end."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(timesteps):
            if i == 5:
                break
            latents = self.step(self.guided(latents, t, i), t, latents)
        return latents


class BreaksOnNorm(Plain):
    """Leaves its loop when the state is small."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(timesteps):
            noise = self.guided(latents, t, i)
            if i > 0 and noise.norm() < 1.01 * self.small:
                break
            latents, self.small = self.step(noise, t, latents), noise.norm()
        return latents


class SkipsFirst(Plain):
    """Does not step in its first iteration."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(timesteps):
            if i > 0:
                latents = self.step(self.guided(latents, t, i), t, latents)
        return latents


class SkipsOne(Plain):
    """Does not step in one iteration."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        for i, t in enumerate(timesteps):
            if i != 4:
                latents = self.step(self.guided(latents, t, i), t, latents)
        return latents


class StepsTwice(Plain):
    """Steps twice in one iteration."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return super().step(noise, t, super().step(noise, t, latents))


class StepsTwiceLate(Plain):
    """Steps twice in the last iteration."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = super().step(noise, t, latents)
        return super().step(noise, t, latents) if t == self.scheduler.timesteps[-1] else latents


class Corrects(Plain):
    """A network call at the stepped state, in the same iteration, whose outcome is added."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = super().step(noise, t, latents)
        return latents + 0.1 * self.unet(latents, t)


class Draws(Plain):
    """Adds noise to the network's input."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        return super().guided(latents + 0.1 * torch.randn(latents.shape, generator=self.source), t, i)

    def prepare(self, latents: torch.Tensor, generator: Any) -> None:
        super().prepare(latents, generator)
        self.source = generator


class DrawsAfter(Draws):
    """Adds noise to the network's output."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        return Plain.guided(self, latents, t, i) + 0.1 * torch.randn(latents.shape, generator=self.source)


class DrawsGlobally(Draws):
    """Adds noise from the global state, in later iterations only."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        return Plain.guided(self, latents, t, i) + (0.1 * torch.randn(latents.shape) if i >= 3 else 0)


class DrawsLate(Draws):
    """Adds noise from the user's generator, in later iterations only."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        late = 0.1 * torch.randn(latents.shape, generator=self.source) if i >= 3 else 0
        return Plain.guided(self, latents, t, i) + late


class Edits(Plain):
    """Puts a known part back after every step."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = super().step(noise, t, latents)
        return torch.cat([torch.zeros_like(latents[:, :1]), latents[:, 1:]], dim=1)


class EditsInPlace(Plain):
    """The same, in place."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = super().step(noise, t, latents)
        latents[:, 0] = 0
        return latents


class EditsLast(Plain):
    """Only after the last steps."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = super().step(noise, t, latents)
        return latents * 1.5 if t <= self.scheduler.timesteps[-3] else latents


class EditsLastInPlace(Plain):
    """The same, in place."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        latents = super().step(noise, t, latents)
        return latents.mul_(1.5) if t <= self.scheduler.timesteps[-3] else latents


class Blends(Plain):
    """Steps from another state than the one it was given."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return super().step(noise, t, 0.99 * latents)


class Depends(Plain):
    """The second call's input is made of the first one's answer."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        first = self.unet(latents, t, context=self.context)
        return 0.5 * (first + self.unet(latents - 0.1 * first, t, context=self.context))


class DependsByNumber(Plain):
    """The second call is given a plain number made of the first one's answer."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        first = self.unet(latents, t, context=self.context)
        return self.unet(latents, t, context=self.context, strength=1 + float(first.std()))


class ReadsData(Plain):
    """Reads the data predicted at every step."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        out = self.scheduler.step(noise, t, latents)
        return out.prev_sample + 0 * out.pred_original_sample


class TwoLoops(Plain):
    """Runs its loop twice."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        return super().loop(super().loop(latents, timesteps, generator), timesteps, generator)


class TwoPasses(Plain):
    """Sets its timesteps and runs its loop a second time."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        latents = super().loop(latents, timesteps, generator)
        self.scheduler.set_timesteps(4)
        return super().loop(latents, self.scheduler.timesteps, generator)


class Copies(Plain):
    """Steps a copy of its scheduler beside it."""

    def step(self, noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        import copy

        self.other = copy.deepcopy(self.scheduler)
        return 0.5 * (super().step(noise, t, latents) + self.other.step(noise, t, latents)[0])


class NoNetwork(Plain):
    """Calls no network in the loop."""

    def guided(self, latents: torch.Tensor, t: torch.Tensor, i: int) -> torch.Tensor:
        return torch.tanh(latents)


class CallsTwiceAtFirst(Plain):
    """Calls its network on the state before the loop, and never again."""

    def loop(self, latents: torch.Tensor, timesteps: torch.Tensor, generator: Any) -> torch.Tensor:
        fixed = self.unet(latents, timesteps[0])
        for t in timesteps:
            latents = self.step(fixed, t, latents)
        return latents


REMEMBERS = "remembers earlier"
REFUSED: dict[type, str] = {
    Momentum: REMEMBERS,
    LateMomentum: REMEMBERS,
    Counts: REMEMBERS,
    CountsLater: REMEMBERS,
    CountsStrength: REMEMBERS,
    Zipped: REMEMBERS + "|before its end",
    Pairs: "at time 875 where its timesteps say",
    ByPosition: "outside a loop",
    Listed: "first time in iteration|outside a loop",
    ListedOnce: "outside a loop",
    BreaksEarly: "before its end",
    SkipsFirst: "first time in iteration 1",
    SkipsOne: "did not step",
    StepsTwice: "twice in one iteration",
    StepsTwiceLate: "twice in one iteration",
    Corrects: "edits its latents",
    Draws: REMEMBERS + "|draws random numbers",
    DrawsAfter: REMEMBERS + "|draws random numbers",
    DrawsGlobally: REMEMBERS + "|draws random numbers",
    DrawsLate: REMEMBERS + "|draws random numbers",
    Edits: "edits its latents",
    EditsInPlace: "edits its latents",
    EditsLastInPlace: "edits its latents",
    EditsLast: "edits its latents",
    Blends: "edits its latents",
    ReadsData: "pred_original_sample",
    TwoLoops: "a second time",
    TwoPasses: "a second time",
    Copies: "copy of its scheduler",
    NoNetwork: "none of its networks",
    CallsTwiceAtFirst: "none of its networks",
}
"""What the refusal must say, as a regular expression."""

ONE_BY_ONE: tuple[type, ...] = (Depends, DependsByNumber)
"""Served, but their calls cannot be recorded ahead: the pipeline makes them itself."""
WITH_FLOW: tuple[type, ...] = (Edits, EditsInPlace, Momentum, Draws)
"""Some that are run with a flow-matching scheduler, the others with DDIM."""


def made(kind: type, scheduler: Any = None) -> Any:
    """An instance with its own network and scheduler, without a progress bar."""
    pipe = kind(Network(), scheduler or d.FlowMatchEulerDiscreteScheduler(shift=2.0))
    pipe.set_progress_bar_config(disable=True)
    return pipe
