"""Evaluators: where a round's network calls are made."""

from paracore.evaluators.batched import Batched, batched
from paracore.evaluators.devices import Devices, devices
from paracore.evaluators.distributed import Distributed, distributed
from paracore.evaluators.memory import keep_freed_memory
from paracore.evaluators.pool import Pool
from paracore.evaluators.ray_actors import RayActors, ray

__all__ = [
    "Batched",
    "Devices",
    "Distributed",
    "Pool",
    "RayActors",
    "batched",
    "devices",
    "distributed",
    "keep_freed_memory",
    "ray",
]
