"""The calls of a round in shares: which, and how a share is called in messages."""

from __future__ import annotations

from collections.abc import Sequence

from paracore.evaluators.sharding import even_shares
from paracore_diffusers.calls import Call

__all__ = ["shares_of", "words"]


def shares_of(calls: Sequence[Call], workers: int) -> list[list[Call]]:
    """Even runs of calls, one per worker; the last may be empty."""
    return [[calls[i] for i in rows.tolist()] for rows in even_shares(len(calls), workers)]


def words(share: Sequence[Call]) -> str:
    """A share in words: ``the calls at nodes 3 to 7``."""
    if not share:
        return ""
    first, last = min(c.node for c in share), max(c.node for c in share)
    where = f"node {first}" if first == last else f"nodes {first} to {last}"
    return f"the call{'s' if len(share) > 1 else ''} at {where}"
