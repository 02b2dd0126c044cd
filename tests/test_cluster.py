"""Job files for clusters: their syntax, the names of their options and fields, and the commands that they run."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema  # this and yaml come with Ray
import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser

from paracore.cli import app
from paracore.plugins.calls import parse_call

FOLDER = Path(__file__).parents[1] / "examples" / "cluster"
SLURM, RAYJOB = FOLDER / "slurm.sh", FOLDER / "rayjob.yaml"

# long options of sbatch 26.05 that take a value, and those that take none
VALUED = """
    account acctg-freq array bb bbf begin chdir clusters comment constraint container container-id core-spec
    cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error
    exclude export export-file extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket
    gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep licenses mail-type mail-user
    mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile nodelist nodes ntasks
    ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition prefer
    priority profile propagate qos reservation segment signal sockets-per-node switches thread-spec
    threads-per-core time time-min tmp tres-bind tres-per-task uid wait-all-nodes wckey wrap
"""
BARE = """
    contiguous exclusive get-user-env help hold ignore-pbs nice no-kill no-requeue overcommit oversubscribe
    parsable quiet reboot requeue spread-job stepmgr test-only usage use-min-nodes verbose version wait
"""


def directives(text):
    """Options of the lines that sbatch reads: those before the first command."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH "):
            name, equals, value = line.removeprefix("#SBATCH ").strip().partition("=")
            assert name.startswith("--"), line
            found[name.removeprefix("--")] = value if equals else None
        elif line.strip() and not line.startswith("#"):
            break
    return found


def unknown(found):
    """Options that sbatch does not document, or not in this form."""
    return [n for n, value in found.items() if n not in (BARE if value is None else VALUED).split() or value == ""]


def check_command(words):
    """Its options as the command line understands them."""
    start = words.index("paracore") + 1
    name, rest = words[start], words[start + 1 :]
    command = typer.main.get_command(app).commands[name]
    return command.make_context(name, list(rest)).params


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_file_is_a_script():
    subprocess.run(["bash", "-n", SLURM], check=True, timeout=30)


def test_every_sbatch_option_is_documented():
    text = SLURM.read_text()
    found = directives(text)
    assert len(found) == text.count("\n#SBATCH ")  # none comes after a command, where sbatch does not look
    assert unknown(found) == []
    assert int(found["ntasks-per-node"]) == 1  # torchrun starts the ranks
    assert re.fullmatch(r"(\d+-)?\d\d:\d\d:\d\d", found["time"])
    assert f"gpus={found['gpus-per-node']} " in text


@pytest.mark.parametrize("line", ["--gpu-per-node=8", "--nodes", "--requeue=yes", "--ntasks-per-nodes=1", "--time="])
def test_a_wrong_sbatch_option_is_found(line):
    assert unknown(directives(f"#!/bin/bash\n#SBATCH {line}\n"))


def test_the_slurm_file_starts_what_there_is():
    text = re.sub(r"\\\n", " ", SLURM.read_text())
    line = next(line for line in text.splitlines() if line.startswith("srun "))
    words = shlex.split(line.replace('"${resume[@]}"', "--resume state"))
    given = words[words.index("torchrun") + 1 :]
    values = {"$SLURM_JOB_NUM_NODES": "2", "$gpus": "8", "$SLURM_JOB_ID": "1", "$head:29400": "a:29400"}
    options = get_args_parser().parse_args([_set(word, values) for word in given])
    assert (options.nnodes, options.nproc_per_node, options.module) == ("2", "8", True)
    assert (options.rdzv_backend, options.rdzv_endpoint) == ("c10d", "a:29400")
    assert options.training_script == "paracore"
    params = check_command(words)
    assert params["evaluator"] == "distributed"
    assert params["checkpoint"] == "$state"
    assert params["resume"] == "state"


def _set(word, values):
    for name, value in values.items():
        word = word.replace(name, value)
    return word


@pytest.fixture(scope="module")
def rayjob():
    return yaml.safe_load(RAYJOB.read_text())


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((FOLDER / "rayjob.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_rayjob_has_the_fields_of_the_resource(rayjob, validator):
    assert [error.message for error in validator.iter_errors(rayjob)] == []


def test_the_rayjob_fits_together(rayjob):
    cluster = rayjob["spec"]["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    images = set()
    for template in (cluster["headGroupSpec"]["template"], *(g["template"] for g in groups)):
        volumes = {v["name"] for v in template["spec"].get("volumes", [])}
        for container in template["spec"]["containers"]:
            images.add(container["image"])
            assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes
    assert len(images) == 1
    gpus = sum(
        g["replicas"] * c["resources"]["limits"]["nvidia.com/gpu"]
        for g in groups
        for c in g["template"]["spec"]["containers"]
    )
    assert all(g["minReplicas"] <= g["replicas"] <= g["maxReplicas"] for g in groups)
    params = check_command(shlex.split(rayjob["spec"]["entrypoint"]))
    name, options = parse_call(params["evaluator"])
    assert name == "ray"
    assert options == {"workers": gpus, "gpus": 1}  # an actor for each GPU there is


def _at(document, *path):
    for key in path:
        document = document[key]
    return document


CLUSTER = ("spec", "rayClusterSpec")
HEAD = (*CLUSTER, "headGroupSpec", "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ((), "kind", "RayJobs"),
        (("spec",), "entryPoint", "x"),
        (("spec",), "entrypoint", None),
        (("spec",), "submissionMode", "K8SJobMode"),
        (("spec",), "shutdownAfterJobFinishes", False),
        (CLUSTER, "headGroupSpec", None),
        (CLUSTER, "workerGroupSpec", []),
        ((*CLUSTER, "workerGroupSpecs", 0), "maxReplicas", None),
        ((*CLUSTER, "workerGroupSpecs", 0), "replicas", "2"),
        ((*CLUSTER, "headGroupSpec", "rayStartParams"), "num-cpus", 0),
        (HEAD, "name", "ray_head"),
        (HEAD, "volumeMounts", [{"name": "results"}]),
        ((*HEAD, "resources", "limits"), "memory", "16 GB"),
    ],
)
def test_a_wrong_field_is_found(rayjob, validator, path, key, value):
    broken = copy.deepcopy(rayjob)
    if value is None:
        del _at(broken, *path)[key]
    else:
        _at(broken, *path)[key] = value
    assert list(validator.iter_errors(broken))
