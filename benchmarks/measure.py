"""What all benchmarks of speed share: jobs timed by turns, the machine's own peaks, rows, tables and bench.json.

With one thread a time is the processor time of the process, which other work on the machine hardly changes. With more
threads it is the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from kd_utils.common import devices, files


@dataclass
class Row:
    """One measured figure, as it stands in bench.json."""

    bench: str
    name: str
    engine: str
    dtype: str
    threads: int
    ms: float  # median
    peak_share: float | None  # of the machine's GEMM peak, or of its copy peak where nothing is multiplied
    ratio: float | None  # how many times faster than `against`
    against: str


@dataclass(frozen=True)
class Peaks:
    """What this machine reaches at best with a number of threads."""

    gmac: float  # 10^9 multiply-adds a second of a 1024 x 1024 fp32 matrix product
    copy: float  # 10^9 bytes a second, read and written, of a copy of 64 MiB


def clock(threads: int) -> float:
    return time.process_time() if threads == 1 else time.perf_counter()


def by_turns(jobs: dict[str, Callable[[], object]], turns: int, threads: int) -> dict[str, float]:
    """Median milliseconds of each job. They take turns, and the first of each is not counted."""
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(turns + 1):
        for name, job in jobs.items():
            start = clock(threads)
            job()
            if turn:
                took[name].append(1000 * (clock(threads) - start))
    return {name: statistics.median(ms) for name, ms in took.items()}


def measure_peaks(threads: int) -> Peaks:
    a = torch.rand(1024, 1024)
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    jobs = {"product": lambda: a @ a, "copy": lambda: np.copyto(target, source)}
    ms = by_turns(jobs, 15, threads)
    return Peaks(1024**3 / ms["product"] / 1e6, 2 * source.nbytes / ms["copy"] / 1e6)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or not on x86
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bf16": devices.has_fast_bf16(),
        "torch": torch.__version__.split("+")[0],
        "load": round(os.getloadavg()[0], 1),
    }


def rows_of(
    bench: str,
    timed: dict[tuple[str, str, str], float],
    threads: int,
    against: str,
    peaks: Peaks,
    gmac: dict[str, float] | None = None,
) -> list[Row]:
    """Rows of (name, engine, dtype) -> ms. `against` is the name that all are compared with; its fastest one counts.

    `gmac` gives the 10^9 multiply-adds of a name, from which the share of the peak follows.
    """
    base = min((ms for (name, _, _), ms in timed.items() if name == against), default=None)
    rows = []
    for (name, engine, dtype), ms in timed.items():
        share = None
        if gmac and name in gmac:
            share = gmac[name] / ms * 1000 / peaks.gmac
        rows.append(Row(bench, name, engine, dtype, threads, ms, share, base / ms if base else None, against))
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| | engine | dtype | threads | ms | of the peak | times as fast as |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        share = "" if row.peak_share is None else f"{row.peak_share:.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} {row.against}"
        lines.append(f"| {row.name} | {row.engine} | {row.dtype} | {row.threads} | {row.ms:.1f} | {share} | {ratio} |")
    return "\n".join(lines)


def write(path: Path, rows: list[Row], peaks: Peaks) -> None:
    """bench.json: the machine with its peaks, and the rows."""
    about = machine() | {"gmac_per_s": round(peaks.gmac, 1), "copy_gb_per_s": round(peaks.copy, 1)}
    made = []
    for row in rows:
        made.append({key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(row).items()})
    files.write_bytes(path, (json.dumps({"machine": about, "rows": made}, indent=1) + "\n").encode())


def options(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="default: 1, timed by the processor's clock")
    parser.add_argument("--turns", type=int, default=5, help="counted turns of each job (default: 5)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def run(args: argparse.Namespace, bench: Callable[[argparse.Namespace, Peaks], list[Row]]) -> list[Row]:
    """One benchmark as a command: its table on standard output, and its rows in `--json`."""
    torch.set_num_threads(args.threads)
    peaks = measure_peaks(args.threads)
    rows = bench(args, peaks)
    print(machine(), f"peaks with {args.threads} threads: {peaks.gmac:.1f} GMAC/s, copy {peaks.copy:.1f} GB/s")
    print(table(rows), flush=True)
    if args.json:
        write(args.json, rows, peaks)
    return rows
