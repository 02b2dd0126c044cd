"""Hooks of the site's builder: files that lie outside docs/, so that one link serves the repository and the site.

A file `docs/P` is the site's `P`, any other file of the repository keeps its path: the README, the changelog, and what
documents link to (examples, job files) become part of the site, and links to them are written anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
MOUNTED = ("README.md", "CHANGELOG.md", "examples/paracore-example/README.md")
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def in_repository(page: str) -> PurePosixPath:
    """Where a page of the site lies in the repository."""
    inside = PurePosixPath("docs", page)
    return inside if (ROOT / inside).exists() else PurePosixPath(page)


def in_site(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the repository lies in the site."""
    return path.relative_to("docs") if path.parts[0] == "docs" else path


def target(source: PurePosixPath, link: str) -> PurePosixPath | None:
    """The file of the repository that a relative link in ``source`` leads to, if there is one."""
    path = PurePosixPath(os.path.normpath(source.parent / link))
    return path if path.parts and path.parts[0] != ".." and (ROOT / path).is_file() else None


def linked(source: PurePosixPath) -> Iterator[PurePosixPath]:
    """Files that a document links to."""
    for match in LINK.finditer((ROOT / source).read_text(encoding="utf-8")):
        found = target(source, match["path"])
        if found is not None:
            yield found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the README, the changelog, and all that documents link to."""
    pending = [PurePosixPath(name) for name in MOUNTED]
    pending += [PurePosixPath("docs", page.src_uri) for page in files.documentation_pages()]
    seen = set(pending)
    while pending:
        path = pending.pop()
        if path.parts[0] != "docs":
            files.append(File.generated(config, str(path), abs_src_path=str(ROOT / path)))
        if path.suffix == ".md":
            fresh = [found for found in linked(path) if found not in seen]
            seen.update(fresh)
            pending += fresh
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Write links anew that cross the border of docs/."""
    source = in_repository(page.file.src_uri)
    here = in_site(source).parent

    def moved(match: re.Match[str]) -> str:
        found = target(source, match["path"])
        if found is None:
            return match[0]
        return os.path.relpath(in_site(found), here).replace(os.sep, "/") + (match["anchor"] or "")

    return LINK.sub(moved, markdown)
