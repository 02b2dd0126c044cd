"""A pipeline per rank: the sequential bits on all of them, and ranks that fail or differ are named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from adapters.diffusers import fakes, zoo
from adapters.diffusers.ranks import LOOPS, REFUSED, WORLD, same
from paracore.errors import ConfigurationError
from paracore_diffusers import parallelize
from paracore_diffusers.calls import Call
from paracore_diffusers.execution import OneByOne, executor_from
from paracore_diffusers.packing import packed, unpacked

SCRIPT = Path(__file__).with_name("ranks.py")
EXAMPLE = Path(__file__).parents[3] / "examples" / "diffusers" / "ranks.py"
CASES = ("quick", "shares", "failing", "disagreeing", "odd", "killed", "hanging")


def launched(folder: Path, *cases: str) -> Path:
    command = [sys.executable, str(SCRIPT), str(folder), *cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("ranks"), *CASES)


def outcome(folder: Path, case: str) -> dict:
    return json.loads((folder / f"{case}.json").read_text())


def told(folder: Path, case: str) -> list[dict]:
    """By rank."""
    broken = [path.read_text() for path in folder.glob(f"{case}-*.txt")]
    assert not broken, broken[0][-2000:]
    assert outcome(folder, case)["codes"] == [0] * WORLD
    return [json.loads((folder / f"{case}-{rank}.json").read_text()) for rank in range(WORLD)]


def check_pipelines(records: list[dict], names: int) -> None:
    for record in records:
        assert sum("merged" in found for found in record.values()) == names
        for name, found in record.items():
            assert found["exact"], f"{name}: other bits"
            assert found["left"], f"{name} is not what it was"
            assert found.get("merged", 0.0) < 1e-4, name
            assert found.get("agree", True), f"{name}: ranks have other bits"


def test_pipelines_on_two_ranks(ran):
    records = told(ran, "quick")
    check_pipelines(records, 4)
    assert sum("bf16" in name for name in records[0]) == 4
    assert all(found["verdicts"] == ["merged"] for found in records[0].values() if "verdicts" in found)


@pytest.mark.slow
def test_more_pipelines_on_two_ranks(tmp_path):
    check_pipelines(told(launched(tmp_path, "many"), "many"), 8)


def test_calls_are_made_once_in_all(ran):
    first, second = told(ran, "shares")
    assert first["all"] == first["said"] + WORLD - 1, "only the first call is made everywhere"
    assert abs(first["mine"] - second["mine"]) <= 9, "a round of three calls: two and one"
    assert second["mine"] > 9


def test_a_rank_whose_network_raises_is_named_everywhere(ran):
    first, second = told(ran, "failing")
    for found in (first, second):
        assert found["round"] == "EvaluatorError: rank 1, the calls at nodes 2 to 3: ZeroDivisionError: no schedule"
        assert found["round accepted"]
        assert found["round again"], "the group can be used again"
        assert found["first again"]
    assert first["first"] == "EvaluatorError: rank 1: ZeroDivisionError: no schedule"
    assert second["first"] == "ZeroDivisionError: no schedule"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("seed", r"rank 1 begins with other latents than rank 0: .*generator=torch.Generator\(\).manual_seed"),
        ("noise", r"rank 1 begins with other random generators than rank 0: .*manual_seed"),
        ("steps", "rank 1 begins with .* another number of steps than rank 0"),
        ("window", r"rank 1 asks for another number of network calls in round 1 \(4 and 3\) than rank 0"),
        ("tolerance", "rank 1 (asks for other|asks for another number|has ended|is in round)"),
        ("shape", "rank 1 has another first network output than rank 0: .*prompts"),
        ("prompt", "rank 1 has another first network output than rank 0: .*prompts"),
        ("none", "nothing was raised"),
    ],
)
def test_ranks_that_differ_are_named(ran, how, said):
    for found in told(ran, "disagreeing"):
        assert re.search(said, found[how]), found[how]


@pytest.mark.slow
def test_every_way_of_a_loop_on_two_ranks(tmp_path):
    records = told(launched(tmp_path, "loops"), "loops")
    for found in records:
        assert [found[name] for name in LOOPS] == [True] * len(LOOPS)
        assert all(found[name].startswith("UnsupportedPipelineError") for name in REFUSED)
        assert re.match("EvaluatorError: rank 1 has ended its loop after round . when rank 0 is in", found["interrupt"])
    left = "UnsupportedPipelineError: the pipeline left its loop before its end; nothing was run in parallel"
    assert [found["alone"] for found in records] == [f"EvaluatorError: rank 1: {left}", left]


def test_answers_of_any_form(ran):
    for found in told(ran, "odd"):
        assert found["same"] == [True] * 20


@pytest.mark.parametrize(("case", "limit", "said"), [("killed", 10, "died"), ("hanging", 10, "within 1 s")])
def test_a_lost_rank_ends_the_others(ran, case, limit, said):
    assert outcome(ran, case)["codes"] == [0, -signal.SIGKILL]
    left = json.loads((ran / f"{case}-0.json").read_text())
    assert said in left["said"]
    assert left["seconds"] < limit
    assert left["accepted"]
    assert left["again"].startswith("EvaluatorError: another rank died")


@pytest.mark.parametrize("known", [True, False])
def test_answers_as_bytes(known):
    answers = [
        torch.arange(6.0).reshape(1, 1, 2, 3).repeat(2, 3, 1, 1).to(memory_format=torch.channels_last),
        {"a": torch.ones(3, dtype=torch.bfloat16), "b": (torch.tensor(True), None, "word"), "c": torch.zeros(0, 4)},
        [torch.randn(3, 5).t(), torch.randn(1, dtype=torch.complex64), torch.arange(3)[1:]],
    ]
    calls = [Call(None, (), {}, 0, i, result=answer) for i, answer in enumerate(answers)]
    for call in calls:
        call.like = zoo_like(call.result) if known else None
    data, pickled = packed(calls)
    assert pickled is not known
    for call, found in zip(calls, unpacked(data, calls, torch.device("cpu"), pickled=pickled), strict=True):
        assert same(found, call.result)
    if known:
        calls[1].result = {**answers[1], "b": (torch.tensor(True), None, "other")}
        assert packed(calls)[1], "what is no tensor and differs is not taken from another answer"


def zoo_like(value):
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, dict):
        return {k: zoo_like(v) for k, v in value.items()}
    return type(value)(map(zoo_like, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_group": True}, "process_group is True; 'world' or a process group is needed"),
        ({"process_group": "all"}, "process_group is 'all'"),
        ({"process_group": "world", "devices": ["cpu"]}, "devices and process_group were given"),
        ({"process_group": "world"}, r"no process group, and RANK.* not set; start with torchrun"),
        ({"process_group": "world", "execution": OneByOne()}, "process_group and an executor of one's own"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": 0, "devices": ["cpu"]}, "timeout is 0"),
        ({"window": "auto"}, "window='auto' follows the number of devices or ranks"),
    ],
)
def test_wrong_options(options, message, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=message):
        parallelize(fakes.made(fakes.Plain), **options)


@pytest.mark.parametrize(("devices", "window"), [(1, 4), (2, 4), (3, 6), (4, 4), (5, 5)])
def test_window_follows_the_devices(devices, window):
    made = zoo.ZOO["flux"]()
    fast = parallelize(made.pipe, "picard", window="auto", exact=True, devices=["cpu"] * devices)
    expected = zoo.run(made, 7, 3)
    assert torch.equal(zoo.run(made, 7, 3, through=fast), expected)
    assert fast._make().composition.window == window
    fast.release()


def test_a_group_of_one(tmp_path):
    """As a user who was started without torchrun, but has a process group."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        made = zoo.ZOO["flux"]()
        expected = zoo.run(made, 6, 3)
        group = torch.distributed.group.WORLD
        fast = parallelize(made.pipe, "picard", window=3, exact=True, process_group=group)
        assert torch.equal(zoo.run(made, 6, 3, through=fast), expected)
        assert executor_from("merged", None, None, "world").workers == 1
        fast.release()
        assert torch.distributed.is_initialized(), "the group is the user's"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_example_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(EXAMPLE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--tiny", "--steps", "8", "--exact", "--compare", "--out", str(tmp_path / "out.png")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 ranks: " in done.stdout
    assert done.stdout.rstrip().endswith("differs from it by 0")
    assert (tmp_path / "out.png").stat().st_size > 0
