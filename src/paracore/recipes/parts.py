"""Parts and their options as plain data, and back: from an instance to the registered name that rebuilds it."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from paracore.composition import KINDS
from paracore.errors import ConfigurationError
from paracore.plugins import Entry, registry
from paracore.plugins.calls import options_of, parse_call
from paracore.strategies import Strategy

if TYPE_CHECKING:  # only files need it
    import cattrs

__all__ = ["call_or_table", "options_from_plain", "options_to_plain", "part_from_plain", "part_to_plain", "rebuilt_by"]

_SCALARS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


class _NotPlainError(Exception):
    """A value that a file cannot hold; the message says which type it has."""


# -- parts ---------------------------------------------------------------------------------------------------------


def part_to_plain(kind: str, part: Strategy) -> dict[str, Any] | str:
    """A part as its table ``{"name": ..., option: ...}``, or as a call where a table cannot say it.

    Raises:
        ConfigurationError: for a part that nothing registered rebuilds, saying why and what to do.
    """
    entry, options = rebuilt_by(kind, part)
    return call_or_table("name", entry.name, options)


def part_from_plain(kind: str, value: Any) -> Any:
    """The part of a table, or of a string like ``"secant(memory=2)"``.

    Raises:
        UnknownNameError: for a name that is not registered, with near matches.
        ConfigurationError: for anything else that cannot be a part.
    """
    if isinstance(value, str):
        name, options = parse_call(value)
    elif isinstance(value, Mapping) and isinstance(value.get("name"), str):
        name, options = value["name"], {option: v for option, v in value.items() if option != "name"}
    elif isinstance(value, Mapping):
        given = f"name is {value['name']!r}" if "name" in value else "there is no name"
        raise ConfigurationError(f"{kind}: {given}; write name = '...' (paracore list {kind} shows them)")
    else:
        raise ConfigurationError(
            f"{kind} is {value!r}; a table with a name, or a string like 'name(option=value)', is needed"
        )
    entry = registry.find(kind, name)
    return entry.make(**options_from_plain(entry, options))


def rebuilt_by(kind: str, part: Any) -> tuple[Entry, dict[str, Any]]:
    """The registered name, and the options as plain data, that build an equal part (or sampler).

    Raises:
        ConfigurationError: if there are none, saying why and what to do.
    """
    refused = ""
    for entry in _candidates(kind, part):
        try:
            options = options_to_plain(_options(entry, part))
            made = part_from_plain(kind, call_or_table("name", entry.name, options))
        except _NotPlainError as error:
            reason = f"{error}, and a file holds numbers, words, lists and tables of them"
            if kind in KINDS:
                reason += f": save the sampler with another {kind}, and give this one when loading, "
                reason += f"paracore.load_sampler(path, {kind}=...)"
            refused = refused or reason
            continue
        except Exception as error:  # somebody else's code, asked for what it may not be able to do
            refused = refused or f"{entry.name!r} does not build it again ({error})"
            continue
        if _same(made, part):
            return entry, options
        if type(made) is type(part):
            refused = refused or (
                f"{entry.name!r} with its options builds one that is not equal (is it a record that compares by its "
                "options, like those of attrs.frozen?)"
            )
    if kind == "sampler":
        refused = (refused or "no registered preset builds it") + (
            "; give the call that made it, like 'deer(window=4)', or write the file by hand (sampler = 'deer')"
        )
    refused = refused or (
        f"{type(part).__name__} has no registered name; register it in a plugin, or for this process with "
        "paracore.registry.register"
    )
    raise ConfigurationError(f"{kind} {part!r} cannot be written: {refused}")


def _candidates(kind: str, part: Any) -> Iterator[Entry]:
    """Names that may build it: its class, then functions that do not say they return something else."""
    there = registry.entries(kind)
    yield from (entry for entry in there if entry.factory is type(part))
    for entry in there:
        if not inspect.isclass(entry.factory):
            try:
                promised = typing.get_type_hints(entry.factory).get("return")
            except Exception:  # annotations that only a type checker can read
                promised = None
            if not isinstance(promised, type) or isinstance(part, promised):
                yield entry


def _options(entry: Entry, part: Any) -> dict[str, Any]:
    """The part's attributes of the options' names; a function may have options that leave no attribute."""
    fields = {f.alias: f.name for f in attrs.fields(type(part))} if attrs.has(type(part)) else {}
    found = {}
    for option, (_, default) in options_of(entry.factory).items():
        value = getattr(part, fields.get(option, option), inspect.Parameter.empty)
        method = option not in fields and inspect.ismethod(value)
        replaced = entry.kind == "sampler" and option in KINDS  # a part in its place, for paracore.sampler
        null = value is None and default is None  # TOML has no null, and needs none here
        if not (method or replaced or null or value is inspect.Parameter.empty):
            found[option] = value
    return found


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if any("__eq__" in vars(base) for base in type(one).__mro__[:-1]):
        return bool(one == other)
    return _fields(one) == _fields(other)  # a plain class, or a record that compares by identity


def _fields(part: Any) -> dict[str, Any]:
    if attrs.has(type(part)):
        return {f.name: getattr(part, f.name) for f in attrs.fields(type(part))}
    return dict(vars(part))


# -- options -------------------------------------------------------------------------------------------------------


def options_to_plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as numbers, words, lists and tables.

    Raises:
        _NotPlainError: naming the option that is something else.
    """
    made = {}
    for name, value in options.items():
        try:
            made[name] = _plain(_converter().unstructure(value))
        except _NotPlainError as error:
            raise _NotPlainError(f"its option {name!r} is {error}") from None
    return made


def options_from_plain(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the types that the factory's annotations ask for: lists as tuples, words as enums, tables as parts.

    Raises:
        ConfigurationError: for a value that does not fit its annotation. Unknown names are left to the factory.
    """
    from cattrs import StructureHandlerNotFoundError
    from cattrs.errors import BaseValidationError

    known, made = options_of(entry.factory), {}
    for name, value in options.items():
        annotation = known.get(name, (Any, None))[0]
        made[name] = value
        if annotation in (Any, inspect.Parameter.empty) or isinstance(annotation, str):
            continue
        shown = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        wrong = f"{entry.kind} {entry.name!r}: option {name} is {value!r}; {shown} is needed"
        try:
            made[name] = _converter().structure(value, annotation)
        except StructureHandlerNotFoundError:  # a type that files know nothing of; a union of several
            if isinstance(annotation, type) and not isinstance(value, annotation):
                raise ConfigurationError(f"{wrong}, which a file cannot hold") from None
        except (BaseValidationError, TypeError, ValueError, KeyError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(wrong) from error
    return made


def call_or_table(key: str, name: str, options: Mapping[str, Any]) -> dict[str, Any] | str:
    """``{key: name, option: value}``; ``"name(option=value)"`` where there is a null, or an option called ``key``."""
    if key in options or any(_has_none(value) for value in options.values()):
        return f"{name}({', '.join(f'{option}={value!r}' for option, value in options.items())})"
    return {key: name, **options}


def _has_none(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return any(_has_none(v) for v in (value.values() if isinstance(value, dict) else value))
    return value is None


def _plain(value: Any) -> Any:
    """Numbers, words, lists and tables only; subclasses of them (a ``numpy.float64``, say) as what they stand for."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    for scalar in (int, float, str):
        if isinstance(value, scalar):
            return scalar(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(v) for key, v in value.items()}
    raise _NotPlainError(f"of type {type(value).__name__}")


@functools.cache
def _converter() -> cattrs.Converter:
    """Numbers and words as they are, never one for another; parts inside options by their tables."""
    import cattrs

    made = cattrs.Converter(forbid_extra_keys=True)
    for wanted, allowed in _SCALARS.items():
        made.register_structure_hook(wanted, functools.partial(_scalar, allowed))
    made.register_structure_hook_func(_is_strategy, lambda value, wanted: part_from_plain(_kind(wanted), value))
    made.register_unstructure_hook_func(_is_strategy, lambda part: part_to_plain(_kind(type(part)), part))
    return made


def _scalar(allowed: tuple[type, ...], value: Any, wanted: type) -> Any:
    if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{value!r} is no {wanted.__name__}")
    return value


def _is_strategy(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, tuple(KINDS.values()))


def _kind(strategy: type) -> str:
    return next(kind for kind, base in KINDS.items() if issubclass(strategy, base))
