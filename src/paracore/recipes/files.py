"""Recipes as text and files."""

from __future__ import annotations

import json
import os
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paracore.composition import Composition
from paracore.errors import ConfigurationError, VersionWarning, suggest
from paracore.recipes.recipe import Recipe
from paracore.sampler import Sampler

__all__ = ["dumps", "is_file", "load_sampler", "loads", "read", "save_sampler", "write"]

HEADER = "# A sampler of paracore: paracore.load_sampler(FILE), or paracore sample --sampler FILE.\n\n"


def save_sampler(sampler: Sampler | Composition | str, path: str | os.PathLike[str]) -> None:
    """Write what rebuilds a sampler, with the versions of what it is made of; whole or not at all.

    Args:
        sampler: a sampler, a composition, or a call like ``"deer(window=4)"``.
        path: ends with ``.toml`` or ``.json``.

    Raises:
        ConfigurationError: for a part that nothing registered rebuilds (an option that is a tensor, a class without a
            registered name), or another ending.
        OSError: if the file cannot be written; an older one is as it was.
    """
    target = Path(path)
    data = dumps(sampler, _format(target)).encode()
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load_sampler(path: str | os.PathLike[str], **options: Any) -> Sampler:
    """The sampler of a file.

    Args:
        path: ends with ``.toml`` or ``.json``.
        options: settings, options and parts that go before the file's: ``window=4``, ``stopping="change"``.

    Returns:
        The sampler: an :class:`~paracore.Engine` for a composition.

    Raises:
        FileNotFoundError: if there is none.
        UnknownNameError: for a name that is not registered, with near matches.
        ConfigurationError: for a damaged file (with the line), unknown keys, or options that are not allowed.

    Warns:
        VersionWarning: if it was made with other versions.
    """
    return _built(read(path), options)


def dumps(sampler: Sampler | Composition | str, format: str = "toml") -> str:
    """What :func:`save_sampler` writes, as a string.

    Args:
        sampler: a sampler, a composition, or a call like ``"deer(window=4)"``.
        format: ``"toml"`` or ``"json"``.

    Raises:
        ConfigurationError: as :func:`save_sampler`.
    """
    return write(Recipe.of(sampler), format)


def loads(text: str, format: str = "toml", **options: Any) -> Sampler:
    """What :func:`load_sampler` returns, from a string.

    Raises:
        UnknownNameError, ConfigurationError: as :func:`load_sampler`.
    """
    return _built(_parsed(text, format, f"the {format.upper()} text"), options)


def is_file(call: str) -> bool:
    """Whether it is a file's name, not one of a preset: presets have no dots."""
    return call.lower().endswith((".toml", ".json"))


def read(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a file.

    Raises:
        FileNotFoundError, ConfigurationError: as :func:`load_sampler`.
    """
    target = Path(path)
    format = _format(target)
    try:
        text = target.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{target} is damaged: line {line} is no UTF-8 text") from None
    return _parsed(text, format, str(target))


def write(recipe: Recipe, format: str) -> str:
    """A recipe as text.

    Raises:
        ConfigurationError: for what the format cannot hold.
    """
    data, as_json = recipe.as_dict(), _known(format) == "json"
    try:
        if as_json:
            return json.dumps(data, indent=2, allow_nan=False) + "\n"
        import tomli_w

        text = HEADER + tomli_w.dumps(data)
        text.encode()
        return text
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"TOML cannot hold {error.object[error.start : error.end]!r}; write JSON") from None
    except ValueError:
        raise ConfigurationError("JSON has no infinite numbers, and this sampler has one; write TOML") from None


def _built(recipe: Recipe, options: Mapping[str, Any]) -> Sampler:
    made = recipe.build(**options)
    differences = recipe.differences()
    if differences:
        warnings.warn(differences, VersionWarning, stacklevel=3)
    return made


def _parsed(text: str, format: str, source: str) -> Recipe:
    parse: Callable[[str], Any] = _json if _known(format) == "json" else tomllib.loads
    try:
        data = parse(text)
    except (ValueError, RecursionError) as error:
        cause = "its brackets are nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigurationError(f"{source} is damaged: {cause}") from None
    return Recipe.read(data, source)


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is given twice in one table")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


def _format(path: Path) -> str:
    if not is_file(path.name):
        raise ConfigurationError(f"{path}: the ending says the format; .toml or .json is needed")
    return path.suffix[1:].lower()


def _known(format: str) -> str:
    if format not in ("toml", "json"):
        raise ConfigurationError(f"unknown format {format!r}; {suggest(format, ('toml', 'json'))}")
    return format
