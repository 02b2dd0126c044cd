"""Checks of how something is written: documented, and an immutable record."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs

from paracore.plugins.calls import options_of
from paracore.testing.drive import CheckFailure
from paracore.testing.runs import easy_case
from paracore.testing.subject import Subject, subject_of

__all__ = ["check_documented", "check_immutable_record"]


def check_documented(thing: Any) -> None:
    """It has a docstring of its own that names every option; strategies and models say where they come from."""
    subject = subject_of(thing)
    source = subject.source
    own = source.__doc__ if not inspect.isclass(source) else source.__dict__.get("__doc__")
    if not own or not own.strip() or re.match(r"(A new|Method generated)", own):
        raise CheckFailure(f"{subject.label} has no docstring of its own")
    text = own
    if inspect.isclass(source):
        text += source.__init__.__doc__ or "" if "__init__" in source.__dict__ else ""
    for name in options_of(source):
        if name != "denoiser" and not re.search(rf"\b{re.escape(name)}\b", text):
            raise CheckFailure(f"{subject.label}: the docstring does not say what the option {name!r} does")
    if subject.kind in ("evaluator", "sampler") or getattr(source, "null", False):
        return
    owner = getattr(source, "__self__", None)  # of a class method
    reference = getattr(source, "reference", "") or getattr(owner, "reference", "")
    if not (isinstance(reference, str) and reference.strip()) and not re.search(r"^\s*References?:", own, re.MULTILINE):
        raise CheckFailure(
            f"{subject.label} does not say where it comes from: set reference = 'paper and equation', or give its "
            "docstring a line 'Reference: ...'"
        )


def check_immutable_record(thing: Any) -> None:
    """It is an immutable record of its options: nothing can be set, and its ``repr`` says what rebuilds it."""
    subject = subject_of(thing)
    fresh = _fresh(subject)
    one, two = fresh(), fresh()
    names = [f.name for f in attrs.fields(type(one))] if attrs.has(type(one)) else []
    for name in [*names, "something_new"]:
        try:
            setattr(one, name, getattr(one, name, None))
        except (AttributeError, TypeError):
            continue
        raise CheckFailure(f"{subject.label}: {name!r} can be set; use @attrs.frozen")
    if repr(one) != repr(two) or re.search(r" at 0x[0-9a-f]+", repr(one)):
        raise CheckFailure(
            f"{subject.label}: its repr {one!r} does not tell one from another; it names the owner of a checkpoint: "
            "use @attrs.frozen"
        )
    if attrs.has(type(one)) and "__eq__" in vars(type(one)) and one != two:
        raise CheckFailure(f"{subject.label}: two of the same options are not equal")
    for field in attrs.fields(type(one)) if attrs.has(type(one)) else ():
        if not field.repr:
            raise CheckFailure(f"{subject.label}: its repr hides {field.name!r}; a checkpoint tells parts apart by it")
        if isinstance(getattr(one, field.name), list | dict | set):
            raise CheckFailure(
                f"{subject.label}: option {field.name!r} is a {type(getattr(one, field.name)).__name__}, "
                "which can be changed; use a tuple, or attrs' converter"
            )


def _fresh(subject: Subject) -> Callable[[], Any]:
    problem = easy_case(8).problem
    return lambda: subject.part(problem)
