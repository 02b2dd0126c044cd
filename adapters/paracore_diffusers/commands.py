"""``paracore diffusers schedulers`` and ``paracore diffusers check``."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paracore.cli.failures import FAILED
from paracore.cli.output import versions, write_json
from paracore.errors import ConfigurationError, suggest
from paracore_diffusers.commands_output import plain, print_check, print_schedulers, print_static

if TYPE_CHECKING:
    from paracore_diffusers.survey import SurveyRecord

__all__ = ["app"]

app = typer.Typer(
    name="diffusers",
    help="What can be run parallel in time: schedulers and pipelines of diffusers.",
    rich_markup_mode=None,
)

Steps = Annotated[int, typer.Option("--steps", min=2, help="Steps of every run: few are enough.")]


@app.command("schedulers", short_help="The table of all schedulers of the installed diffusers.")
def schedulers(
    steps: Annotated[str, typer.Option("--steps", help="Numbers of steps, separated by commas.")] = "12,50",
    only: Annotated[list[str] | None, typer.Option("--only", help="A scheduler's class name; may be repeated.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/diffusers-schedulers.md.")] = False,
    path: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Try every scheduler of the installed diffusers in many configurations: exact, replayed or refused, and why.

    The exit code is 1 if one of them is silently wrong.
    """
    _needed()
    from paracore_diffusers.survey import survey_markdown

    counts = _counts(steps)
    if path is not None and not path.parent.is_dir():
        raise ConfigurationError(f"--json {path}: there is no folder {path.parent}")
    records = _surveyed(counts, only)
    if path is not None:
        write_json(path, {"versions": _versions(), "steps": counts, "records": [plain(r) for r in records]})
    if markdown:
        typer.echo(survey_markdown(records), nl=False)
    else:
        print_schedulers(records)
    if any(r.verdict == "wrong" for r in records):
        raise typer.Exit(FAILED)


@app.command("check", short_help="Whether a pipeline is supported, and how.")
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE_OR_PATH",
            help="A folder made by save_pretrained, a hub id that is in the cache, or module:function that returns a "
            "pipeline or (pipeline, keyword arguments of its call).",
        ),
    ],
    call: Annotated[
        list[str] | None,
        typer.Option("--call", help="Arguments of the call: a JSON object, or KEY=VALUE; may be repeated."),
    ] = None,
    steps: Steps = 6,
    window: Annotated[int, typer.Option("--window", min=2, help="Evaluations per round.")] = 4,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, bfloat16 or float16, for what is loaded.")
    ] = "float32",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    static: Annotated[bool, typer.Option("--static", help="Run nothing: the verdict on its scheduler alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a pipeline for a few steps alone and in parallel (exactly, and merged at tolerance 0); say what came of it.

    Exit codes: 0 supported, 1 not, 2 if the pipeline cannot be found or does not run by itself.
    """
    _needed()
    from paracore_diffusers.checking import check as run
    from paracore_diffusers.checking import scheduler_verdict
    from paracore_diffusers.targets import arguments, default_arguments, load

    asked = arguments(call or [])
    with _quiet():
        pipe, given = load(target, dtype)
        if device != "cpu":
            _move(pipe, device)
        if callable(getattr(pipe, "set_progress_bar_config", None)):
            pipe.set_progress_bar_config(disable=True)
        if static:
            verdict = scheduler_verdict(pipe, steps)
        else:
            filled = default_arguments(pipe, {**given, **asked})
            found = run(pipe, {**filled, **given, **asked}, steps=steps, window=window)
    if static:
        print_static(pipe, verdict, as_json)
        supported = verdict is not None and verdict.verdict in ("exact", "replayed")
    else:
        if as_json:
            typer.echo(json.dumps({"versions": _versions(), **plain(found)}, indent=2, allow_nan=False))
        else:
            print_check(found, sorted(filled))
        supported = found.supported
    if not supported:
        raise typer.Exit(FAILED)


# -- schedulers -------------------------------------------------------------------------------------------------------


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 2:
        raise ConfigurationError(f"--steps is {text!r}; integers of at least 2 separated by commas are needed: 12,50")
    return counts


def _surveyed(counts: Sequence[int], only: Sequence[str] | None) -> list[SurveyRecord]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from paracore_diffusers.survey import survey
    from paracore_diffusers.survey_cases import classes, unavailable

    known = [*(kind.__name__ for kind in classes()), *unavailable()]
    for name in only or []:
        if name not in known:
            raise ConfigurationError(f"unknown scheduler {name!r}; {suggest(name, known)}")
    chosen = [name for name in known if not only or name in only]
    records: list[SurveyRecord] = []
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", total=len(chosen))
        for name in chosen:
            progress.update(task, description=name)
            records += survey(counts, only=[name])
            progress.advance(task)
    return records


def _move(pipe: Any, device: str) -> None:
    try:
        pipe.to(device)
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"--device is {device!r}; the pipeline cannot be moved there: {what}") from error


# -- both -------------------------------------------------------------------------------------------------------------


def _needed() -> None:
    try:
        with _quiet():
            import diffusers  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"diffusers cannot be imported ({error}); pip install 'paracore[diffusers]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and log lines of diffusers and transformers: what matters is in the verdict."""
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logs: list[Any] = []
        for name in ("diffusers", "transformers"):
            with suppress(ImportError):
                logs.append(importlib.import_module(f"{name}.utils.logging"))
        levels = [log.get_verbosity() for log in logs]
        for log in logs:
            log.set_verbosity(logging.CRITICAL)
            log.disable_progress_bar()
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.set_verbosity(level)
                log.enable_progress_bar()


def _versions() -> dict[str, str]:
    import importlib.metadata as metadata

    found = versions()
    for name in ("diffusers", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
