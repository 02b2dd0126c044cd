"""examples/distributed/split_denoiser.py: parallel in time over a network that is itself split over ranks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "examples" / "distributed" / "split_denoiser.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("split_denoiser", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(ranks, *options):
    """What rank 0 printed."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", str(PATH), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(found, time, tensor):
    assert (found["time"], found["tensor"], found["ranks"]) == (time, tensor, time * tensor)
    assert found["weights_of_a_rank"] * tensor == found["weights"]
    assert found["same_on_all_ranks"]
    assert found["relative_error"] <= 1e-5
    assert found["rounds"] < found["steps"]


def test_two_times_two_ranks_give_the_sequential_answer_of_the_whole_network():
    check(run(4), time=2, tensor=2)


@pytest.mark.slow
def test_with_uneven_shares():  # one sample, a window of 2: time groups of 3 always leave a rank without rows
    check(run(6, "--samples", "1", "--window", "2", "--steps", "12"), time=3, tensor=2)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_sum_to_the_whole_block(example, parts):
    def partial(kept):
        return lambda total: kept.append(total) or torch.zeros_like(total)

    h = torch.randn(3, example.TOKENS, example.WIDTH, generator=torch.Generator().manual_seed(1))
    whole_sums, part_sums = [], []
    whole = example.Block(0, 0, 1, partial(whole_sums))
    assert torch.equal(whole(h), h)  # what a block adds goes through its total, all of it
    for part in range(parts):
        example.Block(0, part, parts, partial(part_sums))(h)
    for place in range(2):  # attention, MLP
        together = torch.stack(part_sums[place::2]).sum(dim=0)
        torch.testing.assert_close(together, whole_sums[place], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(part_sums[place], whole_sums[place], atol=1e-2)  # no part is the whole


def test_a_split_that_leaves_a_rest_is_refused(example):
    with pytest.raises(ValueError, match="cannot be split into 3 parts"):
        example.Block(0, 0, 3, lambda total: total)
