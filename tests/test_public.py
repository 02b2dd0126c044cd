"""What is public, as docs/plugins/stability.md lists it: it exists, is documented, and is all that plugins use."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins" / "stability.md").read_text()
PUBLIC = re.findall(r"^\| `(paracore[\w.]*)` \| public \|$", PAGE, re.M)
ROWS = re.findall(r"^\| `(paracore\.[\w.]+)` \| (`.*) \|$", PAGE, re.M)
PROVISIONAL = {home: re.findall(r"`(\w+)`", names) for home, names in ROWS}
OPAQUE = {"EngineState", "PacedState"}
"""Records whose fields are said not to be public."""


def module(name: str) -> types.ModuleType:
    return importlib.import_module(name)


def allowed() -> dict[str, set[str]]:
    """Public names by module."""
    return {name: set(getattr(module(name), "__all__", ())) for name in PUBLIC} | {
        k: set(v) for k, v in PROVISIONAL.items()
    }


ALLOWED = allowed()
NAMES = [(home, name) for home in sorted(ALLOWED) for name in sorted(ALLOWED[home])]
SOURCES = [path for top in ("plugins", "adapters") for path in sorted((ROOT / top).rglob("*.py"))]


def test_the_page_lists_modules_and_names_that_exist():
    assert len(PUBLIC) >= 12
    assert len(PROVISIONAL) >= 5
    assert not set(PUBLIC) & set(PROVISIONAL)
    assert all(ALLOWED.values()), "a public module has an __all__"
    for home, names in PROVISIONAL.items():
        assert set(names) <= set(module(home).__all__), home
    for home, name in NAMES:
        assert hasattr(module(home), name), f"{home}.{name}"


def test_the_public_modules_are_those_of_the_reference():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)}
    assert shown == set(PUBLIC)


# -- what plugins and adapters use --------------------------------------------------------------------------------


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """``(module, name)`` of every import from paracore; the name is empty for a whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "paracore":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "paracore")


def reached(tree: ast.AST) -> Iterator[list[str]]:
    """Chains of attributes of the package: ``paracore.errors.SchemeError`` as ``["errors", "SchemeError"]``."""
    for node in ast.walk(tree):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if chain and isinstance(node, ast.Name) and node.id == "paracore":
            yield chain


def defined(tree: ast.AST) -> set[str]:
    """Attributes and methods with one leading underscore that the classes of a module define."""
    found = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    for owner in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                found |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


@functools.cache
def all_defined(folder: Path) -> set[str]:
    return set().union(*(defined(ast.parse(path.read_text())) for path in folder.rglob("*.py")))


PRIVATE = all_defined(ROOT / "src" / "paracore")


def misuses(source: str, own: set[str]) -> list[str]:
    """What a module uses of paracore that is not public; ``own`` are the private names of its package."""
    tree = ast.parse(source)
    found = []
    for home, name in imported(tree):
        if home not in ALLOWED:
            found.append(f"{home} is no public module")
        elif name and name not in ALLOWED[home]:
            found.append(f"{home}.{name} is not public")
    for chain in reached(tree):
        home = "paracore"
        for name in chain:
            if name not in ALLOWED[home]:
                found.append(f"{home}.{name} is not public")
            home = f"{home}.{name}"
            if home not in ALLOWED:
                break
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found += [f"{name} is an attribute of something of paracore's" for name in sorted(read & PRIVATE - own)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_and_adapters_use_public_names_only(path):
    package = next(folder for folder in path.parents if folder.parent.parent == ROOT)
    assert not misuses(path.read_text(), all_defined(package))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from paracore import Problem", []),
        ("from paracore.window import Local", []),
        ("import paracore\nparacore.errors.SchemeError", []),
        ("import paracore\nparacore.Status.INTERRUPTED.message", []),
        ("from paracore.slide import pick", []),
        ("from paracore.slide import slide_past", ["paracore.slide.slide_past is not public"]),
        ("from paracore.guard import calling", ["paracore.guard is no public module"]),
        ("import paracore.guard", ["paracore.guard is no public module"]),
        ("from paracore import guard", ["paracore.guard is not public"]),
        ("import paracore\nparacore.guard.calling()", ["paracore.guard is not public"]),
        ("import paracore\nparacore.errors.difflib", ["paracore.errors.difflib is not public"]),
        ("def f():\n    from paracore.chain import sweep_chain", ["paracore.chain is no public module"]),
        ("def f(registry):\n    return registry._load()", ["_load is an attribute of something of paracore's"]),
        ("def f(registry):\n    return registry._own", []),
        ("def f(x):\n    return x._version", []),
    ],
)
def test_the_check_finds_misuses(source, found):
    assert misuses(source, {"_own"}) == found


# -- every public name is documented -----------------------------------------------------------------------------


@pytest.mark.parametrize(("home", "name"), NAMES, ids=[".".join(pair) for pair in NAMES])
def test_every_public_name_is_documented(home, name):
    thing = getattr(module(home), name)
    if inspect.isclass(thing) and thing.__module__ not in ("builtins", "typing"):
        assert thing.__doc__, "it has no docstring"
        assert not list(_silent(thing)), "these have no docstring"
        if attrs.has(thing) and name not in OPAQUE:
            fields = [a.name for a in attrs.fields(thing) if a.init and not a.name.startswith("_")]
            assert not [f for f in fields if not re.search(rf"\b{f}\b", thing.__doc__)], (
                "the docstring leaves these out"
            )
    elif inspect.isroutine(thing) or inspect.ismodule(thing):
        assert thing.__doc__
    else:
        assert _explained(home, name), "a string below its assignment says what it is"


def _silent(thing: type) -> Iterator[str]:
    """Public methods and properties, inherited ones of paracore too, without a docstring of their own or above."""
    for owner in thing.__mro__:
        if owner.__module__.partition(".")[0] != "paracore":
            continue
        for name, made in vars(owner).items():
            member: Any = made.__func__ if isinstance(made, (classmethod, staticmethod)) else made
            method = inspect.isfunction(member) or isinstance(member, property)
            if method and not name.startswith("_") and not inspect.getdoc(getattr(owner, name)):
                yield f"{owner.__name__}.{name}"


def _explained(home: str, name: str) -> bool:
    """Whether a string follows the assignment of a name, in this module or in the one that it is imported from."""
    body = ast.parse(inspect.getsource(module(home))).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return _explained(str(node.module), name)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            if name in stored:
                said = after.value if isinstance(after, ast.Expr) else None
                return isinstance(said, ast.Constant) and isinstance(said.value, str)
    return False
