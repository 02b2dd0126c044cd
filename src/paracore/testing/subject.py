"""What the kit checks: anything that a plugin registers, as a thing of which fresh ones can be made."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from paracore.composition import KINDS, Composition
from paracore.engine import Engine
from paracore.errors import ConfigurationError, suggest
from paracore.model import Model
from paracore.plugins import HOOKS, Entry, registry
from paracore.plugins.calls import call_factory, options_of, parse_call
from paracore.problem import Problem
from paracore.request import Denoiser, Evaluator
from paracore.sampler import Sampler
from paracore.strategies import Strategy

__all__ = ["Subject", "subject_of", "subjects_of_entry", "subjects_of_plugin"]


@attrs.frozen(eq=False, repr=False)
class Subject:
    """Something to be checked.

    Attributes:
        kind: one of :data:`paracore.plugins.HOOKS`: ``"damping"``, ``"sampler"``, ``"model"``, ...
        label: in words, for reports.
        source: the class or function that documents it.
        build: makes a fresh one from options. An option ``problem`` (strategies) or ``denoiser`` (evaluators) is what
            the kit made for it.
        expected_failures: ``{check: reason}`` that it declares itself.
        bound: whether what is made belongs to the problem that it was made for.
    """

    kind: str
    label: str
    source: Any
    build: Callable[..., Any]
    expected_failures: Mapping[str, str] = attrs.field(factory=dict)
    bound: bool = False
    memo: dict[str, Any] = attrs.field(factory=dict, init=False)

    def __repr__(self) -> str:
        return f"<Subject {self.label}>"

    @property
    def is_strategy(self) -> bool:
        """Whether it is a part of a composition."""
        return self.kind in KINDS

    def part(self, problem: Problem) -> Strategy:
        """A fresh strategy."""
        made = self.build(problem=problem)
        if not isinstance(made, KINDS[self.kind]):
            raise ConfigurationError(f"{self.label} is {type(made).__name__}; a {KINDS[self.kind].__name__} is needed")
        return made

    def sampler(self, window: int | None = None, tolerance: float | None = None) -> Sampler:
        """A fresh sampler, with another window and tolerance where it has them."""
        return self.build(window=window, tolerance=tolerance)  # type: ignore[no-any-return]

    def model(self) -> Model:
        """A fresh model."""
        made = self.build()
        if not isinstance(made, Model):
            raise ConfigurationError(f"{self.label} is {type(made).__name__}; a paracore.Model is needed")
        return made

    def evaluator(self, denoiser: Denoiser) -> Evaluator:
        """A fresh evaluator around a denoiser."""
        made = self.build(denoiser=denoiser)
        if not isinstance(made, Evaluator):
            what = f"{self.label} is {type(made).__name__}"
            raise ConfigurationError(f"{what}; an object with capabilities and evaluate(request) is needed")
        return made


def subject_of(thing: Any, kind: str | None = None) -> Subject:
    """Make anything a subject.

    Args:
        thing: a :class:`Subject`; a registered name (``"picard"``, ``"damping:gain-ratio"``,
            ``"secant(memory=2)"``); an :class:`~paracore.plugins.Entry`; a class, function or instance of what is to
            be checked: a strategy, a composition, a sampler or preset, a model, an evaluator's factory.
        kind: one of :data:`paracore.plugins.HOOKS`, where it cannot be seen from the thing.

    Raises:
        UnknownNameError: for a name that nothing, or more than one kind, is registered under.
        ConfigurationError: for a thing that the kit cannot check.
    """
    if isinstance(thing, Subject):
        return thing
    if kind is not None and kind not in HOOKS:
        raise ConfigurationError(f"unknown kind {kind!r}; {suggest(kind, HOOKS)}")
    if isinstance(thing, str):
        return _named(thing, kind)
    if isinstance(thing, Entry):
        return subjects_of_entry(thing)[0]
    found = kind or _kind_of(thing)
    name = getattr(thing, "__name__", None) or type(thing).__name__
    label = f"{found} {name if callable(thing) and not isinstance(thing, Strategy | Sampler) else repr(thing)}"
    made_of = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    if found in KINDS or found == "model":
        return Subject(found, label, made_of, _fresh(thing))
    if found == "evaluator":
        return Subject(found, label, made_of, lambda denoiser: thing(denoiser))
    return Subject(found, label, made_of, _sampler_from(label, thing, {}))


def subjects_of_plugin(plugin: str) -> list[Subject]:
    """Everything that a plugin registers, in each of the examples that it gives; by its entry-point name."""
    return [s for entry in registry.entries() if entry.plugin == plugin for s in subjects_of_entry(entry)]


def subjects_of_entry(entry: Entry) -> list[Subject]:
    """One subject for each example that the plugin gives for the name; one with default options otherwise."""
    expected = entry.conformance.expected_failures
    found = []
    for example in entry.conformance.examples:
        options = ", ".join(f"{k}={v!r}" for k, v in example.items()) if isinstance(example, Mapping) else ""
        label = f"{entry.kind} {entry.name}{f'({options})' if options else ''}"
        made = _entry_build(entry, example)
        found.append(Subject(entry.kind, label, entry.factory, made, expected, callable(example)))
    return found


def _named(text: str, kind: str | None) -> Subject:
    head, colon, rest = text.partition(":")
    if colon and kind is None and head in HOOKS:
        kind, text = head, rest
    name, options = parse_call(text)
    if kind is None:
        kinds = [entry.kind for entry in registry.entries() if entry.name == name]
        if len(kinds) > 1:
            choice = " or ".join(f"{k}:{name}" for k in kinds)
            raise ConfigurationError(f"{name!r} names a {' and a '.join(kinds)}; write {choice}")
        kind = kinds[0] if kinds else "sampler"
    entry = registry.find(kind, name)
    if options:
        made = _entry_build(entry, options)
        return Subject(kind, f"{kind} {text}", entry.factory, made, entry.conformance.expected_failures)
    return subjects_of_entry(entry)[0]


def _entry_build(entry: Entry, example: Any) -> Callable[..., Any]:
    if entry.kind == "sampler":
        return _sampler_from(entry.name, entry.factory, dict(example))
    if entry.kind == "evaluator":
        return lambda denoiser: entry.make(denoiser, **example)
    if callable(example):
        return lambda problem: example(problem)
    return lambda problem=None: entry.make(**example)


def _kind_of(thing: Any) -> str:
    for kind, base in KINDS.items():
        if isinstance(thing, base) or (inspect.isclass(thing) and issubclass(thing, base)):
            return kind
    whole = (Sampler, Composition)
    if isinstance(thing, whole) or (inspect.isclass(thing) and issubclass(thing, whole)):
        return "sampler"
    if isinstance(thing, Model) or (inspect.isclass(thing) and issubclass(thing, Model)):
        return "model"
    if inspect.isclass(thing) and callable(getattr(thing, "evaluate", None)):
        return "evaluator"
    if callable(thing):
        return "evaluator" if "denoiser" in inspect.signature(thing).parameters else "sampler"
    raise ConfigurationError(
        f"{thing!r} cannot be checked; pass a registered name, a strategy, a composition, a sampler or preset, a "
        "model, or an evaluator's factory (kind= says which it is)"
    )


def _fresh(thing: Any) -> Callable[..., Any]:
    """A new one each time: a class is called, an instance copied as it is now."""
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return lambda problem=None: thing()
    pristine = copy.deepcopy(thing)
    return lambda problem=None: copy.deepcopy(pristine)


def _sampler_from(label: str, thing: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """Builds a preset with other settings where it takes them."""
    preset = inspect.isclass(thing) or inspect.isroutine(thing)
    pristine = None if preset else copy.deepcopy(thing)

    def build(window: int | None = None, tolerance: float | None = None) -> Sampler:
        settings = {k: v for k, v in (("window", window), ("tolerance", tolerance)) if v is not None}
        if not preset:
            return _resized(label, copy.deepcopy(pristine), settings)
        known = options_of(thing)
        taken = {k: v for k, v in settings.items() if k in known and k not in options}
        made = call_factory(label, thing, (), {**options, **taken})
        return _resized(label, made, {k: v for k, v in settings.items() if k not in taken and k not in options})

    return build


def _resized(label: str, made: Any, settings: dict[str, Any]) -> Sampler:
    if isinstance(made, Engine):
        made = made.composition
    if isinstance(made, Composition):
        return Engine(attrs.evolve(made, **settings))
    if not isinstance(made, Sampler):
        raise ConfigurationError(f"{label} is {type(made).__name__}; a paracore.Sampler or Composition is needed")
    record: Any = made
    if attrs.has(type(made)):
        known = {field.name for field in attrs.fields(type(record)) if field.init}
        record = attrs.evolve(record, **{k: v for k, v in settings.items() if k in known})
    sampler: Sampler = record
    return sampler
