"""The application: its commands, and one place where every error becomes one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from paracore.cli.checking import check
from paracore.cli.citing import cite
from paracore.cli.comparing import compare
from paracore.cli.creating import new
from paracore.cli.doctor import doctor
from paracore.cli.exporting import export
from paracore.cli.failures import INTERRUPTED, fail, note, report
from paracore.cli.listing import list_, show
from paracore.cli.mounting import plugin_commands
from paracore.cli.sampling import sample
from paracore.distributions import own_version

__all__ = ["app", "main"]


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
        for plugin, name, command in plugin_commands():
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
app.command("export", short_help="Print a sampler as a file.")(export)
app.command("check", short_help="Run the conformance kit on what is registered.")(check)
app.command("doctor", short_help="Say what is installed, and what is broken.")(doctor)
app.command("sample", short_help="Draw samples from a model in parallel in time.")(sample)
app.command("compare", short_help="Hold samplers against the sequential one.")(compare)
app.add_typer(new, name="new", short_help="Write a distribution of your own: a plugin, model or evaluator.")


def main() -> None:
    """The ``paracore`` program."""
    app(prog_name="paracore")
