"""What ``paracore diffusers`` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import typer

from paracore.cli.output import console

if TYPE_CHECKING:
    from paracore_diffusers.checking import PipelineCheck
    from paracore_diffusers.survey import SurveyRecord

__all__ = ["plain", "print_check", "print_schedulers", "print_static"]


def print_schedulers(records: Sequence[SurveyRecord]) -> None:
    """The table, one row a run."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in ("scheduler", "options", "steps", "verdict", "error"):
        table.add_column(head, no_wrap=head not in ("options", "scheduler"))
    table.add_column("cause")
    for r in records:
        error = "" if r.error is None else f"{r.error:.1e}"
        table.add_row(*(Text(cell) for cell in (r.name, r.options, str(r.steps), r.verdict, error, r.cause)))
    console().print(table)
    verdicts = [r.verdict for r in records]
    counted = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    typer.echo(f"{len(records)} runs of {len({(r.name, r.options) for r in records})} configurations: {counted}")


def print_static(pipe: Any, verdict: SurveyRecord | None, as_json: bool) -> None:
    """The verdict on a pipeline's scheduler."""
    if as_json:
        record = None if verdict is None else plain(verdict)
        typer.echo(json.dumps({"pipeline": type(pipe).__name__, "scheduler": record}, indent=2, allow_nan=False))
        return
    typer.echo(f"{type(pipe).__name__}: its scheduler, {_scheduler(verdict)}")


def _scheduler(verdict: SurveyRecord | None) -> str:
    if verdict is None:
        return "none"
    error = "" if verdict.error is None else f", error {verdict.error:.1e}"
    cause = f" ({verdict.cause})" if verdict.cause else ""
    return f"{verdict.name}: {verdict.verdict}{error}{cause}"


def print_check(found: PipelineCheck, filled: Sequence[str]) -> None:
    """All that was found; ``filled`` are arguments that nobody gave."""
    say = typer.echo
    say(f"{found.pipeline}: {'supported' if found.supported else 'NOT supported'}, route: {found.route}")
    if found.why:
        say(f"  why          {found.why}")
    say(f"  scheduler    {_scheduler(found.scheduler)}")
    say(f"  networks     {', '.join(f'{name} ({kind})' for name, kind in found.networks.items()) or 'none'}")
    if filled:
        say(f"  filled in    {', '.join(filled)} (give your own with --call)")
    repeats = "" if found.repeats else "; it gives other bits when run twice: bits cannot be compared"
    say(f"  alone        {found.steps} steps, {found.network_calls} network calls, {found.seconds:.2f} s{repeats}")
    for trial in found.trials:
        if trial.refused:
            say(f"  {trial.mode:12} refused{'' if trial.refused == found.why else f': {trial.refused}'}")
            continue
        bits = "the same bits" if trial.equal else f"relative error {trial.error:.1e}"
        say(
            f"  {trial.mode:12} {bits}; {trial.rounds} rounds, {trial.evaluations} evaluations, "
            f"{trial.network_calls} network calls, {trial.seconds:.2f} s"
        )
        for network, verdict in trial.merges.items():
            say(f"               {network}: {verdict}")
    say(f"  afterwards   {'the pipeline is as it was' if found.untouched else 'the pipeline gives OTHER bits'}")
    if not found.supported:
        say("  parallelize(pipe, on_unsupported='sequential') runs it as it is.")


def plain(record: Any) -> dict[str, Any]:
    """Ready for strict JSON: numbers that are not finite become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    made: dict[str, Any] = clean(attrs.asdict(record))
    return made
