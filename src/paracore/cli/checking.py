"""``paracore check``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paracore.cli.failures import BAD_INPUT, FAILED, fail
from paracore.cli.output import console
from paracore.errors import PluginError, UnknownNameError, suggest
from paracore.plugins import HOOKS, Entry, registry
from paracore.plugins.calls import parse_call

if TYPE_CHECKING:  # the kit is heavy: the other commands start without it
    from paracore.testing import Outcome, Report, Subject

__all__ = ["check", "owned"]


def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="NAME, KIND:NAME or 'NAME(option=value, ...)'; see: paracore list")
    ] = None,
    plugins: Annotated[
        list[str] | None, typer.Option("--plugin", help="Everything that a plugin registers, by its entry point.")
    ] = None,
    distributions: Annotated[
        list[str] | None, typer.Option("--distribution", help="Everything that a distribution registers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run the conformance kit on what is registered; exit code 1 if a contract is broken."""
    with redirect_stdout(sys.stderr):  # what is checked may print
        subjects = [
            *(subject for name in names or () for subject in _named(name)),
            *(subject for name in plugins or () for subject in owned("plugin", name)),
            *(subject for name in distributions or () for subject in owned("distribution", name)),
        ]
        if not subjects:
            raise fail("nothing to check: give NAME..., --plugin NAME or --distribution NAME", BAD_INPUT)
        reports = _run(subjects)
    if as_json:
        typer.echo(json.dumps(_plain(reports), indent=2))
    else:
        _print(reports)
    if not all(report.passed for report in reports):
        raise typer.Exit(FAILED)


def _named(text: str) -> list[Subject]:
    """What a name stands for: in each of the examples that its plugin gives, or with the options given here.

    Raises:
        UnknownNameError, ConfigurationError, PluginError.
    """
    from paracore.testing.subject import subject_of, subjects_of_entry

    kind, colon, rest = text.partition(":")
    told = bool(colon) and kind in HOOKS
    name, options = parse_call(rest if told else text)
    if not told and not any(name == entry.name for entry in registry.entries()):
        known = {entry.name for entry in registry.entries()}
        raise UnknownNameError(f"unknown name {name!r}; {suggest(name, known)}{registry.remark()}")
    subject = subject_of(text)
    entry = registry.find(subject.kind, name)
    if not options:
        return subjects_of_entry(entry)
    _build(entry, options)
    return [subject]


def _build(entry: Entry, options: dict[str, Any]) -> None:
    """Once, so that wrong options are an error of whoever gave them, and no broken contract.

    Raises:
        ConfigurationError.
    """
    arguments = [lambda x, t, rows: x] if entry.kind == "evaluator" else []
    close = getattr(entry.make(*arguments, **options), "close", None)
    if callable(close):
        close()


def owned(what: str, name: str) -> list[Subject]:
    """Everything that a plugin or a distribution registers.

    Raises:
        UnknownNameError: if there is none of that name.
        PluginError: if it is broken, registers nothing that can be checked, or shares a name with another plugin.
    """
    from paracore.testing.subject import subjects_of_entry

    for broken in registry.broken:
        if getattr(broken, what) == name:
            raise PluginError(f"plugin {broken.origin} cannot be used: {broken.cause}; paracore doctor shows where")
    owners = [plugin for plugin in registry.plugins if getattr(plugin, what) == name]
    if not owners:
        known = sorted({getattr(plugin, what) for plugin in registry.plugins})
        raise UnknownNameError(f"unknown {what} {name!r}; {suggest(name, known)}{registry.remark()}")
    entries = [registry.find(entry.kind, entry.name) for plugin in owners for entry in plugin.entries]
    if not entries:
        raise PluginError(f"{what} {name!r} registers nothing that can be checked")
    return [subject for entry in entries for subject in subjects_of_entry(entry)]


def _run(subjects: list[Subject]) -> list[Report]:
    """All checks, with a bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from paracore.testing.kit import Report, checks_for, outcomes

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = Console(stderr=True)
    reports = []
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
        total = sum(len(checks_for(subject)) for subject in subjects)
        task = progress.add_task("", total=total)

        def told(subject: Subject) -> Iterator[Outcome]:
            following = [*(one.__name__ for one in checks_for(subject)), ""]
            progress.update(task, description=f"{subject.label}: {following[0]}")
            for number, outcome in enumerate(outcomes(subject), start=1):
                progress.update(task, advance=1, description=f"{subject.label}: {following[number]}")
                yield outcome

        for subject in subjects:
            reports.append(Report(subject.label, tuple(told(subject))))
    return reports


def _plain(reports: list[Report]) -> dict[str, Any]:
    keys = ("check", "contract", "status", "message", "seconds")
    return {
        "passed": all(report.passed for report in reports),
        "subjects": [
            {
                "subject": report.subject,
                "passed": report.passed,
                "outcomes": [{key: getattr(outcome, key) for key in keys} for outcome in report.outcomes],
            }
            for report in reports
        ],
    }


_STYLES = {"passed": "green", "failed": "bold red", "expected": "yellow", "unexpected": "bold red"}


def _print(reports: list[Report]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for report in reports:
        held, seconds = len(report.outcomes) - len(report.failures), sum(o.seconds for o in report.outcomes)
        out.print(Text(f"{report.subject}: {held} of {len(report.outcomes)} checks hold ({seconds:.1f} s)", "bold"))
        table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column()
        for o in report.outcomes:
            what = Text(f"{o.check}\n{o.contract.replace('``', '')}")
            if o.message:
                what.append(f"\n{o.message}", _STYLES[o.status])
            table.add_row(Text(o.status, _STYLES[o.status]), Text(f"{o.seconds:.1f} s"), what)
        out.print(table, "")
    broken = [(r.subject, o.check) for r in reports for o in r.failures]
    total = sum(len(report.outcomes) for report in reports)
    if not broken:
        out.print(Text(f"All contracts hold: {total} checks.", "bold green"))
        return
    out.print(Text(f"{len(broken)} of {total} checks broken:", "bold red"))
    for subject, name in broken:
        out.print(Text(f"  {subject}: {name}"))
