"""Strings like ``"secant(memory=2)"``, and calling factories with options from outside."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paracore.deprecation import current_options
from paracore.errors import ConfigurationError, suggest

__all__ = ["call_factory", "options_of", "parse_call"]


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """``"name(option=value, ...)"`` as ``(name, options)``; values are Python literals, bare words are strings.

    Raises:
        ConfigurationError: for anything else.
    """
    name, bracket, rest = text.strip().partition("(")
    name = name.strip()
    if not name:
        raise ConfigurationError(f"{text!r} has no name; write it like 'secant(memory=2)'")
    if not bracket:
        return name, {}
    if not rest.endswith(")"):
        raise ConfigurationError(f"{text!r} lacks its closing bracket; write it like 'secant(memory=2)'")
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
    except SyntaxError as error:
        raise ConfigurationError(f"{text!r} cannot be read ({error.msg}); write it like 'secant(memory=2)'") from None
    single = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)  # not "name(...)(...)"
    if not isinstance(call, ast.Call) or not single or call.args or any(k.arg is None for k in call.keywords):
        raise ConfigurationError(f"{text!r}: options are given by name, like 'secant(memory=2)'")
    names = [str(k.arg) for k in call.keywords]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{text!r} gives an option twice")
    return name, {str(k.arg): _literal(text, k.value) for k in call.keywords}


def _literal(text: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    source = ast.unparse(node).replace(" ", "")
    if all(c.isalnum() or c in "-_." for c in source):  # a kebab-case word parses as a difference
        return source
    raise ConfigurationError(f"{text!r}: {source} is no number, word or quoted string")


def options_of(factory: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """``{option: (annotation, default)}``; ``inspect.Parameter.empty`` where there is no default."""
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:
        hints = {}
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-in types have none
        return {}
    return {
        name: (hints.get(name, parameter.annotation), parameter.default)
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def call_factory(label: str, factory: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Call a factory; unknown, missing or ill-typed options raise a one-line error.

    Raises:
        ConfigurationError.
    """
    known = options_of(factory)
    options = current_options(label, factory, options)
    for name, value in options.items():
        if name not in known:
            there = list(known)[len(args) :]
            near = suggest(name, there) if there else "it takes no options"
            raise ConfigurationError(f"{label} has no option {name!r}; {near}")
        annotation = known[name][0]
        if not _fits(value, annotation):
            raise ConfigurationError(f"{label}: option {name} is {value!r}; {_name(annotation)} is needed")
    given = {*list(known)[: len(args)], *options}
    missing = [n for n, (_, default) in known.items() if default is inspect.Parameter.empty and n not in given]
    if missing:
        raise ConfigurationError(f"{label} needs the option {missing[0]!r}")
    return factory(*args, **options)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value may stand for an annotation; only simple annotations are judged."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in typing.get_args(annotation))
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is type(None):
        return value is None
    return True


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
