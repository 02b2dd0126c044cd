"""What a distribution asks for, and what its extras would add, as its own metadata says."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence

import attrs

__all__ = ["Need", "extras_of", "needs_of"]

_NEED = re.compile(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?$", re.DOTALL)
_EXTRA = re.compile(r"\(?\s*extra\s*==\s*['\"]([^'\"]+)['\"]\s*\)?")


@attrs.frozen
class Need:
    """A distribution that another one asks for.

    Attributes:
        name: of the distribution that is needed.
        text: name, extras and versions, as they are asked for, without the extra that asks.
        installed: the version that is there, or ``None``.
        enough: whether it is there and new enough; ``None`` where that is not for us to judge: versions other than
            lower bounds, or needs of some machines only.
    """

    name: str
    text: str
    installed: str | None
    enough: bool | None


def needs_of(distribution: str) -> list[Need]:
    """What a distribution cannot do without; empty if it is not installed, or says nothing."""
    return [need for extra, need in _read(distribution) if extra is None]


def extras_of(distribution: str) -> dict[str, list[Need]]:
    """What each extra of a distribution asks for, by the extra's name."""
    try:
        names: Sequence[str] = importlib.metadata.metadata(distribution).get_all("Provides-Extra") or ()
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[Need]] = {name: [] for name in names}
    for extra, need in _read(distribution):
        if extra is not None:
            found.setdefault(extra, []).append(need)
    return found


def _read(distribution: str) -> list[tuple[str | None, Need]]:
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [found for line in lines if (found := _parsed(line))]


def _parsed(line: str) -> tuple[str | None, Need] | None:
    parts = _NEED.match(line)
    if parts is None:
        return None
    name, inner, bounds, marker = parts[1], parts[2], parts[3].strip(), parts[4] or ""
    extra = _EXTRA.search(marker)
    rest = re.sub(r"^\s*(and|or)\b|\b(and|or)\s*$", "", _EXTRA.sub("", marker)).strip()
    text = f"{name}{f'[{inner}]' if inner else ''}{bounds}{f' ({rest})' if rest else ''}"
    try:
        installed: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    enough = None if rest else installed is not None and _reaches(installed, bounds)
    return (extra[1] if extra else None), Need(name, text, installed, enough)


def _reaches(installed: str, bounds: str) -> bool | None:
    """Whether a version is within lower bounds; ``None`` for bounds of another form."""
    asked = [bound.strip() for bound in bounds.split(",") if bound.strip()]
    lower = [re.fullmatch(r">=\s*(\d+(?:\.\d+)*)", bound) for bound in asked]
    release = re.match(r"\d+(?:\.\d+)*", installed)
    if release is None or not all(lower):
        return None
    return all(_numbers(release[0]) >= _numbers(bound[1]) for bound in lower if bound)


def _numbers(version: str) -> list[int]:
    numbers = [int(n) for n in version.split(".")]
    while numbers and numbers[-1] == 0:  # 2.0 is 2
        numbers.pop()
    return numbers
