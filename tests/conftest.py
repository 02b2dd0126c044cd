"""For all tests: one thread, reproducible examples without deadlines, and no warning from torch's own lazy imports."""

from __future__ import annotations

import warnings

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("paracore", deadline=None, derandomize=True, database=None)
settings.load_profile("paracore")

with warnings.catch_warnings():  # the first forward-mode derivative imports torch.jit, which warns
    warnings.simplefilter("ignore")
    torch.func.jvp(lambda x: x, (torch.ones(1),), (torch.ones(1),))
