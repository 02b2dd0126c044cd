"""Options that more than one command has."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Classes", "Count", "Device", "EvaluatorCall", "Guidance", "MaxBatch", "ModelCall", "SchemeCall", "Seed"]
__all__ += ["Steps", "Target", "Threads"]

ModelCall = Annotated[str, typer.Option("--model", help="NAME or 'NAME(option=value, ...)'; see: paracore list models")]
SchemeCall = Annotated[str, typer.Option("--scheme", help="Such as 'flow-euler(shift=3)'; see: paracore list schemes")]
Steps = Annotated[int, typer.Option("--steps", help="Steps of the scheme.")]
Guidance = Annotated[float, typer.Option("--guidance", help="Classifier-free guidance scale; 1 is none.")]
Seed = Annotated[int, typer.Option("--seed", help="Sample i has the seed SEED + i, whatever its batch.")]
Classes = Annotated[
    str | None, typer.Option("--classes", help="0-9, or 3,5, or none; repeated over the samples. Default: all.")
]
Count = Annotated[int | None, typer.Option("--count", help="Samples; default: one per class given, else 4.")]
Target = Annotated[
    float | None,
    typer.Option("--error-target", "--tolerance", help="The stopping rule's tolerance, in its own unit."),
]
MaxBatch = Annotated[int | None, typer.Option("--max-batch", help="Most rows in one network call.")]
EvaluatorCall = Annotated[str, typer.Option("--evaluator", help="See: paracore list evaluators")]
Device = Annotated[str, typer.Option("--device", help="Where the states live: cpu, cuda, ...")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads of torch.")]
