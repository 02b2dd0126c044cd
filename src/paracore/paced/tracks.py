"""Tracks: sequential runs of a scheme from a state of their own, several of which advance side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from paracore.guard import finite_rows
from paracore.problem import NoiseTape
from paracore.schemes import History, Scheme
from paracore.schemes.table import compute_dtype
from paracore.window import Bools, where_rows

__all__ = ["Track", "corrected", "jumped", "packed", "stepped", "unpacked", "where_tracks"]


@attrs.frozen(eq=False)
class Track:
    """A state of the scheme with the memory that its next step reads.

    Attributes:
        key: what the method calls it.
        node: ``n``, the node of its newest state.
        states: ``x_n, x_{n-1}, ...``, each ``(B, *event)``, as many as the scheme reads.
        outputs: ``f_{n-1}, f_{n-2}, ...`` likewise; ``f_n`` is what the next evaluation gives.
        alive: ``(B,)`` bool, samples whose numbers have been finite all along; no other is evaluated.
    """

    key: tuple[int, ...]
    node: int
    states: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    alive: Bools


def stepped(scheme: Scheme, tape: NoiseTape, tracks: Sequence[Track], outputs: Sequence[torch.Tensor]) -> list[Track]:
    """One step of each track, the one that the sequential sampler makes; samples that are not finite stay behind."""
    past = [(output, *track.outputs) for track, output in zip(tracks, outputs, strict=True)]
    new = [scheme.step(t.node, t.states, fs, tape.row(t.node)) for t, fs in zip(tracks, past, strict=True)]
    finite, after = finite_rows(new), []  # of all tracks at once: it waits for the device
    for track, fs, state, good in zip(tracks, past, new, finite, strict=True):
        alive = track.alive & good
        states = (where_rows(alive, state, track.states[0]), *track.states)
        after.append(Track(track.key, track.node + 1, states[: scheme.memory + 1], fs[: scheme.memory], alive))
    return after


def jumped(scheme: Scheme, tape: NoiseTape, track: Track, output: torch.Tensor, stop: int) -> Track:
    """The long jump to node ``stop`` with the newest output held: a coarse solve that needs no further evaluation."""
    outputs = (output, *track.outputs)
    noise = [tape.row(node) for node in range(track.node, stop)]
    states = scheme.held(History(track.states, outputs), track.node, stop, noise).states
    past = tuple(outputs[max(0, track.node - node)] for node in range(stop - 1, max(stop - 1 - scheme.memory, -1), -1))
    return Track(track.key, stop, states, past, track.alive & finite_rows(states).all(axis=0))


def corrected(fine: Track, new: Track, old: Track) -> Track:
    """``fine + (new - old)`` in every state and output: equal coarse values cancel, whatever the rounding."""

    def combine(f: torch.Tensor, n: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        wide = compute_dtype(f.dtype)
        return (f.to(wide) + (n.to(wide) - o.to(wide))).to(f.dtype)

    states = tuple(combine(*row) for row in zip(fine.states, new.states, old.states, strict=True))
    outputs = tuple(combine(*row) for row in zip(fine.outputs, new.outputs, old.outputs, strict=True))
    finite = finite_rows([*states, *outputs]).all(axis=0)
    return attrs.evolve(fine, states=states, outputs=outputs, alive=fine.alive & new.alive & old.alive & finite)


def where_tracks(mask: Bools, new: Track, old: Track) -> Track:
    """Samples of ``new`` where ``mask (B,)``, of ``old`` elsewhere; the rest as in ``new``.

    A history of ``old`` that is too short is drawn out by its oldest entry: it only has to be finite.
    """
    zero = torch.zeros_like(old.states[0])
    past = old.outputs or (zero,)
    states = tuple(where_rows(mask, x, old.states[min(i, len(old.states) - 1)]) for i, x in enumerate(new.states))
    outputs = tuple(where_rows(mask, f, past[min(j, len(past) - 1)]) for j, f in enumerate(new.outputs))
    return attrs.evolve(new, states=states, outputs=outputs, alive=(mask & new.alive) | (~mask & old.alive))


def packed(value: Any) -> Any:
    """Nested data with tracks, as nested data without."""
    if isinstance(value, Track):
        return {"track": {name: getattr(value, name) for name in attrs.fields_dict(Track)}}
    if isinstance(value, dict):
        return {k: packed(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(packed(v) for v in value)
    return value


def unpacked(value: Any) -> Any:
    """The inverse of :func:`packed`."""
    if isinstance(value, dict):
        if set(value) == {"track"}:
            return Track(**value["track"])
        return {k: unpacked(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(unpacked(v) for v in value)
    return value
