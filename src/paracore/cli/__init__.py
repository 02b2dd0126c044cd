"""The command line: ``paracore list | show | sample | compare``."""

from __future__ import annotations

from paracore.cli.app import app, main

__all__ = ["app", "main"]
