"""Real process groups, and ranks that die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import paracore
from evaluators.checks import Split, problem
from evaluators.networks import Matrix, Smooth
from paracore.errors import ConfigurationError
from paracore.evaluators import distributed

RANKS = Path(__file__).with_name("ranks.py")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, *words: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*command, *map(str, words)], env=environment(), capture_output=True, text=True, timeout=timeout
    )


def of_this(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("ranks", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_facts(tmp_path, ranks):
    done = torchrun(ranks, RANKS, "facts", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("done-*"))) == ranks


def test_the_kit_on_two_ranks(tmp_path):
    done = torchrun(2, RANKS, "kit", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("done-*"))) == 2


@pytest.mark.slow
def test_groups_at_right_angles(tmp_path):
    done = torchrun(4, RANKS, "groups", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("done-*"))) == 4


def check_killed(folder: Path, victim: int, after: int) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    done = torchrun(2, RANKS, "killed", folder, victim, after, 20)
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert not of_this(folder)
    assert not list(folder.glob("done-*"))
    task = problem(batch=4, steps=20)
    sampler = paracore.sampler("picard", window=4)
    state = sampler.restore(task, paracore.load_checkpoint(folder / "state.pt"))
    assert state.total_rounds == after
    two = Split(Matrix(), 2)
    expected = paracore.solve(sampler, task, two)
    assert torch.equal(paracore.solve(sampler, task, two, state=state).sample, expected.sample)
    return expected.sample


def test_a_dead_rank_ends_the_others_and_the_state_goes_on(tmp_path):
    expected = check_killed(tmp_path, victim=1, after=3)
    (tmp_path / "resume").touch()
    done = torchrun(2, RANKS, "killed", tmp_path, 1, 3, 20)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.equal(torch.load(tmp_path / "sample.pt"), expected)


@pytest.mark.slow
def test_twenty_ranks_killed_at_random(tmp_path):
    """20 of 20: the others end, no process is left, the state goes on to the undisturbed answer."""
    random = torch.Generator().manual_seed(1)
    for run in range(20):
        victim, after = int(torch.randint(0, 2, (), generator=random)), int(torch.randint(1, 7, (), generator=random))
        check_killed(tmp_path / str(run), victim, after)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(tmp_path):
    (tmp_path / "slow").touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [*command, str(RANKS), "killed", str(tmp_path), "-1", "0", "20"],
        env=environment(),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(of_this(tmp_path)) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    assert not list(tmp_path.glob("done-*"))
    deadline = time.monotonic() + 10
    while of_this(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not of_this(tmp_path)
    task, sampler = problem(batch=4, steps=20), paracore.sampler("picard", window=4)
    assert sampler.restore(task, paracore.load_checkpoint(tmp_path / "state.pt")).total_rounds > 0


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_torchrun_the_survivor_ends_by_itself(tmp_path, how):
    """As under Slurm's srun: nobody kills it. A rank that stops (SIGSTOP) is noticed at the timeout."""
    port, ranks = free_port(), []
    if how == signal.SIGSTOP:
        (tmp_path / "slow").touch()  # so that the solve is not over before the rank is stopped
    for rank in (0, 1):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        words = [sys.executable, str(RANKS), "killed", str(tmp_path), "1" if how == signal.SIGKILL else "-1", "3", "8"]
        if how == signal.SIGSTOP:
            words[-2] = "1000000"
        ranks.append(subprocess.Popen(words, env={**environment(), **place}, stderr=subprocess.PIPE, text=True))
    if how == signal.SIGSTOP:
        while not (tmp_path / "state.pt").exists():
            time.sleep(0.01)
        ranks[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        errors = ranks[0].communicate(timeout=60)[1]
        spent = time.monotonic() - began
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            rank.stderr.close()
    assert not (tmp_path / "done-0").exists()
    assert ranks[0].returncode == 1
    assert spent < 40
    said = (tmp_path / "error-0").read_text()
    assert "another rank died or did not answer within 8 s" in said, errors[-2000:]
    assert "state saved to" in said
    assert (tmp_path / "state.pt").exists()


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    """The bits of two devices in one process; one set of files; a killed run goes on from its checkpoint."""
    words = ["-m", "paracore", "sample", "--model", "digits", "--steps", "12", "--count", "3", "--window", "2"]
    words += ["--threads", "1", "--seed", "5", "--sampler", "picard", "--checkpoint-every", "2"]
    done = torchrun(
        2, *words, "--evaluator", "distributed", "--out", tmp_path / "ranks", "--checkpoint", tmp_path / "c"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("picard: 3 samples") == 1
    alone = [
        sys.executable,
        *words,
        "--out",
        str(tmp_path / "threads"),
        "--evaluator",
        "devices(devices=['cpu','cpu'])",
    ]
    subprocess.run(alone, env=environment(), check=True, capture_output=True)
    assert np.array_equal(np.load(tmp_path / "ranks.npy"), np.load(tmp_path / "threads.npy"))
    again = torchrun(2, *words, "--evaluator", "distributed", "--out", tmp_path / "again", "--resume", tmp_path / "c")
    assert again.returncode == 0, again.stderr[-3000:]
    assert np.array_equal(np.load(tmp_path / "ranks.npy"), np.load(tmp_path / "again.npy"))
    bad = torchrun(2, *words, "--evaluator", "distributed", "--resume", tmp_path / "missing")
    assert bad.returncode != 0
    assert "missing: No such file or directory" in bad.stderr


def test_without_a_process_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=r"RANK, WORLD_SIZE.* not set; start with torchrun"):
        distributed(Smooth())


@pytest.mark.parametrize("options", [{"check_every": 0}, {"check_every": 1.5}, {"timeout": -1}, {"max_batch": 0}])
def test_bad_options(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        distributed(Smooth(), **options)
