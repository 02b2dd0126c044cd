"""The distribution under examples/paracore-example, as its users meet it: its wheel and ours in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import attrs
import pytest

from test_public import all_defined, misuses

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "paracore-example"
REGISTERED = ("variable-order", "collocation", "smooth", "two-step-parareal")


@pytest.mark.parametrize("path", sorted(EXAMPLE.rglob("*.py")), ids=lambda path: path.name)
def test_it_uses_public_names_only(path):
    assert not misuses(path.read_text(), all_defined(EXAMPLE / "src"))


def test_nothing_else_imports_it():
    tops = ("src", "plugins", "adapters", "benchmarks", "examples", "docs")
    files = [path for top in tops for path in (ROOT / top).rglob("*.py") if EXAMPLE not in path.parents]
    assert files
    assert [path for path in files if re.search(r"^\s*(from|import) paracore_example\b", path.read_text(), re.M)] == []


@attrs.frozen
class Fresh:
    """An environment without the repository.

    Attributes:
        folder: where commands run.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "fresh" / "bin" / "python"

    def run(self, *arguments: str, status: int = 0) -> str:
        """What ``python ARGUMENTS`` prints, both streams."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PARACORE_DISABLE_PLUGINS")}
        done = subprocess.run(
            [self.python, *arguments], capture_output=True, text=True, cwd=self.folder, env={**kept, "COLUMNS": "200"}
        )
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def paracore(self, *arguments: str, status: int = 0) -> str:
        """What ``paracore ARGUMENTS`` prints."""
        return self.run("-m", "paracore", *arguments, status=status)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Both wheels, built and installed."""
    folder = tmp_path_factory.mktemp("example")
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels)]
    subprocess.run([*build, str(ROOT), str(EXAMPLE)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "fresh")], check=True)
    made = Fresh(folder)
    # the dependencies are big: lend this environment's, without its paracore
    lent = folder / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "paracore" not in entry.name and entry.suffix != ".pth":
            (lent / entry.name).symlink_to(entry)
    site = made.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "lent.pth").write_text(f"{lent}\n")
    found = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
    assert len(found) == 2
    made.run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *found)
    return made


@pytest.mark.slow
def test_both_come_from_their_wheels(fresh):
    code = "import paracore, paracore_example; print(paracore.__file__, paracore_example.__file__)"
    assert all(str(fresh.folder) in path for path in fresh.run("-c", code).split())
    assert "py.typed" in fresh.run("-m", "pip", "show", "--files", "paracore-example")


@pytest.mark.slow
def test_it_is_listed_with_its_distribution_and_cited(fresh):
    listed = {entry["name"]: entry for entry in _entries(fresh)}
    for name in REGISTERED:
        assert listed[name]["distribution"] == "paracore-example"
        assert listed[name]["version"] == "0.1.0"
    assert "degree" in fresh.paracore("show", "collocation")
    assert "dutt2000spectral" in fresh.paracore("cite", "smooth")


def _entries(fresh: Fresh) -> list[dict[str, str]]:
    listed = json.loads(fresh.run("-W", "ignore", "-m", "paracore", "list", "--json"))
    entries = listed["entries"] if isinstance(listed, dict) else listed
    assert entries
    return entries


@pytest.mark.slow
def test_the_kit_passes(fresh):
    (fresh.folder / "pytest.ini").write_text("[pytest]\n")  # no other one from a folder above
    ran = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "paracore_example")
    assert " passed" in ran
    assert not any(word in ran for word in ("failed", "error", "skipped", "deselected"))
    assert "variable-order" in fresh.paracore("check", "initializer:variable-order")


@pytest.mark.slow
def test_its_own_tests_pass(fresh):
    options = ("-q", "-p", "no:cacheprovider", "-c", str(EXAMPLE / "pyproject.toml"))
    files = (str(EXAMPLE / "tests" / name) for name in ("test_methods.py", "test_why_no_residual.py"))
    ran = fresh.run("-m", "pytest", *options, *files)
    assert " passed" in ran


@pytest.mark.slow
def test_its_strategy_samples_from_the_command_line_and_from_a_file(fresh):
    sample = ("sample", "--model", "digits", "--steps", "12", "--count", "1", "--seed", "3")
    fresh.paracore(*sample, "--window", "4", "--initializer", "variable-order(highest=2)", "--out", "part")
    fresh.paracore(*sample, "--sampler", "two-step-parareal(blocks=3)", "--out", "whole")
    text = fresh.paracore("export", "smooth(window=4)")
    assert "paracore-example 0.1.0" in text
    (fresh.folder / "my.toml").write_text(text)
    fresh.paracore(*sample, "--sampler", "my.toml", "--out", "file")
    fresh.paracore(*sample, "--sampler", "smooth(window=4)", "--out", "name")
    for prefix in ("part", "whole", "file", "name"):
        assert (fresh.folder / f"{prefix}.png").stat().st_size > 100
    assert (fresh.folder / "file.npy").read_bytes() == (fresh.folder / "name.npy").read_bytes()


@pytest.mark.slow
def test_uninstalled_it_is_gone_and_missed_by_name(fresh):
    text = fresh.paracore("export", "smooth(window=4)")
    (fresh.folder / "kept.toml").write_text(text)
    fresh.run("-m", "pip", "uninstall", "--quiet", "--yes", "paracore-example")
    try:
        names = {entry["name"] for entry in _entries(fresh)}
        assert "picard" in names
        assert not names & set(REGISTERED)
        said = fresh.paracore("sample", "--model", "digits", "--sampler", "kept.toml", status=2)
        assert "paracore-example" in said
        fresh.paracore("sample", "--model", "digits", "--steps", "4", "--count", "1", "--out", "without")
    finally:
        wheel = next((fresh.folder / "wheels").glob("paracore_example-*.whl"))
        fresh.run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel))
