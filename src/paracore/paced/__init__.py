"""Samplers whose schedule is fixed in advance: several tracks side by side, one evaluation of each per round.

A method derives from :class:`PacedSampler` and says how its tracks follow each other; the frame asks, checks, books,
stops and saves. Track 0 is the sequential sampler itself, so the answer at tolerance 0 has its bits.
"""

from paracore.paced.norms import NORMS, distance
from paracore.paced.sampler import PacedSampler
from paracore.paced.state import PacedState
from paracore.paced.tracks import Track, corrected, where_tracks
from paracore.paced.turn import Hit, Move, Turn

__all__ = [
    "NORMS",
    "Hit",
    "Move",
    "PacedSampler",
    "PacedState",
    "Track",
    "Turn",
    "corrected",
    "distance",
    "where_tracks",
]
