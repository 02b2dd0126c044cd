"""The tutorial's figure: from nothing to a third-party package that passes, by the commands that the page shows."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins" / "tutorial.md").read_text()
MOST_COMMANDS, MOST_SECONDS = 5, 180.0


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


def commands() -> list[str]:
    """What the tutorial shows."""
    (block,) = [block for block in fenced("sh") if "paracore new" in block]
    return block.splitlines()


def test_the_tutorial_needs_few_commands():
    assert 0 < len(commands()) <= MOST_COMMANDS
    assert any(line.startswith("paracore new plugin ") for line in commands())


def test_the_tutorial_shows_what_the_kit_says(capsys):
    namespace: dict[str, object] = {"__name__": "document"}
    for block in fenced("python"):
        exec(compile(block, "tutorial", "exec"), namespace)
        if "print(said(" in block:
            break
    (shown,) = fenced("text")
    assert capsys.readouterr().out == shown


def machine_time() -> float:
    """Seconds that children have kept the machine busy so far; waiting for others does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_from_nothing_to_a_passing_package(tmp_path):
    wheels, desk = tmp_path / "wheels", tmp_path / "desk"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels)]
    subprocess.run([*build, str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "fresh")], check=True)
    scripts = tmp_path / "fresh" / "bin"
    lend(scripts / "python", tmp_path / "lent")
    desk.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PARACORE_DISABLE_PLUGINS", "VIRTUAL_ENV")}
    environment = {
        **kept,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PIP_FIND_LINKS": str(wheels),  # what an index would have: paracore, and, lent, all that it needs
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's word for: use the build back end that is here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    began, busy, told = time.perf_counter(), machine_time(), ""
    for command in commands():
        before = machine_time()
        done = subprocess.run(command, shell=True, cwd=desk, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        told += done.stdout
        print(f"{machine_time() - before:6.1f} s  {command}")
    spent = machine_time() - busy
    print(f"{spent:6.1f} s of machine time, {time.perf_counter() - began:.1f} s by the clock")
    assert spent < MOST_SECONDS
    assert "All contracts hold" in told
    assert re.search(r"^\d+ passed in ", told.splitlines()[-1].strip("= ")), told[-500:]
    check_the_wheel(desk / "paracore-wary", tmp_path)


def lend(python: Path, folder: Path) -> None:
    """The dependencies are big: lend this environment's, without its paracore."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "paracore" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    (Path(site) / "lent.pth").write_text(f"{folder}\n")
    # an old one comes with some Pythons' environments, and would hide the lent one
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True)


def check_the_wheel(distribution: Path, folder: Path) -> None:
    """What its CI file would publish has everything that it needs."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*build, str(distribution)], check=True)
    names = zipfile.ZipFile(next(folder.glob("paracore_wary-*.whl"))).namelist()
    needed = ("/__init__.py", "/damping.py", "/plugin.py", "/py.typed", "/entry_points.txt", "/licenses/LICENSE")
    assert all(any(name.endswith(end) for name in names) for end in needed), names
    assert not any("test" in name for name in names)
