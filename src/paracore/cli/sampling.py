"""``paracore sample``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from paracore.checkpoint import load_checkpoint
from paracore.cli.failures import FAILED, INTERRUPTED, fail, note
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
    Target,
    Threads,
)
from paracore.cli.output import check_folder, check_writable, path_of, versions, write, write_json, write_samples
from paracore.cli.problems import (
    Task,
    build_evaluator,
    build_sampler,
    build_task,
    close,
    finite,
    is_main,
    parse_window,
)
from paracore.engine import Engine
from paracore.errors import SolveError, SolveInterrupted
from paracore.problem import Problem
from paracore.request import Evaluator
from paracore.result import Result
from paracore.sampler import Sampler
from paracore.solve import Observer, RoundEvent, solve

__all__ = ["sample"]

Part = Annotated[str | None, typer.Option(help="Part of the sampler: NAME or 'NAME(option=value, ...)'.")]


def sample(
    model: ModelCall,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", help="NAME, 'NAME(option=value, ...)' or a .toml or .json file; see: paracore list samplers"
        ),
    ] = None,
    residual: Part = None,
    jacobian: Part = None,
    preconditioner: Part = None,
    damping: Part = None,
    stopping: Part = None,
    initializer: Part = None,
    selection: Part = None,
    window: Annotated[
        str | None, typer.Option("--window", help="Evaluations per round and sample; auto: the evaluator is timed.")
    ] = None,
    steps: Steps = 50,
    scheme: SchemeCall = "flow-euler",
    guidance: Guidance = 1.0,
    seed: Seed = 0,
    classes: Classes = None,
    count: Count = None,
    error_target: Target = None,
    max_batch: MaxBatch = None,
    evaluator: EvaluatorCall = "batched",
    device: Device = "cpu",
    threads: Threads = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="File to save the state to, as it goes.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", help="Rounds between two saves.")] = 10,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on from a --checkpoint file, with the same other options.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Write PREFIX.json, PREFIX.npy and, for pictures, PREFIX.png.")
    ] = None,
) -> None:
    """Draw samples from a model in parallel in time."""
    asked = {name: value for name, value in locals().items() if name != "out"}
    kinds = ("residual", "jacobian", "preconditioner", "damping", "stopping", "initializer", "selection")
    parts = {kind: asked[kind] for kind in kinds if asked[kind] is not None}
    finite("error-target", error_target)
    settings: dict[str, Any] = {"window": parse_window(window), "tolerance": error_target}
    method = build_sampler(sampler, {k: v for k, v in settings.items() if v is not None}, parts)
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
    network = build_evaluator(evaluator, task, max_batch=max_batch, jvp="jvp" in method.needs)
    try:
        _run(task, method, network, asked, out=out, checkpoint=checkpoint, every=checkpoint_every, resume=resume)
    finally:
        close(network)


def _run(
    task: Task,
    method: Sampler,
    network: Evaluator,
    asked: dict[str, Any],
    *,
    out: str | None,
    checkpoint: str | None,
    every: int,
    resume: str | None,
) -> None:
    if out is not None:
        check_writable(out, ("json", "npy", "png"))
    if checkpoint is not None:
        check_folder(checkpoint)
    main = is_main(network)
    begin = getattr(network, "begin", None)
    problem = task.problem if begin is None else begin(task.problem)
    method = method.fitted(problem, network)
    failure: SolveError | None = None
    stop: SolveInterrupted | None = None
    try:
        with _bar(problem.batch if main else 0) as observers:
            result = solve(
                method,
                problem,
                network,
                observers=observers,
                state=None if resume is None else _restored(method, problem, network, resume),
                checkpoint=checkpoint if main else None,
                checkpoint_every=every,
            )
    except SolveError as error:
        failure, result = error, error.result
    except SolveInterrupted as error:
        stop, result = error, error.result
    if main:
        for incident in result.incidents:
            note(incident)
    if not main:
        out = None
    files = _save(out, result, task, method, asked, interrupted=stop is not None) if out is not None else []
    if stop is not None:
        note(f"{stop}{'; written: ' + ', '.join(files) if files else ''}")
        raise typer.Exit(INTERRUPTED)
    if failure is not None:
        raise fail(f"{failure}{'; written: ' + ', '.join(files) if files else ''}", FAILED)
    if main:
        typer.echo(_line(result, method, files))


def _restored(method: Sampler, problem: Problem, network: Evaluator, path: str) -> Any:
    """The state in a file, which the first rank reads for all."""
    broadcast = getattr(network, "broadcast", None)
    data = load_checkpoint(path) if is_main(network) else {}
    return method.restore(problem, data if broadcast is None else broadcast(data))


def _save(
    out: str, result: Result, task: Task, method: Sampler, asked: dict[str, Any], *, interrupted: bool
) -> list[str]:
    pictures = task.model.images(result.sample)
    paths = [path_of(out, suffix) for suffix in ("npy", "png", "json")]
    written = [str(p) for p in paths if p.suffix != ".png" or pictures is not None]
    write_samples(paths[0], result.sample)
    if pictures is not None:
        from paracore.cli.pictures import grid

        write(paths[1], grid(pictures))
    data = {
        "interrupted": interrupted,
        "settings": {
            **asked,
            "labels": None if task.labels is None else task.labels.tolist(),
            "scheme_name": task.problem.scheme.name,
            "nodes": task.problem.scheme.steps,
            "composition": repr(method.composition) if isinstance(method, Engine) else repr(method),
        },
        "result": result.as_dict(),
        "versions": versions(task.entry),
        "files": written,
    }
    write_json(paths[2], data)
    return written


def _line(result: Result, method: Sampler, files: list[str]) -> str:
    name = method.composition.name if isinstance(method, Engine) else type(method).__name__
    count, steps = len(result.status), result.steps
    error = ""
    if result.error_estimate is not None:
        error = f", estimated error {float(result.error_estimate.mean()):.2g}"
    work = float(result.evaluations.mean()) / steps
    return (
        f"{name}: {count} sample{'s' if count > 1 else ''}, {steps} steps in {result.total_rounds} rounds "
        f"({result.speedup:.1f} times fewer), {work:.2f} N evaluations, {result.wall_time:.1f} s{error}; "
        + (", ".join(files) if files else "nothing written (no --out)")
    )


class _Bar(Observer):
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def round_finished(self, event: RoundEvent) -> None:
        self._progress.update(
            self._task,
            completed=int(event.front.sum()),
            total=event.steps * len(event.front),
            description=f"round {event.round}",
        )


@contextmanager
def _bar(batch: int) -> Iterator[list[Observer]]:
    """Accepted nodes, on stderr, if a person is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal or not batch:
        yield []
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("nodes"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield [_Bar(progress, progress.add_task("round 0", total=None))]
