"""``paracore new``: a complete small distribution, which installs and passes the conformance kit at once.

The templates are in ``templates/``; copier renders them. Of the two template libraries that are well kept it is the one
whose templates carry a suffix (``plugin.py.jinja``), so that no linter, type checker or build back end takes them for
Python, and that may share pieces between files. It neither reads nor writes the user's home, where cookiecutter keeps
its settings and replays, and brings no client for the network. Both weigh about the same (25 to 35 MB with all that
they need), which is why it is the extra ``new`` and no dependency.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import keyword
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from paracore.composition import KINDS
from paracore.distributions import own_version
from paracore.errors import ConfigurationError, suggest
from paracore.plugins import HOOKS, registry

__all__ = ["CREATED", "create", "new"]

TEMPLATES = Path(__file__).parent / "templates"
PYTHON = "3.11"
"""The oldest Python that a plugin has to support; paracore's own."""

CREATED: dict[str, tuple[str, tuple[str, ...]]] = {
    "residual": ("A residual construction", ("attrs", "numpy")),
    "jacobian": ("A Jacobian approximation", ("attrs", "torch")),
    "preconditioner": ("A preconditioner", ("attrs", "torch")),
    "damping": ("A damping policy", ("attrs", "numpy")),
    "stopping": ("A stopping rule", ("attrs",)),
    "initializer": ("An initial guess", ("attrs",)),
    "selection": ("A selection of rows", ("attrs", "numpy")),
    "sampler": ("A sampler", ()),
    "model": ("A model", ("torch",)),
    "evaluator": ("An evaluator", ("attrs", "torch")),
}
"""What can be written: by kind, what it is, and what its module imports beside paracore."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TAKEN: tuple[str, ...] = (
    "any",
    "bools",
    "callable",
    "class-var",
    "floats",
    "ints",
    "local",
    "mapping",
    "row-weights",
    "scheme",
)
_TAKEN += ("scheme-error", "paracore")
"""Names whose class or function would hide something that a template imports."""

Folder = Annotated[Path, typer.Option("--folder", help="Where the distribution's own folder is made.")]
Name = Annotated[str, typer.Argument(help="What it is registered as, a kebab-case name like gain-ratio.")]

new = typer.Typer(no_args_is_help=False, rich_markup_mode=None, help="Write a distribution of your own.")


@new.command("plugin", short_help="A strategy or a sampler.")
def plugin(
    name: Name,
    kind: Annotated[str, typer.Option("--kind", help="A kind of strategy, or sampler.")] = "damping",
    folder: Folder = Path("."),
) -> None:
    """Write paracore-NAME: one working strategy, registered as NAME, with its tests."""
    kinds = [*KINDS, "sampler"]
    if kind not in kinds:
        elsewhere = f"; paracore new {kind} NAME writes one" if kind in CREATED else ""
        raise ConfigurationError(f"unknown --kind {kind!r}{elsewhere or '; ' + suggest(kind, kinds)}")
    _tell(name, kind, create(name, kind, folder))


@new.command("model", short_help="A model.")
def model(name: Name, folder: Folder = Path(".")) -> None:
    """Write paracore-NAME: one working model, registered as NAME, with its tests."""
    _tell(name, "model", create(name, "model", folder))


@new.command("evaluator", short_help="An evaluator.")
def evaluator(name: Name, folder: Folder = Path(".")) -> None:
    """Write paracore-NAME: one working evaluator, registered as NAME, with its tests."""
    _tell(name, "evaluator", create(name, "evaluator", folder))


def create(name: str, kind: str, folder: Path) -> Path:
    """Write the distribution ``paracore-NAME`` into a folder: all of it, or nothing.

    Args:
        name: kebab-case; what it is registered as.
        kind: one of :data:`CREATED`.
        folder: where the distribution's own folder is made.

    Returns:
        The distribution's folder.

    Raises:
        ConfigurationError: for a name that cannot be used, a folder that is there, or a missing extra.
    """
    values = _values(name, kind)
    target = folder / str(values["distribution"])
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} is there already; choose another name or --folder")
    if not folder.is_dir():
        raise ConfigurationError(f"--folder {folder} is no folder; make it, or choose another")
    run_copy = _copier()
    # within the folder: the same file system, so that the finished whole is moved in one step
    draft = Path(tempfile.mkdtemp(dir=folder, prefix=".paracore-"))
    try:
        run_copy(str(TEMPLATES), draft / target.name, data=values, defaults=True, quiet=True)
        os.rename(draft / target.name, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _copier() -> Any:
    try:
        from copier import run_copy
    except ImportError as error:
        raise ConfigurationError(
            f"paracore new needs copier ({error}); install it with: pip install 'paracore[new]'"
        ) from error
    return run_copy


def _values(name: str, kind: str) -> dict[str, Any]:
    """What the templates are filled in with."""
    distribution, package = f"paracore-{name}", f"paracore_{name.replace('-', '_')}"
    function = name.replace("-", "_")
    symbol = function if kind == "sampler" else "".join(word.capitalize() for word in name.split("-"))
    _check_name(name, distribution, package, symbol)
    major, minor = (int(number) for number in own_version().split(".")[:2])
    summary, needs = CREATED[kind]
    return {
        "name": name,
        "kind": kind,
        "distribution": distribution,
        "package": package,
        "module": kind,
        "symbol": symbol,
        "hook": HOOKS[kind],
        "summary": summary,
        "what": summary[0].lower() + summary[1:],
        "needs": needs,
        "versions": f">={major}.{minor},<{major}.{minor + 2}",
        "python": PYTHON,
        "year": datetime.date.today().year,
        "strategies": [*KINDS],
        "jvp": kind == "jacobian",  # what the example of this kind needs beside it
        "beside": 'jacobian="identity"' if kind in ("residual", "preconditioner") else "",
    }


def _check_name(name: str, distribution: str, package: str, symbol: str) -> None:
    """See that a name can be used, and that nobody has it.

    Raises:
        ConfigurationError.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"the name is {name!r}; a kebab-case word is needed, like gain-ratio")
    if name.startswith("paracore-"):
        raise ConfigurationError(
            f"the name is {name!r}; the distribution gets its paracore- itself: give {name.removeprefix('paracore-')!r}"
        )
    if keyword.iskeyword(symbol) or name in _TAKEN:
        raise ConfigurationError(f"the name {name!r} means something else in Python or in a template; choose another")
    owners = [f"a {entry.kind} of {entry.origin}" for entry in registry.entries() if entry.name == name]
    owners += [f"the plugin {one.origin}" for one in (*registry.plugins, *registry.disabled) if one.plugin == name]
    owners += [f"the plugin {one.origin}" for one in registry.broken if one.plugin == name]
    if importlib.util.find_spec(package) is not None:
        owners.append(f"the installed package {package}")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        owners.append(f"the installed distribution {distribution} {importlib.metadata.version(distribution)}")
    if owners:
        raise ConfigurationError(f"the name {name!r} is taken by {' and '.join(owners)}; choose another")


def _tell(name: str, kind: str, target: Path) -> None:
    """What was written, and what to do next."""
    what = CREATED[kind][0]
    typer.echo(f"{target}: {what[0].lower()}{what[1:]}, {name!r}, that works, with its tests. Next:")
    typer.echo(f"  python -m pip install -e '{target}[test]'")
    typer.echo(f"  paracore check {kind}:{name}")
    typer.echo(f"  python -m pytest {target}")
