"""What the machine has: memory, and how fast it is."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

PROBE = 0.057
"""Processor seconds of the work of :func:`pace` on the machine that forecasts were measured on."""


def peak_mb() -> float:
    """Most memory that the process has had, MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def free_mb() -> float | None:
    """Memory that programs can have without others losing theirs, MB; ``None`` where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return None if found is None else int(found[1]) / 2**10


def pace() -> float:
    """How much longer a fixed piece of work takes than on the machine that forecasts were measured on."""
    values = np.random.default_rng(0).random(2**20)
    times = []
    for _ in range(3):
        started = time.process_time()
        np.sort(values)
        times.append(time.process_time() - started)
    return float(np.median(times)) / PROBE
