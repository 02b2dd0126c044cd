"""docs/plugins/testing.md: its tables are what the kit and its hypothesis strategies are.

``python tests/kit/test_kit_page.py`` writes the table of checks anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from paracore.composition import KINDS
from paracore.plugins import HOOKS
from paracore.testing import checks_for, given
from paracore.testing.kit import all_checks, contract_of
from paracore.testing.subject import Subject

FILE = Path(__file__).parents[2] / "docs" / "plugins" / "testing.md"
PAGE = FILE.read_text()
TABLE = re.compile(r"^\| check \| of \|.*?(?=\n\n)", re.M | re.S)


def of_whom(name: str) -> str:
    """Which kinds a check is made of."""
    kinds = [k for k in HOOKS if name in [c.__name__ for c in checks_for(Subject(k, k, None, lambda: None))]]
    if set(KINDS) <= set(kinds):
        kinds = ["every strategy", *(kind for kind in kinds if kind not in KINDS)]
    return ", ".join(kinds)


def table() -> str:
    """The checks with what they stand for, as the page shows them."""
    lines = ["| check | of | what it stands for |", "|---|---|---|"]
    for name, check in all_checks().items():
        contract = contract_of(check).replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{name}` | {of_whom(name)} | {contract} |")
    return "\n".join(lines)


def test_the_page_has_every_check_with_its_contract():
    shown = TABLE.search(PAGE)
    assert shown is not None
    assert shown[0].splitlines() == table().splitlines()


def test_every_check_is_made_of_something():
    assert all(of_whom(name) for name in all_checks())
    assert of_whom("check_causal") == "every strategy, sampler"


def test_the_page_has_every_hypothesis_strategy():
    listed = re.search(r"^\| strategy \| draws \|.*?(?=\n\n)", PAGE, re.M | re.S)
    assert listed is not None
    shown = set(re.findall(r"`(\w+)\(", re.sub(r"\| [^|]* \|$", "|", listed[0], flags=re.M)))
    assert shown == set(given.__all__)


if __name__ == "__main__":
    FILE.write_text(TABLE.sub(lambda found: table(), PAGE))
