"""docs/plugins/ says what the code says: signatures of contracts and hooks; its examples make a plugin."""

from __future__ import annotations

import abc
import inspect
import re
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import attrs
import pytest

import paracore
from paracore.cli.creating import create
from paracore.composition import KINDS
from paracore.plugins import HOOKS, Registry, registry
from paracore.plugins.hookspecs import HookSpecs
from paracore.testing import checks_for, run_checks

DOCS = Path(__file__).parents[2] / "docs" / "plugins"
CONTRACTS: dict[str, list[type]] = {
    "README": [paracore.Strategy],
    **{kind: [base] for kind, base in KINDS.items()},
    "sampler": [paracore.Sampler],
    "model": [paracore.Model, paracore.Denoiser],
    "evaluator": [paracore.Evaluator, paracore.Request, paracore.Outputs],
}
"""What each page of docs/plugins/contracts/ describes."""

SPECS = {name: spec for name, spec in vars(HookSpecs).items() if name.startswith("paracore_")}


def fenced(text: str, language: str) -> str:
    """All blocks of a language; signatures are ``py``, what runs (tests/test_documents.py) is ``python``."""
    return "\n\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S))


def executed(source: str, **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "document", **names}
    exec(compile(source, "document", "exec"), namespace)
    return namespace


def face(described: type) -> dict[str, Any]:
    """Public members: signatures of methods, annotations and values of attributes."""
    members: dict[str, Any] = {}
    for name, value in vars(described).items():
        inner = value.fget if isinstance(value, property) else value
        if inspect.isfunction(inner) and (not name.startswith("_") or name == "__call__"):
            abstract = getattr(inner, "__isabstractmethod__", False)
            members[name] = f"{type(value).__name__} {inspect.signature(inner)} {'abstract' if abstract else ''}"
    values = {a.name: a.default for a in attrs.fields(described)} if attrs.has(described) else vars(described)
    for name, annotation in inspect.get_annotations(described).items():
        value = values.get(name, attrs.NOTHING)
        members[name] = f"{annotation} = {value!r}" if value is not attrs.NOTHING else annotation
    return members


def written(page: str) -> dict[str, type]:
    """The classes that a page of contracts shows."""
    public = {name: getattr(paracore, name) for name in paracore.__all__}
    names = {**public, "abc": abc, "ClassVar": ClassVar, "Protocol": Protocol}
    shown = executed(fenced((DOCS / "contracts" / f"{page}.md").read_text(), "py"), **names)
    return {name: made for name, made in shown.items() if getattr(made, "__module__", "") == "document"}


@pytest.mark.parametrize("page", CONTRACTS)
def test_a_contract_is_written_as_it_is(page):
    shown = written(page)
    assert shown.keys() == {described.__name__ for described in CONTRACTS[page]}
    for described in CONTRACTS[page]:
        assert face(shown[described.__name__]) == face(described)
        bases = [base.__name__ for base in described.__bases__ if base is not object]
        assert bases == [base.__name__ for base in shown[described.__name__].__bases__ if base is not object]


def test_every_kind_has_a_page_and_no_other_is_there():
    assert {page.stem for page in (DOCS / "contracts").glob("*.md")} == {"README", *HOOKS}


def checks_named(page: str) -> set[str]:
    text = (DOCS / "contracts" / f"{page}.md").read_text()
    listed = re.search(r"^(Checked by|\| contract \|) .*?\n\n", text, flags=re.M | re.S)
    return set(re.findall(r"`(check_\w+)`", listed[0] if listed else ""))


def checks_of(kind: str) -> set[str]:
    """Of every registered name of a kind: some checks depend on what a part says of itself."""
    return {check.__name__ for entry in registry.entries(kind) for check in checks_for(f"{kind}:{entry.name}")}


def test_contracts_name_the_checks_of_their_kind():
    shared, anywhere = checks_named("README"), set().union(*map(checks_of, KINDS))
    assert shared <= anywhere
    for kind in HOOKS:
        common = shared if kind in KINDS else set()
        assert checks_named(kind) == checks_of(kind) - common, kind


def hook_sections() -> dict[str, str]:
    text = (DOCS / "hooks.md").read_text()
    return dict(re.findall(r"^## `(paracore_\w+)`\n(.*?)(?=^## )", text, flags=re.M | re.S))


def test_every_hook_has_a_section_in_the_order_of_the_code():
    assert list(hook_sections()) == list(SPECS)


@pytest.mark.parametrize("hook", SPECS)
def test_a_hook_is_written_as_it_is(hook):
    section = hook_sections()[hook]
    shown = executed(fenced(section, "py"))[hook]
    spec = inspect.signature(SPECS[hook])
    bound = spec.replace(parameters=[p for name, p in spec.parameters.items() if name != "self"])
    assert inspect.signature(shown) == bound
    assert f"def {hook}()" in fenced(section, "python")


def test_what_hooks_return_is_written_as_it_is():
    from paracore.plugins import hookspecs

    before = (DOCS / "hooks.md").read_text().partition("\n## ")[0]
    names = {"Mapping": Mapping, "Callable": Callable, "Any": Any, "Conformance": paracore.Conformance}
    shown = executed(fenced(before, "py"), **names)
    returned = {str(inspect.signature(spec).return_annotation) for spec in SPECS.values()}
    assert returned <= shown.keys()
    for name in returned:
        assert shown[name] == getattr(hookspecs, name)


def test_the_examples_of_all_hooks_make_one_plugin():
    shown = executed(fenced((DOCS / "hooks.md").read_text(), "python"))
    plugin = types.SimpleNamespace(**{hook: shown[hook] for hook in SPECS}, paracore_api=shown["paracore_api"])
    alone = Registry()
    alone.register(plugin, "documented")
    found = [entry for entry in alone.entries() if entry.plugin == "documented"]
    assert {entry.kind for entry in found} == set(HOOKS)
    assert [entry.name for entry in found if entry.citation] == ["held-back"]
    for entry in found:
        for example in entry.conformance.examples:
            given = (lambda x, t, rows: x,) if entry.kind == "evaluator" else ()
            assert entry.make(*given, **example) is not None
    assert [app.info.help for app in shown["paracore_commands"]().values()] == ["An example."]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.relative_to(DOCS).as_posix())
def test_toml_can_be_read(page):
    for source in re.findall(r"^```toml\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        points = tomllib.loads(source).get("project", {}).get("entry-points", {})
        assert set(points) <= {"paracore"}


def test_packaging_shows_what_paracore_new_writes(tmp_path):
    create("patient", "stopping", tmp_path)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {".gitignore"}
    page = (DOCS / "packaging.md").read_text()
    listed = re.search(r"^## The files\n\n((?:    .*\n)+)", page, flags=re.M)
    assert listed
    assert set(re.findall(r"[\w.]+\.\w+|LICENSE", listed[1])) == written
    project = tomllib.loads((tmp_path / "paracore-patient" / "pyproject.toml").read_text())["project"]
    shown = tomllib.loads(fenced(page, "toml"))["project"]
    assert shown == {key: project[key] for key in shown}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README", *(f"contracts/{kind}" for kind in HOOKS)])
def test_examples_pass_the_conformance_kit(page):
    shown = executed(fenced((DOCS / f"{page}.md").read_text(), "python"))
    made = [one for one in shown.values() if inspect.isclass(one) or inspect.isfunction(one)]
    own = [one for one in made if one.__module__ == "document" and not one.__name__.startswith("paracore_")]
    assert own
    for example in own:
        kind = page.rpartition("/")[2] if "/" in page else "stopping"
        report = run_checks(example, kind)
        assert report.passed, str(report)
