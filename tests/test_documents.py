"""Documents are tests: every fenced Python block runs, in order, in one namespace per file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paracore.plugins import HOOKS
from paracore.plugins.hookspecs import HookSpecs
from paracore.status import Status

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p)], ids=lambda p: p.name)
def test_python_blocks_run(path):
    namespace: dict[str, object] = {"__name__": "document"}
    for number, source in enumerate(blocks(path)):
        exec(compile(source, f"{path.name} block {number}", "exec"), namespace)


def test_the_readme_has_the_three_line_use():
    assert len(blocks(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("hook", sorted(HOOKS.values()))
def test_every_hook_is_documented_with_its_signature(hook):
    assert callable(getattr(HookSpecs, hook))
    assert f"`{hook}()`" in (ROOT / "docs" / "plugins" / "README.md").read_text()


def test_every_status_has_a_message():
    assert all(status.message and (status.failed == (status < 0)) for status in Status)


def test_relative_links_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_no_document_speaks_of_a_machine():
    for path in DOCUMENTS:
        assert not re.search(r"/(work|home|root|tmp)/", path.read_text()), path.name
