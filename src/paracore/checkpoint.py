"""States as plain data, and files of them, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import CheckpointError
from paracore.problem import Problem

__all__ = ["from_plain", "load_checkpoint", "problem_digest", "save_checkpoint", "to_plain"]

_ARRAY = "__array__"
_TUPLE = "__tuple__"
_PAIRS = "__pairs__"


def to_plain(value: Any) -> Any:
    """Numbers, strings, tensors, lists and dicts only: arrays and tuples become tagged dicts.

    Raises:
        CheckpointError: for a value of another type (a strategy keeps something that is not plain data).
    """
    if isinstance(value, np.generic):  # first: a np.float64 is a float, but no plain one
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):  # subclasses (an IntEnum, say) would not load again
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        try:
            return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value).copy()), "shape": list(value.shape)}
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"an array of {value.dtype} is not plain data; use numbers") from error
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {_TUPLE: [to_plain(v) for v in value]}
    if isinstance(value, list):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        if all(isinstance(k, str) and not k.startswith("__") for k in value):
            return {k: to_plain(v) for k, v in value.items()}
        return {_PAIRS: [[to_plain(k), to_plain(v)] for k, v in value.items()]}
    if attrs.has(type(value)):
        raise CheckpointError(f"{type(value).__name__} is not plain data; keep its fields in a dict instead")
    raise CheckpointError(f"{type(value).__name__} is not plain data; a state may hold numbers, arrays and tensors")


def from_plain(value: Any) -> Any:
    """The inverse of :func:`to_plain`."""
    if isinstance(value, list):
        return [from_plain(v) for v in value]
    if isinstance(value, dict):
        if _ARRAY in value:
            return value[_ARRAY].cpu().numpy().copy().reshape(value["shape"])
        if _TUPLE in value:
            return tuple(from_plain(v) for v in value[_TUPLE])
        if _PAIRS in value:
            return {from_plain(k): from_plain(v) for k, v in value[_PAIRS]}
        return {k: from_plain(v) for k, v in value.items()}
    return value


def problem_digest(problem: Problem) -> str:
    """A fingerprint of a problem: its table, initial states, generators and whether it is lockstep."""
    scheme, given = problem.scheme, problem.generator
    digest = hashlib.blake2b(digest_size=16)
    for table in (scheme.a, scheme.b, scheme.c, scheme.draws, scheme.time):
        digest.update(repr(table.shape).encode() + np.ascontiguousarray(table).tobytes())
    x0 = problem.x0.detach().cpu().contiguous()
    digest.update(f"{tuple(x0.shape)} {x0.dtype} {problem.lockstep}".encode())
    digest.update(x0.view(torch.uint8).numpy().tobytes())
    generators = [] if given is None else [given] if isinstance(given, torch.Generator) else list(given)
    for generator in generators if scheme.stochastic else []:
        digest.update(generator.get_state().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(data: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write plain data to a file, whole or not at all (a full disk leaves the old file as it was).

    Raises:
        OSError: if the file cannot be written.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent or Path(), prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(data, file)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | os.PathLike[str], *, map_location: Any = None) -> dict[str, Any]:
    """Read plain data back; nothing in the file is executed.

    Raises:
        CheckpointError: if the file is damaged.
        FileNotFoundError: if there is none.
    """
    try:
        data = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(f"{os.fspath(path)} is not a readable checkpoint: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{os.fspath(path)} holds {type(data).__name__}, not a checkpoint")
    return data
