"""``paracore compare``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import attrs
import typer

from paracore.cli.failures import FAILED, fail, note
from paracore.cli.options import (
    Classes,
    Count,
    Device,
    EvaluatorCall,
    Guidance,
    MaxBatch,
    ModelCall,
    SchemeCall,
    Seed,
    Steps,
    Threads,
)
from paracore.cli.output import check_writable, console, path_of, versions, write, write_json
from paracore.cli.problems import (
    Task,
    build_evaluator,
    build_task,
    close,
    finite,
    is_main,
    read_sampler,
    split_calls,
)
from paracore.engine import Engine
from paracore.errors import ConfigurationError
from paracore.harness import Comparison, Progress
from paracore.harness import compare as run
from paracore.parts import ErrorTarget
from paracore.plugins import Entry
from paracore.recipes.recipe import Recipe
from paracore.sampler import Sampler

__all__ = ["compare"]


def compare(
    model: ModelCall,
    samplers: Annotated[
        str,
        typer.Option(
            "--samplers", help="Names, calls or files, separated by commas: 'picard,jacobi(window=4),my.toml'."
        ),
    ],
    window: Annotated[
        str | None, typer.Option("--window", help="One or more, separated by commas, for samplers without their own.")
    ] = None,
    steps: Steps = 50,
    scheme: SchemeCall = "flow-euler",
    guidance: Guidance = 1.0,
    seed: Seed = 0,
    classes: Classes = None,
    count: Count = None,
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="Solve every sample alone; else all are one batch.")
    ] = False,
    repeats: Annotated[int, typer.Option("--repeats", help="Timings per row; the median is shown.")] = 1,
    error_target: Annotated[
        float | None,
        typer.Option(
            "--error-target", "--tolerance", help="For samplers that stop by an error target; others keep their own."
        ),
    ] = None,
    max_batch: MaxBatch = None,
    evaluator: EvaluatorCall = "batched",
    device: Device = "cpu",
    threads: Threads = None,
    out: Annotated[str | None, typer.Option("--out", help="Write PREFIX.json and, for pictures, PREFIX.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Hold samplers against the sequential one, and against fewer sequential steps."""
    asked = {name: value for name, value in locals().items() if name not in ("out", "as_json")}
    finite("error-target", error_target)
    windows = _windows(window)
    recipes = {call: read_sampler(call) for call in split_calls(samplers)}
    chosen = [
        (call, s) for call in split_calls(samplers) for s in _at_windows(call, recipes[call], windows, error_target)
    ]
    task = build_task(
        model=model,
        scheme=scheme,
        steps=steps,
        classes=classes,
        count=count,
        guidance=guidance,
        seed=seed,
        device=device,
        threads=threads,
    )
    needs_jvp = any("jvp" in s.needs for _, s in chosen)
    network = build_evaluator(evaluator, task, max_batch=max_batch, jvp=needs_jvp)
    try:
        if out is not None:
            check_writable(out, ("json", "png"))
        with _bar() as progress:
            comparison = run(
                chosen, task.problem, network, one_at_a_time=one_at_a_time, repeats=repeats, progress=progress
            )
    finally:
        close(network)
    if not is_main(network):
        return
    used = [entry for recipe in recipes.values() for entry in recipe.entries()]
    files = _save(out, comparison, task, used, asked) if out is not None else []
    if as_json:
        typer.echo(json.dumps(comparison.as_dict(), indent=2, allow_nan=False))
    else:
        console().print(comparison.table())
        if files:
            typer.echo(f"written: {', '.join(files)}")
    if not comparison.ok:
        bad = [
            f"{r.sampler} (window {r.window}): {r.failure or _counted(r.status)}" for r in comparison.rows if r.failed
        ]
        raise fail(f"samples failed: {'; '.join(bad)}", FAILED)


def _counted(status: tuple[str, ...]) -> str:
    return ", ".join(f"{status.count(s)} {s}" for s in dict.fromkeys(status))


def _windows(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"window is {text!r}; integers separated by commas are needed, like 2,4,8") from None


def _at_windows(call: str, recipe: Recipe, windows: list[int] | None, target: float | None) -> Iterator[Sampler]:
    sweep: list[dict[str, Any]] = [{}]
    if recipe.takes("window") and windows is not None and not recipe.states("window"):
        sweep = [{"window": w} for w in windows]
    for number, settings in enumerate(sweep):
        made = recipe.build(**settings)
        if target is not None and not recipe.states("tolerance"):
            if isinstance(made, Engine) and made.composition.stopping.unit == ErrorTarget.unit:
                made = Engine(attrs.evolve(made.composition, tolerance=target))
            elif not number:
                note(f"{call} does not stop by an error target; it keeps its own tolerance")
        yield made


def _save(out: str, comparison: Comparison, task: Task, used: list[Entry], asked: dict[str, Any]) -> list[str]:
    rows = []
    for row in comparison.rows:
        images = None if row.samples is None else task.model.images(row.samples)
        if images is not None:
            several = sum(r.sampler == row.sampler for r in comparison.rows) > 1
            rows.append((f"{row.sampler} w={row.window}" if several else row.sampler, images))
    written = [str(path_of(out, "json"))]
    if rows:
        from paracore.cli.pictures import labelled_rows

        write(path_of(out, "png"), labelled_rows(rows))
        written.insert(0, str(path_of(out, "png")))
    data = {
        "settings": {**asked, "labels": None if task.labels is None else task.labels.tolist()},
        **comparison.as_dict(),
        "versions": versions(task.entry, *used),
        "files": written,
    }
    write_json(path_of(out, "json"), data)
    return written


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """Runs done, on stderr, if a person is looking."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield None
        return
    with Bar(console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda label, done, of: bar.update(task, description=label, completed=done, total=of)
