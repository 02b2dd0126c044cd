"""The documentation site: its navigation, and a strict build that needs no network."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MOUNTED = {"README.md", "CHANGELOG.md", "examples/paracore-example/README.md"}
"""Files outside docs/ that docs/tooling/pages.py takes in."""


def entries(part: Any) -> Iterator[str]:
    """All pages that a navigation names, in its order."""
    if isinstance(part, str):
        yield part
    else:
        for inner in part.values() if isinstance(part, dict) else part:
            yield from entries(inner)


def navigation() -> list[str]:
    return list(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def reference() -> dict[str, Path]:
    """Pages of the API reference by the module that they show."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    return {module: page for page in pages for module in re.findall(r"^::: (\S+)$", page.read_text(), re.M)}


def test_every_page_is_in_the_navigation_once_and_exists():
    written = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(navigation()) == sorted(written | MOUNTED)


def test_public_modules_have_a_page_of_the_reference():
    modules = [importlib.import_module(name) for name in reference()]
    import paracore

    inside = {module.__name__ for module in modules}
    shown = {f"paracore.{name}" for name in paracore.__all__ if type(getattr(paracore, name)) is type(paracore)}
    assert shown <= inside


class Read(HTMLParser):
    """What a page loads, where it links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        loaded = given.get("src") or (given.get("href") if tag == "link" else None)
        if loaded:
            self.loads.append(loaded)


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {page: Read(page.read_text()) for page in tmp_path.rglob("*.html")}
    assert len(pages) > len(navigation())
    for page, read in pages.items():
        remote = [loaded for loaded in read.loads if re.match(r"(https?:)?//", loaded)]
        assert not remote, f"{page} loads {remote}"
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text()), style
    for module, source in reference().items():
        read = pages[(tmp_path / source.relative_to(DOCS)).with_suffix(".html")]
        public = importlib.import_module(module)
        missing = {f"{module}.{name}" for name in getattr(public, "__all__", ())} - set(reference()) - read.anchors
        assert not missing, f"the page of {module} does not show {sorted(missing)}"
    for page in pages:
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.S)
        lost = re.findall(r"<p>(?:[^<]*\n)?(?:[-*] |\|).*|:(?:class|func|meth|attr|data|mod):", text)
        assert not lost, f"{page} shows markup: {lost}"
