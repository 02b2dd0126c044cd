"""Memory of networks on CPUs: what a call freed stays with the process for the next call."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch

__all__ = ["device_of", "keep_freed_memory", "keep_freed_memory_for"]

_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER, _PAD = -1, 256 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Tell this process' allocator to keep what is freed instead of returning it to the operating system.

    A network's activations are tens of megabytes that every call frees and the next asks for again. By default the C
    library gives large blocks back, and the system clears every page anew: up to a tenth of a call of the digits
    network, depending on the machine and the number of rows (docs/scaling.md). Here the process keeps the most memory
    that it ever used at one time. That is set for the whole process, and cannot be undone in it.

    Evaluators with several workers on CPUs do this in the processes they work in, and so does the command line.
    Whoever has set one of ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_TOP_PAD_``, ``MALLOC_MMAP_THRESHOLD_``,
    ``MALLOC_MMAP_MAX_`` or a ``glibc.malloc`` entry of ``GLIBC_TUNABLES`` has decided: nothing is changed then.

    Returns:
        Whether it was set: only for the GNU C library, if the environment says nothing about it.
    """
    if any(name in os.environ for name in _SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library: Any = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (AttributeError where it is another library)
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # no trimming, no blocks of their own from the system, and (the pad) no heap of a thread given back when it is empty
    pairs = ((_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _PAD), (_M_MMAP_MAX, 0))
    taken = [mallopt(ctypes.c_int(option), ctypes.c_int(value)) == 1 for option, value in pairs]  # each one
    return all(taken)


def keep_freed_memory_for(place: torch.device | None) -> None:
    """:func:`keep_freed_memory`, if a network computes on the CPU; ``None``: a device that nothing tells."""
    if (place is None and not torch.cuda.is_available()) or (place is not None and place.type == "cpu"):
        keep_freed_memory()


def device_of(denoiser: Any) -> torch.device | None:
    """Where the parameters of a module are; ``None``: no module, or without any."""
    if isinstance(denoiser, torch.nn.Module):
        for tensor in (*denoiser.parameters(), *denoiser.buffers()):
            return tensor.device
    return None
