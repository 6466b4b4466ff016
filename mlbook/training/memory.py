"""How the C library hands out memory, on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next tensor of its size; True where that could be set.

    By default glibc gives large blocks back at once, and the system hands them out again page by page, filled with zeros. A
    training step frees and takes the same large tensors over and over; on the miniImageNet network most of the time went there
    (``python -m benchmarks.savings`` measures it). The process then holds on to the most that it ever used. Only glibc (Linux)
    has this switch.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
