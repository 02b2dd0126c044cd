"""``paracore new``: what it writes passes the kit, and it writes all of it or nothing."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import paracore
from paracore.cli import creating
from paracore.cli.creating import CREATED, create
from paracore.plugins import HOOKS
from paracore.testing import run_checks

WORDS = {"sampler": ("plugin", "--kind", "sampler"), "model": ("model",), "evaluator": ("evaluator",)}
FILES = (
    ".github/workflows/test.yml",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "tests/test_conformance.py",
)
HEAVY = tuple(kind for kind in CREATED if kind not in ("model", "evaluator"))
"""Kinds whose kit takes longer than a few seconds: the quick tests render them and import them."""


def words(kind: str) -> tuple[str, ...]:
    return WORDS.get(kind, ("plugin", "--kind", kind))


@pytest.fixture
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("paracore_made_")]:
        del sys.modules[name]
    paracore.registry.unregister("made")


def register(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed."""
    monkeypatch.syspath_prepend(str(folder / "src"))
    paracore.registry.register(importlib.import_module(f"paracore_made_{kind}.plugin"), "made")


def run_own_tests(folder: Path, kind: str) -> int:
    """The tests that come with it, other than the kit."""
    source = (folder / "tests" / f"test_{kind}.py").read_text()
    namespace: dict[str, object] = {}
    exec(compile(source, f"test_{kind}.py", "exec"), namespace)
    tests = [test for name, test in namespace.items() if name.startswith("test_") and callable(test)]
    for test in tests:
        test()
    return len(tests)


def test_every_kind_can_be_written():
    assert set(CREATED) == set(HOOKS)


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("kind", CREATED)
def test_what_it_writes_is_complete_and_works(kind, run, tmp_path, monkeypatch):
    done = run("new", *words(kind), f"made-{kind}", "--folder", str(tmp_path))
    assert done.exit_code == 0, done.output
    folder, package = tmp_path / f"paracore-made-{kind}", f"paracore_made_{kind}"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing is left beside it"
    own = {f"src/{package}/{name}" for name in ("__init__.py", "plugin.py", "py.typed", f"{kind}.py")}
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {*FILES, *own, f"tests/test_{kind}.py"}
    for path in written:
        text = (folder / path).read_text()
        assert "{{" not in re.sub(r"\$\{\{.*?\}\}", "", text), path
        assert not text or (text.endswith("\n") and not text.endswith("\n\n")), path
    assert yaml.safe_load((folder / ".github/workflows/test.yml").read_text())["jobs"]["test"]["steps"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"paracore": {f"made-{kind}": f"{package}.plugin"}}
    assert project["optional-dependencies"]["test"] == ["paracore[testing]>=0.1,<0.3"]
    assert set(imported(folder / "src")) <= {re.split(r"[^\w-]", d)[0] for d in project["dependencies"]} | {package}
    hidden = {kebab(name) for path in folder.rglob("*.py") for name in imported_names(path, package)}
    assert {name for name in hidden if re.fullmatch(r"[a-z-]+", name)} <= {*creating._TAKEN}
    told = " ".join(done.stdout.split())
    assert f"paracore check {kind}:made-{kind}" in told
    register(folder, kind, monkeypatch)
    entry = paracore.registry.find(kind, f"made-{kind}")
    assert "@software{paracore-made-" in entry.citation
    assert run_own_tests(folder, kind) == 2
    if kind not in HEAVY:
        report = run_checks(f"{kind}:made-{kind}")
        assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("kind", HEAVY)
def test_the_other_kinds_pass_the_kit_too(kind, tmp_path, monkeypatch):
    register(create(f"made-{kind}", kind, tmp_path), kind, monkeypatch)
    report = run_checks(f"{kind}:made-{kind}")
    assert report.passed, str(report)


def imported(folder: Path) -> Iterator[str]:
    """Top-level packages that are imported, other than the standard library's."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            yield from (n.split(".")[0] for n in names if n.split(".")[0] not in sys.stdlib_module_names)


def imported_names(path: Path, package: str) -> Iterator[str]:
    """Names that a module imports from elsewhere: a strategy's class must not hide them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith((package, "paracore.testing")):
            yield from (alias.asname or alias.name for alias in node.names)


def kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wary", "a kebab-case word is needed, like gain-ratio"),
        ("wary_one", "a kebab-case word is needed"),
        ("3d", "a kebab-case word is needed"),
        ("-wary", "No such option"),
        ("../wary", "a kebab-case word is needed"),
        ("paracore-wary", "give 'wary'"),
        ("none", "means something else in Python"),
        ("error-target", "is taken by a stopping of paracore"),
        ("true", "means something else in Python"),
        ("any", "means something else in Python"),
        ("class-var", "means something else in Python"),
        ("stub", "is taken by a model of stub-plugin"),
        ("stub-plugin", "is taken by the plugin stub-plugin"),
        ("picard", "the plugin picard"),
        ("digits", "the installed package paracore_digits"),
    ],
)
def test_names_that_cannot_be_used(run, name, said, tmp_path):
    done = run("new", "plugin", name, "--folder", str(tmp_path))
    assert done.exit_code == 2
    assert said.casefold() in " ".join(done.stderr.split()).casefold()
    assert not list(tmp_path.iterdir())


def test_kinds_that_plugin_does_not_write(run, tmp_path):
    told = run("new", "plugin", "wary", "--kind", "model", "--folder", str(tmp_path))
    assert (told.exit_code, "paracore new model NAME writes one" in told.stderr) == (2, True)
    told = run("new", "plugin", "wary", "--kind", "dumping", "--folder", str(tmp_path))
    assert (told.exit_code, "did you mean 'damping'" in told.stderr) == (2, True)


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_nothing_is_overwritten(run, tmp_path, there):
    target = tmp_path / "paracore-wary"
    if there == "folder":
        target.mkdir()
    elif there == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    done = run("new", "plugin", "wary", "--folder", str(tmp_path))
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["paracore-wary"]
    assert there != "file" or target.read_text() == "mine"


def test_a_folder_that_is_not_there(run, tmp_path):
    done = run("new", "plugin", "wary", "--folder", str(tmp_path / "no"))
    assert (done.exit_code, "is no folder" in done.stderr) == (2, True)


@pytest.mark.parametrize("error", [RuntimeError("no space"), KeyboardInterrupt()])
def test_nothing_is_left_half_written(monkeypatch, tmp_path, error):
    real = creating._copier()

    def stops(template: str, draft: Path, **options: object) -> None:
        real(template, draft, **options)
        raise error

    monkeypatch.setattr(creating, "_copier", lambda: stops)
    with pytest.raises(type(error)):
        create("wary", "damping", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_its_extra_it_says_what_to_install(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "copier", None)
    done = run("new", "plugin", "wary", "--folder", str(tmp_path))
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "pip install 'paracore[new]'" in done.stderr
    assert not list(tmp_path.iterdir())
