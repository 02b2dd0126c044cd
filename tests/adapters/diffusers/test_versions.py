"""The lowest diffusers that the extras allow, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HUB = ("diffusers", "transformers", "huggingface_hub", "tokenizers", "accelerate", "peft", "hf_xet", "paracore")
"""What the environment does not borrow from this one."""
CHECKED = ("flux", "sd3", "sd", "sdxl", "dit", "pixart", "cogx", "sd_heun", "sd_euler_ancestral", "sd_controlnet")
"""Pipelines that the lowest diffusers has."""
REFUSED = ("sd_inpaint", "sd_lcm")

SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import diffusers, torch, transformers
import zoo
from paracore_diffusers import UnsupportedPipelineError, parallelize

print("versions", diffusers.__version__, transformers.__version__)
for name in sys.argv[1:]:
    made = zoo.ZOO[name]()
    own = zoo.run(made, 5)
    try:
        exact = zoo.run(made, 5, through=parallelize(made.pipe, window=3, exact=True))
    except UnsupportedPipelineError:
        print(name, "refused")
        continue
    merged = zoo.run(made, 5, through=parallelize(made.pipe, window=3, tolerance=0.0))
    error = float((merged - own).norm() / own.norm())
    again = zoo.run(made, 5)
    print(name, "good" if torch.equal(exact, own) and error < 1e-4 and torch.equal(again, own) else f"BAD {error}")
"""


def lowest() -> dict[str, str]:
    """The lower bounds of the extra ``diffusers``."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["diffusers"]
    bounds = [re.fullmatch(r"([\w-]+)>=([\d.]+)", line) for line in extras]
    assert all(bounds), extras
    return {bound[1]: bound[2] for bound in bounds if bound}


def test_the_document_states_the_bounds():
    page = (ROOT / "docs" / "diffusers.md").read_text().split("## Versions")[1]
    found = lowest()
    assert f"diffusers {found['diffusers']}" in page
    assert f"transformers {found['transformers']}" in page


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An environment with the lowest versions; everything else is lent from this one."""
    folder = tmp_path_factory.mktemp("lowest")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "fresh")], check=True)
    made = str(folder / "fresh" / "bin" / "python")
    asked = [made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    lent = folder / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        own = entry.name.startswith("paracore-") and entry.suffix == ".dist-info"  # the plugins are found through it
        if own or (not any(name in entry.name for name in (*HUB, "pip")) and entry.suffix != ".pth"):
            (lent / entry.name).symlink_to(entry)
    paths = [lent, *(ROOT / part for part in ("src", "plugins", "adapters")), Path(__file__).parent]
    (Path(site) / "lent.pth").write_text("".join(f"{path}\n" for path in paths))
    pins = [
        f"{name}=={version}.0" if version.count(".") < 2 else f"{name}=={version}" for name, version in lowest().items()
    ]
    install = [
        made,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    done = subprocess.run([*install, *pins], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.slow
def test_the_lowest_versions(python, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", SCRIPT, *CHECKED, *REFUSED], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert lines[0][1].startswith(lowest()["diffusers"])
    assert dict(lines[1:]) == {**dict.fromkeys(CHECKED, "good"), **dict.fromkeys(REFUSED, "refused")}
