"""A real wheel, installed into a fresh environment without the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_works_on_its_own(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    wheel = next(tmp_path.glob("paracore-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for package in (
        "paracore",
        "paracore_picard",
        "paracore_ropa",
        "paracore_newton",
        "paracore_analytic",
        "paracore_digits",
    ):
        assert f"{package}/py.typed" in names
    assert "paracore_digits/weights.safetensors" in names
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "fresh")], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # the dependencies are big: lend this environment's, without its paracore
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lent = tmp_path / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "paracore" not in entry.name and entry.suffix != ".pth":
            (lent / entry.name).symlink_to(entry)
    (Path(site) / "lent.pth").write_text(f"{lent}\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, "-m", "paracore", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import paracore; print(paracore.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    ).stdout
    assert str(tmp_path) in where
    listed = run("list", "--json")
    assert all(name in listed for name in ("picard", "paradigms", "jacobi", "digits", "mixture"))
    run("sample", "--model", "digits", "--steps", "6", "--window", "3", "--count", "1", "--out", "one")
    assert (tmp_path / "one.png").stat().st_size > 100
    assert json.loads((tmp_path / "one.json").read_text())
