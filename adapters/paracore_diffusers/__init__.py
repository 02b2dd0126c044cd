"""Unmodified diffusers pipelines and schedulers, parallel in time.

``parallelize(pipe)`` is the way in; ``scheme_from(scheduler, steps)`` gives a scheduler's table alone.
"""

from paracore_diffusers.errors import (
    NonFiniteSchedulerError,
    NonlinearSchedulerError,
    UnsupportedPipelineError,
    UnsupportedSchedulerError,
)
from paracore_diffusers.parallel import ParallelPipeline, PipelineRun, parallelize
from paracore_diffusers.table import SchedulerTable, scheduler_table, scheme_from

__all__ = [
    "NonFiniteSchedulerError",
    "NonlinearSchedulerError",
    "ParallelPipeline",
    "PipelineRun",
    "SchedulerTable",
    "UnsupportedPipelineError",
    "UnsupportedSchedulerError",
    "parallelize",
    "scheduler_table",
    "scheme_from",
]
