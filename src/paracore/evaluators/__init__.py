"""Evaluators: where a round's network calls are made."""

from paracore.evaluators.batched import Batched, batched

__all__ = ["Batched", "batched"]
