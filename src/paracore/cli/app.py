"""The application: its commands, and one place where every error becomes one line."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import pluggy
import typer
from typer.core import TyperGroup
from typer.main import get_group

from paracore.cli.citing import cite
from paracore.cli.comparing import compare
from paracore.cli.failures import INTERRUPTED, fail, note, report
from paracore.cli.listing import list_, show
from paracore.cli.output import own_version
from paracore.cli.sampling import sample
from paracore.plugins.hookspecs import HookSpecs
from paracore.plugins.registry import GROUP

__all__ = ["app", "main"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class OneLineGroup(TyperGroup):
    """Reports every error as one line on stderr, with the exit code of its kind.

    Commands of plugins are mounted when help is printed or an unknown command is asked for: the others work whatever
    plugins do.
    """

    _mounted = False

    def list_commands(self, ctx: Any) -> list[str]:
        """The core's commands, then those of plugins."""
        self._mount()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command of the core or, if it has none of that name, of a plugin."""
        if cmd_name not in self.commands:
            self._mount()
        return super().get_command(ctx, cmd_name)

    def _mount(self) -> None:
        if self._mounted:
            return
        self._mounted = True
        owners = dict.fromkeys(self.commands, "paracore")
        for plugin, name, command in _plugin_commands():
            if name in owners:
                note(f"the command {name!r} of plugin {plugin} is left out: {owners[name]} has one of that name")
                continue
            owners[name] = plugin
            self.add_command(command, name)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is one line too."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise fail("interrupted", INTERRUPTED) from stop

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            code = report(error)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _plugin_commands() -> Iterator[tuple[str, str, Any]]:
    """``(plugin, name, command)`` of installed plugins; what cannot be used is said on stderr."""
    disabled = {name.strip() for name in os.environ.get("PARACORE_DISABLE_PLUGINS", "").split(",")}
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda p: p.name):
        if point.name in disabled or "all" in disabled:
            continue
        try:
            yield from [(point.name, name, made) for name, made in _commands_of(point.name, point.load())]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even exit
            note(f"commands of plugin {point.name} cannot be used: {type(error).__name__}: {error}")


def _commands_of(plugin: str, module: object) -> list[tuple[str, Any]]:
    manager = pluggy.PluginManager("paracore")
    manager.add_hookspecs(HookSpecs)
    manager.register(module, name=plugin)
    found: list[tuple[str, Any]] = []
    for answer in manager.hook.paracore_commands():
        if not isinstance(answer, Mapping):
            raise TypeError(f"paracore_commands returned {type(answer).__name__}; a dict of names and typer.Typer")
        for name, made in answer.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(made, typer.Typer):
                raise TypeError(
                    f"paracore_commands registers {name!r} as {type(made).__name__}; a typer.Typer is needed"
                )
            command = get_group(made)
            command.name = name
            found.append((name, command))
    return found


app = typer.Typer(
    name="paracore",
    cls=OneLineGroup,
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Parallel-in-time sampling of diffusion models.",
    epilog="Errors are one line on stderr; PARACORE_DEBUG=1 shows tracebacks. Exit codes: 2 bad input, 1 failed run, "
    "130 interrupted.",
)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"paracore {own_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


app.command("list", short_help="List everything that has a name.")(list_)
app.command("show", short_help="Show the options of a name, and where it comes from.")(show)
app.command("cite", short_help="Print BibTeX of what was used.")(cite)
app.command("sample", short_help="Draw samples from a model in parallel in time.")(sample)
app.command("compare", short_help="Hold samplers against the sequential one.")(compare)


def main() -> None:
    """The ``paracore`` program."""
    app(prog_name="paracore")
