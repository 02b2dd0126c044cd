"""What rebuilds a sampler, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from paracore.compose import compose, sampler
from paracore.composition import KINDS, Composition
from paracore.distributions import OWN, own_version
from paracore.engine import Engine
from paracore.errors import ConfigurationError, ParacoreError, UnknownNameError, suggest
from paracore.plugins import Entry, registry
from paracore.plugins.calls import options_of, parse_call
from paracore.plugins.entry import IN_PROCESS
from paracore.recipes.parts import (
    call_or_table,
    options_from_plain,
    options_to_plain,
    part_from_plain,
    part_to_plain,
    rebuilt_by,
)
from paracore.sampler import Sampler

__all__ = ["MADE_WITH", "Recipe"]

MADE_WITH, PRESET = "made-with", "sampler"
SETTINGS = ("name", *(f.name for f in attrs.fields(Composition) if f.name not in (*KINDS, "name")))

Built = TypeVar("Built")


@attrs.frozen
class Recipe:
    """A composition part by part, or a preset and its options.

    Attributes:
        content: settings and parts of a composition; or ``sampler``, the preset's options, and parts that replace its
            own. Plain data.
        made_with: where each came from: ``{"paracore": version, kind: "distribution version"}``.
        source: the file's name, for messages; empty for a call.
    """

    content: Mapping[str, Any]
    made_with: Mapping[str, str] = attrs.field(factory=dict)
    source: str = ""

    @classmethod
    def of(cls, given: Sampler | Composition | str) -> Recipe:
        """Of a sampler or composition, or of a call like ``"deer(window=4)"``.

        Raises:
            ConfigurationError: for a part, or a sampler, that nothing registered rebuilds.
        """
        made = sampler(given) if isinstance(given, str) else given
        if type(made) is Engine:
            made = made.composition
        if isinstance(made, Composition):
            content = {name: getattr(made, name) for name in SETTINGS}
            content |= {kind: part_to_plain(kind, part) for kind, part in made.parts.items()}
        elif isinstance(given, str):
            name, options = parse_call(given)
            content = _preset(name, {**_defaults(name), **options_to_plain(options)})
        elif isinstance(made, Sampler):
            entry, options = rebuilt_by(PRESET, made)
            content = _preset(entry.name, {**_defaults(entry.name), **options})
        else:
            raise ConfigurationError(f"{made!r} is {type(made).__name__}; a Sampler or a Composition is needed")
        recipe = cls(content)
        return attrs.evolve(recipe, made_with=recipe.sources())

    @classmethod
    def read(cls, data: Any, source: str) -> Recipe:
        """Of what a file holds; nothing is built yet.

        Raises:
            ConfigurationError: for what cannot be a recipe, naming the key.
        """
        if not isinstance(data, Mapping):
            raise ConfigurationError(f"{source} holds {type(data).__name__}; a table of settings and parts is needed")
        if not data:
            raise ConfigurationError(f"{source} is empty; name at least one setting or part (window = 8, say)")
        content = {key: value for key, value in data.items() if key != MADE_WITH}
        if not isinstance(content.get(PRESET, ""), str):
            raise ConfigurationError(
                f"{source}: sampler is {content[PRESET]!r}; a name is needed (paracore list samplers)"
            )
        if PRESET not in content:
            _refuse_unknown(source, "key", content, [*SETTINGS, *KINDS, PRESET, MADE_WITH])
        made_with = data.get(MADE_WITH, {})
        if not isinstance(made_with, Mapping) or not all(isinstance(v, str) for v in made_with.values()):
            raise ConfigurationError(f"{source}: {MADE_WITH} is {made_with!r}; a table of names and versions is needed")
        _refuse_unknown(source, f"key in {MADE_WITH}", made_with, [OWN, PRESET, *KINDS])
        return cls(content, dict(made_with), source)

    def as_dict(self) -> dict[str, Any]:
        """What a file holds: settings first, then parts, then versions."""
        return {**self.content, MADE_WITH: dict(self.made_with)}

    def build(self, **options: Any) -> Sampler:
        """The sampler.

        Args:
            options: settings, preset options and parts that go before the recipe's own.

        Raises:
            UnknownNameError: for names that are not registered, with near matches.
            ConfigurationError: for options that are not allowed.
        """
        parts = {
            kind: self._named(kind, lambda kind=kind: part_from_plain(kind, self.content[kind]))  # type: ignore[misc]
            for kind in KINDS
            if kind in self.content and kind not in options
        }
        settings = {k: v for k, v in self.content.items() if k not in KINDS and k != PRESET and k not in options}
        if PRESET not in self.content:
            return self._named("", lambda: compose(**parts, **settings, **options))
        return self._named(PRESET, lambda: self._preset(settings, {**parts, **options}))

    def _preset(self, settings: dict[str, Any], more: Mapping[str, Any]) -> Sampler:
        name, inner = parse_call(self.content[PRESET])
        twice = sorted(set(inner) & set(self.content))
        if twice:
            raise ConfigurationError(f"{twice[0]} is given twice: in {self.content[PRESET]!r} and as a key")
        if "name" in settings or "name" in more:
            raise ConfigurationError(f"sampler {name!r} has no option 'name': presets name themselves; leave it out")
        given = {option: value for option, value in {**inner, **settings}.items() if option not in more}
        as_is = {option: given.pop(option) for option in list(given) if option in KINDS or given[option] == "auto"}
        return sampler(name, **options_from_plain(registry.find(PRESET, name), given), **as_is, **more)

    def _named(self, key: str, build: Callable[[], Built]) -> Built:
        """Errors with the file's name, and with the distribution that an unknown name came from."""
        if not self.source:
            return build()
        try:
            return build()
        except UnknownNameError as error:
            origin = self.made_with.get(key, IN_PROCESS)
            hint = "" if origin.startswith(IN_PROCESS) else f" (the file was made with {origin}: is it installed?)"
            raise self._placed(UnknownNameError, error, hint) from None
        except ConfigurationError as error:
            raise self._placed(ConfigurationError, error) from error

    def _placed(self, kind: type[ParacoreError], error: ParacoreError, hint: str = "") -> ParacoreError:
        placed = kind(f"{self.source}: {error}{hint}")
        for line in getattr(error, "__notes__", ()):
            placed.add_note(line)
        return placed

    def states(self, option: str) -> bool:
        """Whether it says a value for a setting or option."""
        return option in self.content or (PRESET in self.content and option in parse_call(self.content[PRESET])[1])

    def takes(self, option: str) -> bool:
        """Whether there is such a setting or option.

        Raises:
            UnknownNameError: for a preset that is not registered.
        """
        if PRESET not in self.content:
            return option in SETTINGS
        find = registry.find
        entry = self._named(PRESET, lambda: find(PRESET, parse_call(self.content[PRESET])[0]))
        return option in options_of(entry.factory)

    def anew(self) -> Recipe:
        """The recipe of the sampler that it builds here and now: parts, if that is a composition.

        Raises:
            UnknownNameError, ConfigurationError: as :meth:`build`.
        """
        made = self.build()
        return Recipe.of(made) if type(made) is Engine else attrs.evolve(self, made_with=self.sources())

    def entries(self) -> list[Entry]:
        """The registered names that it uses; those that are not registered are left out."""
        found = []
        for kind in (PRESET, *KINDS):
            given = self.content.get(kind)
            name = given.get("name") if isinstance(given, Mapping) else str(given).partition("(")[0].strip()
            found += [entry for entry in registry.entries(kind) if entry.name == name]
        return found

    def sources(self) -> dict[str, str]:
        """Where its names come from here and now, as in :attr:`made_with`."""
        return {OWN: own_version(), **{entry.kind: f"{entry.distribution} {entry.version}" for entry in self.entries()}}

    def differences(self) -> str:
        """One line about versions that are not those it was made with; empty if there are none."""
        now, changes = self.sources(), dict[tuple[str, str], list[str]]()
        for key, made in self.made_with.items():
            if key in now and now[key] != made:
                prefix = "paracore " if key == OWN else ""
                changes.setdefault((prefix + made, prefix + now[key]), []).extend([key] * (key != OWN))
        if not changes:
            return ""
        told = [
            f"{made} (here: {here}{'; ' if keys else ''}{', '.join(keys)})" for (made, here), keys in changes.items()
        ]
        return f"{self.source} was made with {', '.join(told)}: it may not give the same numbers"


def _preset(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    made = call_or_table(PRESET, name, options)
    return {PRESET: made} if isinstance(made, str) else made


def _defaults(name: str) -> dict[str, Any]:
    """A preset's defaults that a file can hold and needs to: what is null by default is the default without a word."""
    known = options_of(registry.find(PRESET, name).factory)
    return {
        option: default
        for option, (_, default) in known.items()
        if option not in KINDS and isinstance(default, (bool, int, float, str))
    }


def _refuse_unknown(source: str, what: str, given: Mapping[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            raise ConfigurationError(f"{source}: unknown {what} {key!r}; {suggest(key, known)}")
