"""Files that are written whole or not at all, and what goes into them."""

from __future__ import annotations

import io
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paracore.distributions import own_version
from paracore.errors import ConfigurationError
from paracore.plugins import Entry

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "check_folder",
    "check_writable",
    "console",
    "path_of",
    "versions",
    "write",
    "write_json",
    "write_samples",
]


def console() -> Console:
    """For stdout: as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    made = Console()
    return made if made.is_terminal else Console(width=160)


def path_of(prefix: str, suffix: str) -> Path:
    """``PREFIX.suffix``."""
    return Path(f"{prefix}.{suffix}")


def check_writable(prefix: str, suffixes: Sequence[str]) -> None:
    """Make the folder, and see that files can be made in it.

    Raises:
        ConfigurationError: if they cannot.
    """
    if not prefix or prefix.endswith(("/", os.sep)):
        raise ConfigurationError(f"--out is {prefix!r}; a path without ending is needed, like results/digits")
    for suffix in suffixes:
        path = path_of(prefix, suffix)
        if path.is_dir():
            raise ConfigurationError(f"cannot write {path}: it is a folder")
    check_folder(path_of(prefix, suffixes[0]))


def check_folder(path: str | os.PathLike[str]) -> None:
    """Make a file's folder, and see that files can be made in it.

    Raises:
        ConfigurationError: if they cannot.
    """
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".paracore-")
        os.close(handle)
        os.unlink(name)
    except FileExistsError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.filename} is a file, not a folder") from error
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror or error}") from error


def write(path: Path, data: bytes) -> None:
    """Whole or not at all.

    Raises:
        OSError: if the file cannot be written; an older one is as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Strict JSON: non-finite numbers were made null before."""
    write(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def write_samples(path: Path, samples: torch.Tensor) -> None:
    """A NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, samples.detach().cpu().float().numpy())
    write(path, buffer.getvalue())


def versions(*used: Entry) -> dict[str, str]:
    """Of everything that the numbers depend on."""
    return {
        "paracore": own_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
        **{f"{e.kind} {e.name}": e.origin for e in used},
    }
