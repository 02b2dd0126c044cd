"""Pipelines and arguments as they are named on the command line."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from paracore.errors import ConfigurationError

__all__ = ["arguments", "default_arguments", "load"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROMPT = "a lighthouse at dawn"


def load(target: str, dtype: str = "float32") -> tuple[Any, dict[str, Any]]:
    """A pipeline, and arguments that come with it.

    Args:
        target: ``module:function``, a folder made by ``save_pretrained``, or a hub id that is in the cache.
        dtype: of the weights that are loaded from a folder or the cache.

    Raises:
        ConfigurationError: if there is none; it says what was tried.
    """
    if dtype not in DTYPES:
        raise ConfigurationError(f"--dtype is {dtype!r}; one of {', '.join(DTYPES)} is needed")
    path = Path(target)
    if not path.exists() and re.fullmatch(r"[\w.]+:\w+", target):
        return _called(target)
    if path.is_file():
        raise ConfigurationError(f"{target} is a file; a folder made by save_pretrained is needed")
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise ConfigurationError(f"{target} has no model_index.json; a folder made by pipe.save_pretrained is needed")
    if not path.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", target):
        raise ConfigurationError(
            f"{target!r} is no folder, no hub id like 'owner/name' and no 'module:function' that returns a pipeline"
        )
    import diffusers

    loader: Any = diffusers.DiffusionPipeline
    absent = _left_out(path) if path.is_dir() else {}
    try:
        pipe = loader.from_pretrained(target, local_files_only=True, torch_dtype=DTYPES[dtype], **absent)
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        where = "cannot be loaded" if path.is_dir() else "is no folder, and cannot be loaded from the cache"
        raise ConfigurationError(f"{target} {where}: {type(error).__name__}: {what}") from error
    return pipe, {}


def _left_out(folder: Path) -> dict[str, None]:
    """Components that were saved as missing (a pipeline that is called with embeddings, say)."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder / 'model_index.json'} cannot be read: {error}") from error
    return {name: None for name, kind in index.items() if isinstance(kind, list) and kind[:1] == [None]}


def _called(target: str) -> tuple[Any, dict[str, Any]]:
    pipe, given = _returned(target)
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ConfigurationError(f"{target} returns {type(pipe).__name__}; a diffusers pipeline is needed")
    return pipe, given


def _returned(target: str) -> tuple[Any, dict[str, Any]]:
    name, _, function = target.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ConfigurationError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    make = getattr(module, function, None)
    if not callable(make):
        raise ConfigurationError(f"module {name!r} has no function {function!r}")
    try:
        made = make()
    except Exception as error:
        raise ConfigurationError(f"{target} fails: {type(error).__name__}: {error}") from error
    if isinstance(made, tuple):
        if len(made) != 2 or not isinstance(made[1], Mapping):
            raise ConfigurationError(f"{target} returns a tuple that is not (pipeline, keyword arguments)")
        return made[0], dict(made[1])
    return made, {}


def arguments(given: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments from JSON objects and ``KEY=VALUE``; a value is JSON, or else text.

    Raises:
        ConfigurationError: for anything else.
    """
    found: dict[str, Any] = {}
    for text in given:
        if text.lstrip().startswith("{"):
            try:
                found |= json.loads(text)
            except ValueError as error:
                raise ConfigurationError(f"--call {text!r} is no JSON object: {error}") from None
            continue
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigurationError(f"--call {text!r}: a JSON object or KEY=VALUE is needed, like height=256")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def default_arguments(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call needs at least and was not given: a prompt, a picture, a class."""
    parameters = inspect.signature(pipe.__call__).parameters
    found: dict[str, Any] = {}
    if "prompt" in parameters and not {"prompt", "prompt_embeds"} & set(given):
        if not any(name.startswith("text_encoder") and part is not None for name, part in _components(pipe).items()):
            raise ConfigurationError(
                "the pipeline has no text encoder: name a module:function that returns (pipeline, keyword arguments) "
                "with prompt_embeds"
            )
        found["prompt"] = PROMPT
    if "image" in parameters and not {"image", "image_embeds"} & set(given):
        from PIL import Image

        size = int(given.get("width") or 256), int(given.get("height") or 256)
        found["image"] = Image.linear_gradient("L").resize(size).convert("RGB")
        if "mask_image" in parameters and "mask_image" not in given:
            found["mask_image"] = Image.linear_gradient("L").resize(size)
    if "class_labels" in parameters and "class_labels" not in given:
        found["class_labels"] = [0]
    return found


def _components(pipe: Any) -> dict[str, Any]:
    return dict(getattr(pipe, "components", None) or {})
