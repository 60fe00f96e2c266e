"""How the C library keeps memory that is free."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_MOST = 32 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let the process keep what it frees, up to blocks of 32 MB; whether that could be arranged (glibc only).

    A training step allocates and frees the same tens of megabytes. By default glibc gives them back to the system
    each time, and fetching them again, page by page, takes about as long as the step's arithmetic.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(kept and libc.mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_MOST))
