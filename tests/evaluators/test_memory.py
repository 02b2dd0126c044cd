"""Memory that a network freed stays with the process: asked of the operating system itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from paracore.evaluators.memory import device_of, keep_freed_memory_for

PROGRAM = """
import resource, sys
import torch
import paracore.evaluators
torch.set_num_threads(1)
kept = sys.argv[1] == "keep" and paracore.evaluators.keep_freed_memory()
def use():
    for _ in range(4):
        torch.empty(8 << 20, dtype=torch.float32).fill_(1.0)  # 32 MiB, freed at once
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(word: str, **variables: str) -> tuple[int, int]:
    """Whether memory is kept, and how many pages were asked for the second time."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM, word]
    done = subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, check=True, timeout=120)
    kept, pages = map(int, done.stdout.split())
    return kept, pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of the GNU C library")
def test_freed_memory_is_kept_unless_the_environment_says_something_else():
    kept, pages = run("keep")
    assert kept
    assert pages < 100
    kept, others = run("leave")
    assert not kept
    assert others > 1000
    kept, _ = run("keep", MALLOC_TOP_PAD_="0")
    assert not kept
    kept, _ = run("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000000")
    assert not kept


def test_only_networks_on_the_cpu_need_it(monkeypatch):
    import torch

    called = []
    monkeypatch.setattr("paracore.evaluators.memory.keep_freed_memory", lambda: called.append(1))
    keep_freed_memory_for(torch.device("cuda"))
    assert not called
    keep_freed_memory_for(torch.device("cpu"))
    assert len(called) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    keep_freed_memory_for(None)
    assert len(called) == 2
    assert device_of(torch.nn.Linear(1, 1)) == torch.device("cpu")
    assert device_of(lambda x, t, rows: x) is None
