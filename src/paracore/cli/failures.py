"""Errors as one line, and exit codes."""

from __future__ import annotations

import errno
import os
import sys

import typer

from paracore.distributions import blamed
from paracore.errors import CheckpointError, ConfigurationError, ParacoreError, PluginError, UnknownNameError

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "fail", "note", "report"]

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: what was asked for cannot be done; it was tried and failed; Ctrl-C."""

_INPUT = (ConfigurationError, UnknownNameError, PluginError, CheckpointError)
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EPIPE}


def note(message: object) -> None:
    """One line on stderr."""
    typer.echo(f"paracore: {' '.join(str(message).split())}", err=True)


def fail(message: object, code: int) -> typer.Exit:
    """Say it, and return what to raise."""
    note(message)
    return typer.Exit(code)


def report(error: Exception) -> int:
    """Say what went wrong in one line; the exit code. With ``PARACORE_DEBUG=1`` the error goes on instead."""
    if os.environ.get("PARACORE_DEBUG", "") not in ("", "0"):
        raise error
    shown = getattr(error, "format_message", None)  # click's own errors, whichever click typer uses
    if callable(shown):
        note(shown() or "wrong usage; see paracore --help")
        return int(getattr(error, "exit_code", BAD_INPUT))
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if isinstance(error, ParacoreError):
        note(f"{error}{_notes(error)}")
        return BAD_INPUT if isinstance(error, _INPUT) else FAILED
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the reader left; nothing more is to be said)
        return FAILED
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        note(f"{where}{error.strerror or error}")
        return FAILED if error.errno in _MACHINE else BAD_INPUT
    origin = blamed(error)
    whose = f"this is a bug of plugin {origin}, or of paracore" if origin else "this is a bug, or one of a plugin's"
    note(f"{type(error).__name__}: {error}{_notes(error)} ({whose}; PARACORE_DEBUG=1 shows where)")
    return FAILED


def _notes(error: Exception) -> str:
    """What was noted on the way: which part, of which plugin."""
    return "".join(f"; {text}" for text in getattr(error, "__notes__", ()))
