"""An extension of the reader of docstrings: cross-references, lists of names, and the signatures of attrs classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).parents[1] / "reference"
ROLE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):`~?(?P<name>[\w.]+)`")
SEVERAL = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+):(?P<text>.*(?:\n(?P=indent) +\S.*)*)", re.M)
BARE_ERRORS = re.compile(r"^(?P<indent> +)(?P<names>\w+Error(?:, \w+Error)*)\.?$", re.M)


class Docstrings(griffe.Extension):
    """What the pages of the reference need beyond what the reader of docstrings does itself."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """All modules are read: names can be looked up."""
        found = _objects(pkg)
        index = {item.path: item for item in found}
        shown = _shown(index)
        for item in found:
            if isinstance(item, griffe.Class) and "__init__" not in item.members:
                _give_signature(item)
            if item.docstring is not None:
                item.docstring.value = _written(item, item.docstring.value, index, shown)
        _uncover(found, index)


Index = dict[str, griffe.Object]


def _objects(owner: griffe.Module | griffe.Class) -> list[griffe.Object]:
    """The owner and all that is defined in it, at any depth."""
    found: list[griffe.Object] = [owner]
    for member in owner.members.values():
        if isinstance(member, (griffe.Module, griffe.Class)):
            found += _objects(member)
        elif isinstance(member, griffe.Object):
            found.append(member)
    return found


def _defined(path: str, index: Index) -> str:
    """The path at which an object is defined, by following imports."""
    for _ in range(10):
        owner, _, name = path.rpartition(".")
        module = index.get(owner)
        if not isinstance(module, griffe.Module) or module.imports.get(name, path) == path:
            return path
        path = module.imports[name]
    return path


def _shown(index: Index) -> dict[str, str]:
    """Where the site shows an object: its name on a page, by the path at which it is defined."""
    shown: dict[str, str] = {}
    for page in sorted(PAGES.glob("*.md"), key=lambda p: (p.stem != "paracore", p.stem)):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            module = index.get(path)
            if isinstance(module, griffe.Module):
                for name in module.exports or ():
                    defined = _defined(f"{path}.{name}", index)
                    if not isinstance(index.get(defined), griffe.Module):  # a module's page has no heading for it
                        shown.setdefault(defined, f"{path}.{name}")
    return shown


def _uncover(found: list[griffe.Object], index: Index) -> None:
    """``paracore.solve`` is the function, not the module of that name in which it is defined."""
    hidden = []
    for module in found:
        if isinstance(module, griffe.Module):
            for name in map(str, module.exports or ()):
                path = _defined(f"{module.path}.{name}", index)
                if isinstance(module.members.get(name), griffe.Module) and not isinstance(index[path], griffe.Module):
                    hidden.append((module, name, index[path]))
    aliases = [m for item in found for m in item.members.values() if isinstance(m, griffe.Alias)]
    for alias in aliases:  # while what they lead to can be reached by its path
        target = index.get(_defined(alias.target_path, index))
        if target is not None:
            alias.target = target
    for module, name, item in hidden:
        module.members[name] = griffe.Alias(name, item, parent=module)


def _written(at: griffe.Object, text: str, index: Index, shown: dict[str, str]) -> str:
    """A docstring as the reader takes it: one name per entry, references as links."""
    text = BARE_ERRORS.sub(lambda match: "\n".join(f"{match['indent']}{n}: " for n in match["names"].split(", ")), text)
    text = SEVERAL.sub(
        lambda match: "\n".join(f"{match['indent']}{n}:{match['text']}" for n in match["names"].split(", ")), text
    )
    return ROLE.sub(lambda match: _reference(at, match["name"], index, shown), text)


def _reference(at: griffe.Object, name: str, index: Index, shown: dict[str, str]) -> str:
    """A link to what a docstring names; plain code where the site does not show it."""
    path = name
    if not name.startswith("paracore."):
        try:
            path = at.resolve(name)
        except griffe.NameResolutionError:
            return f"`{name}`"
    defined = _defined(path, index)
    if defined in shown:
        return f"[`{name}`][{shown[defined]}]"
    owner, _, last = path.rpartition(".")
    holder, member = _defined(owner, index), index.get(f"{_defined(owner, index)}.{last}")
    documented = member is not None and member.has_docstring and not last.startswith("_")
    if holder in shown and isinstance(index.get(holder), griffe.Class) and documented:
        return f"[`{name}`][{shown[holder]}.{last}]"
    return f"`{name}`"


def _give_signature(owner: griffe.Class) -> None:
    """An attrs record has no written ``__init__``: make one of its fields."""
    written = [str(d.value) for d in owner.decorators if str(d.value).startswith(("attrs.frozen", "attrs.define"))]
    if not written:
        return
    kind = (
        griffe.ParameterKind.keyword_only
        if "kw_only=True" in written[0]
        else griffe.ParameterKind.positional_or_keyword
    )
    parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    for field in owner.members.values():
        if not isinstance(field, griffe.Attribute) or field.annotation is None or "property" in field.labels:
            continue
        if "ClassVar" in str(field.annotation):
            continue
        parameters.append(griffe.Parameter(field.name, annotation=field.annotation, kind=kind, default=_default(field)))
    init = griffe.Function("__init__", parameters=griffe.Parameters(*parameters), lineno=owner.lineno, parent=owner)
    owner.set_member("__init__", init)


def _default(field: griffe.Attribute) -> Any:
    """A field's default, read from ``attrs.field(default=...)`` or ``factory=...`` too."""
    value = field.value
    if not isinstance(value, griffe.ExprCall) or not str(value.function).endswith("attrs.field"):
        return value
    for argument in value.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name in ("default", "factory"):
            return argument.value if argument.name == "default" else f"{argument.value}()"
    return None
