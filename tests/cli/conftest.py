"""Only the presets and the stub are installed, whatever is on this machine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator

import pytest
import torch
from typer.testing import CliRunner, Result

import paracore
import stub_plugin
from paracore.cli import app

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = importlib.metadata.entry_points
    names = ("picard", "ropa", "newton")  # the default sampler is ropa, with secants
    presets = [importlib.metadata.EntryPoint(name, f"paracore_{name}.plugin", "paracore") for name in names]

    def fake(**selection: str) -> object:
        return presets if selection.get("group") == "paracore" else real(**selection)

    monkeypatch.setattr(importlib.metadata, "entry_points", fake)
    monkeypatch.delenv("PARACORE_DEBUG", raising=False)
    monkeypatch.delenv("PARACORE_DISABLE_PLUGINS", raising=False)
    threads = torch.get_num_threads()
    paracore.registry.register(stub_plugin, "stub-plugin")
    yield
    paracore.registry.unregister("stub-plugin")
    torch.set_num_threads(threads)


@pytest.fixture
def run() -> Run:
    """Run the program in this process; a string is split at blanks."""

    def go(*words: str) -> Result:
        return CliRunner().invoke(app, [*words])

    return go
