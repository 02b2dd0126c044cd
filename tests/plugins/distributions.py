"""Small real distributions in a folder: metadata, an entry point and a module, as an installer leaves them."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["BROKEN", "GOOD", "Made", "install"]

HEAD = """
from typing import Any

import numpy as np

import paracore


class Half(paracore.DampingPolicy):
    "Halves nothing: factors of zero."

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def factors(self, round: paracore.Round, state: Any) -> Any:
        return np.zeros((round.window.rows, round.window.batch))

"""


@attrs.frozen
class Made:
    """A distribution.

    Attributes:
        name, version: of the distribution; its plugin has the same name, its module with underscores.
        source: the module.
        cause: what must be said of it where it is listed as broken; empty if it is not.
    """

    name: str
    version: str
    source: str
    cause: str = ""

    @property
    def origin(self) -> str:
        """As messages name it."""
        return f"{self.name} ({self.name} {self.version})"


def hook(name: str, body: str) -> str:
    """A marked hook that returns something."""
    return f"@paracore.hookimpl\ndef {name}():\n    {body}\n\n"


def install(folder: Path, *made: Made) -> Path:
    """Write them into a folder, which is to be put on the path."""
    for one in made:
        module = one.name.replace("-", "_")
        (folder / f"{module}.py").write_text(one.source)
        info = folder / f"{module}-{one.version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {one.name}\nVersion: {one.version}\nProvides-Extra: fast\n"
            'Requires-Dist: paracore\nRequires-Dist: no-such-distribution>=2; extra == "fast"\n'
        )
        (info / "entry_points.txt").write_text(f"[paracore]\n{one.name} = {module}\n")
    return folder


GOOD = Made("good-plugin", "2.0", HEAD + "paracore_api = 1\n\n" + hook("paracore_dampings", "return {'half': Half}"))

BROKEN = (
    Made("lost-import", "1.1", "import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
    Made("exits", "1.2", "raise SystemExit(3)\n", "SystemExit: 3"),
    Made(
        "misspelt",
        "1.3",
        HEAD + hook("paracore_damping", "return {'half-1': Half}"),
        "unknown hook 'paracore_damping'",
    ),
    Made(
        "unmarked",
        "1.4",
        HEAD + "def paracore_dampings():\n    return {'half-2': Half}\n",
        "paracore_dampings lacks its mark; write @paracore.hookimpl above it",
    ),
    Made(
        "from-tomorrow",
        "1.5",
        HEAD + "paracore_api = 2\n\n" + hook("paracore_of_tomorrow", "return {}"),
        "from-tomorrow 1.5 was made for version 2 of paracore's hooks; paracore",
    ),
    Made(
        "raises", "1.6", HEAD + hook("paracore_dampings", "return 1 / 0"), "paracore_dampings raised ZeroDivisionError"
    ),
    Made(
        "no-dict", "1.7", HEAD + hook("paracore_dampings", "return [Half]"), "paracore_dampings returned list; a dict"
    ),
    Made("no-return", "1.8", HEAD + hook("paracore_dampings", "{'half-3': Half}"), "paracore_dampings returned None"),
    Made(
        "no-factory",
        "1.9",
        HEAD + hook("paracore_dampings", "return {'half-4': 4}"),
        "registers 'half-4' as int; a class or function is needed",
    ),
    Made(
        "half-good",
        "1.10",
        HEAD + hook("paracore_dampings", "return {'half-5': Half}") + hook("paracore_models", "return {'Not': Half}"),
        "paracore_models registers the name 'Not'; names are kebab-case",
    ),
)
"""Plugins that cannot be used at all."""
