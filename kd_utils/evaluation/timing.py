"""How long things take, side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from tqdm.auto import tqdm


def time_interleaved(jobs: dict[str, Callable[[], object]], turns: int, warm: int = 1) -> dict[str, float]:
    """Median milliseconds of each job.

    They take turns, so that a busy machine slows all alike; the first `warm` turns are not counted. A job that leaves
    work with a GPU must wait for it.
    """
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in tqdm(range(turns + warm), desc="timing", unit="turn", leave=False):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn >= warm:
                took[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(ms) for name, ms in took.items()}
