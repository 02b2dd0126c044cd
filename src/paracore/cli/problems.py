"""From words to a problem: model, scheme, classes, seeds, samplers."""

from __future__ import annotations

import math
import os
from typing import Any

import attrs
import torch

from paracore.cli.catalogue import make_scheme
from paracore.cli.failures import note
from paracore.compose import DEFAULT_SAMPLER, compose
from paracore.errors import ConfigurationError
from paracore.evaluators.devices import usable_device
from paracore.evaluators.memory import keep_freed_memory_for
from paracore.model import Model
from paracore.plugins import Entry, registry
from paracore.plugins.calls import options_of, parse_call
from paracore.problem import Problem
from paracore.recipes.files import is_file, read
from paracore.recipes.recipe import Recipe
from paracore.request import Evaluator
from paracore.sampler import Sampler
from paracore.schemes import Scheme

__all__ = [
    "Task",
    "build_evaluator",
    "build_sampler",
    "build_task",
    "close",
    "finite",
    "initial_deviation",
    "is_main",
    "parse_classes",
    "parse_window",
    "read_sampler",
    "split_calls",
]

_LAST_SEED = 2**63 - 1


@attrs.frozen(eq=False)
class Task:
    """What is sampled.

    Attributes:
        entry: the model's.
        model: the model.
        problem: scheme, noise and generators.
        labels: class of each sample, or ``None``.
        guidance: classifier-free guidance scale.
    """

    entry: Entry
    model: Model
    problem: Problem
    labels: torch.Tensor | None
    guidance: float


def build_task(
    *,
    model: str,
    scheme: str,
    steps: int,
    classes: str | None,
    count: int | None,
    guidance: float,
    seed: int,
    device: str,
    threads: int | None,
) -> Task:
    """All of it, checked.

    Raises:
        ConfigurationError, UnknownNameError, PluginError.
    """
    if threads is not None:
        if threads < 1:
            raise ConfigurationError(f"threads is {threads}; at least 1 is needed")
        torch.set_num_threads(threads)
    given = parse_classes(classes)
    if count is None:
        count = len(given) if given else 4
    if count < 1:
        raise ConfigurationError(f"count is {count}; at least 1 is needed")
    if not 0 <= seed <= _LAST_SEED - count:
        raise ConfigurationError(f"seed is {seed}; an integer from 0 to {_LAST_SEED - count} is needed")
    finite("guidance", guidance)
    table = make_scheme(scheme, steps)
    name, options = parse_call(model)
    entry = registry.find("model", name)
    made: Model = entry.make(**options)
    if classes is None and made.classes:
        given = list(range(made.classes))
    labels = torch.tensor([given[i % len(given)] for i in range(count)], dtype=torch.int64) if given else None
    made.check_request(labels, guidance)
    place = _device(device)
    keep_freed_memory_for(place)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    noise = torch.stack([torch.randn(made.shape, generator=g) for g in generators]) * initial_deviation(table)
    return Task(entry, made, Problem(table, noise.to(place), generators), labels, guidance)


def finite(option: str, value: float | None) -> None:
    """Refuse infinities and what is no number.

    Raises:
        ConfigurationError.
    """
    if value is not None and not math.isfinite(value):
        raise ConfigurationError(f"{option} is {value}; a finite number is needed")


def build_evaluator(call: str, task: Task, *, max_batch: int | None, jvp: bool) -> Evaluator:
    """A registered evaluator around the task's network.

    Raises:
        ConfigurationError, UnknownNameError, PluginError.
    """
    name, options = parse_call(call)
    entry = registry.find("evaluator", name)
    if max_batch is not None:
        options["max_batch"] = max_batch
    if jvp and "jvp" in options_of(entry.factory):
        options.setdefault("jvp", True)
    denoiser = task.model.denoiser(task.problem.scheme, task.labels, task.guidance)
    made: Evaluator = entry.make(denoiser, **options)
    return made


def build_sampler(call: str | None, settings: dict[str, Any], parts: dict[str, str]) -> Sampler:
    """A preset or a file's sampler with parts replaced, or a composition of parts if neither is named.

    Raises:
        ConfigurationError, UnknownNameError, PluginError, FileNotFoundError.
    """
    if call is None and parts:
        return compose(**parts, **settings)
    recipe = read_sampler(call or DEFAULT_SAMPLER)
    twice = [] if recipe.source else sorted(option for option in settings if recipe.states(option))
    if twice:
        raise ConfigurationError(f"{twice[0]} is given twice: in {call!r} and as --{twice[0]}")
    return recipe.build(**parts, **settings)


def read_sampler(call: str) -> Recipe:
    """What builds a sampler: of a name or call, or of a ``.toml`` or ``.json`` file.

    Raises:
        ConfigurationError: for a call or a file that cannot be read.
        FileNotFoundError: if there is no such file.
    """
    if not is_file(call):
        parse_call(call)
        return Recipe({"sampler": call})
    recipe = read(call)
    if recipe.differences():
        note(recipe.differences())
    return recipe


def initial_deviation(scheme: Scheme) -> float:
    """What standard normal noise is multiplied by at node 0: 1 for flows and variance-preserving schemes."""
    if scheme.levels is None:
        return 1.0
    alpha, sigma = float(scheme.levels.alpha[0]), float(scheme.levels.sigma[0])
    preserving, flow = abs(alpha**2 + sigma**2 - 1) < 1e-3, abs(alpha + sigma - 1) < 1e-6
    return 1.0 if preserving or flow else sigma


def parse_classes(text: str | None) -> list[int]:
    """``"0-9"``, ``"3,5"``, ``"0-3,7"``, ``"none"``.

    Raises:
        ConfigurationError: for anything else.
    """
    if text is None or text.strip() == "none":
        return []
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigurationError(f"classes is {text!r}; write them like 0-9, or 3,5, or none")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def split_calls(text: str) -> list[str]:
    """``"a,b(window=4,tolerance=0),c"`` at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if not all(part.strip() for part in parts):
        raise ConfigurationError(f"{text!r} has an empty name; separate names by single commas")
    return [part.strip() for part in parts]


def parse_window(text: str | None) -> int | str | None:
    """A number, or ``auto``.

    Raises:
        ConfigurationError: for anything else.
    """
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise ConfigurationError(f"window is {text!r}; a number, or auto, is needed") from error


def is_main(evaluator: Evaluator) -> bool:
    """Whether this process writes and prints: all but the further ranks of a process group."""
    return bool(getattr(evaluator, "main", True))


def close(evaluator: Evaluator) -> None:
    """End its workers, if it has any."""
    end = getattr(evaluator, "close", None)
    if end is not None:
        end()


def _device(name: str) -> torch.device:
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # under torchrun: each process its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return usable_device(name)
