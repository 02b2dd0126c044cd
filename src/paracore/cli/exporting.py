"""``paracore export``."""

from __future__ import annotations

from typing import Annotated

import typer

from paracore.cli.problems import read_sampler
from paracore.recipes.files import is_file, write
from paracore.recipes.recipe import Recipe

__all__ = ["export"]


def export(
    sampler: Annotated[str, typer.Argument(help="NAME, 'NAME(option=value, ...)' or a .toml or .json file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of TOML.")] = False,
) -> None:
    """Print what rebuilds a sampler, part by part, as a file for --sampler."""
    recipe = read_sampler(sampler).anew() if is_file(sampler) else Recipe.of(sampler)
    typer.echo(write(recipe, "json" if as_json else "toml"), nl=False)
