"""Imports point one way; that plugins and adapters use public names only is tested in test_public.py."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "paracore"
LAYERS = [
    {"errors", "status", "distributions"},
    {"deprecation"},
    {"schemes"},
    {"request"},
    {"problem"},
    {"window"},
    {"strategies"},
    {"guard", "slide"},
    {"interpolation"},
    {"chain", "checkpoint"},
    {"composition", "result", "model"},
    {"sampler", "state"},
    {"exchange", "iterate"},
    {"engine", "paced", "sequential"},
    {"parts", "evaluators"},
    {"solve", "fitting"},
    {"plugins"},
    {"compose"},
    {"recipes"},
    {"comparison"},
    {"harness"},
    {"testing"},
    {"cli"},
]
RANK = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> list[tuple[str, list[str], bool]]:
    """``(module, names, only for type checkers)`` of all imports of a file."""
    tree = ast.parse(path.read_text())
    checking = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, [], id(node) in checking) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, [alias.name for alias in node.names], id(node) in checking))
    return found


def core_files() -> list[Path]:
    return [p for p in CORE.rglob("*.py") if p.parent != CORE or p.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", core_files(), ids=lambda p: str(p.relative_to(CORE)))
def test_imports_point_down(path):
    own = path.relative_to(CORE).parts[0].removesuffix(".py")
    for module, _, checking in imports(path):
        parts = module.split(".")
        if parts[0] != "paracore" or len(parts) < 2 or checking or parts[1] == own:
            continue
        assert RANK[parts[1]] <= RANK[own], f"{own} imports {module}, which lies above it"


@pytest.mark.parametrize(
    "path",
    [p for top in ("plugins", "adapters") for p in (ROOT / top).rglob("*.py")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_plugins_and_adapters_do_not_use_each_other(path):
    own = path.relative_to(ROOT).parts[1]
    for module, _, _ in imports(path):
        top = module.split(".")[0]
        assert top == own or not top.startswith("paracore_"), f"imports its neighbour {module}"


def test_importing_paracore_is_light():
    heavy = (
        "diffusers",
        "scipy",
        "typer",
        "rich",
        "PIL",
        "hypothesis",
        "cattrs",
        "tomli_w",
        "paracore_picard",
        "paracore_digits",
    )
    code = f"import sys, paracore; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
