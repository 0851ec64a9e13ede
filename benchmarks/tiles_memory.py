"""Peak memory and time of `python -m kd_utils sharpen` by output size: python benchmarks/tiles_memory.py [--model PATH]

Each size is a process of its own (imports, network, canvas, encoder: all of it), on the CPU; its peak resident memory
is what the kernel says of it when it ends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def photo(megapixels: float) -> np.ndarray:
    """A square photo of that size: a bundled one, enlarged twofold and mirrored over and over."""
    small = Image.fromarray(skimage.data.astronaut()).resize((1024, 1024), Image.Resampling.BICUBIC)
    side = round((megapixels * 1e6) ** 0.5 / 4) * 4
    at = np.abs((np.arange(side) + 1024) % 2048 - 1024).clip(0, 1023)
    return np.asarray(small)[at][:, at]


def measure(source: Path, target: Path, options: list[str]) -> tuple[float, float]:
    """Peak resident memory in MiB and seconds, of one process from start to end."""
    start = time.monotonic()
    command = [sys.executable, "-m", "kd_utils", "sharpen", str(source), str(target), "--device", "cpu", *options]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed: run it by hand")
    return usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[0.1, 1, 4, 16, 64, 100], metavar="MP", help="of the output"
    )
    parser.add_argument("--suffix", default=".jpg", help="kind of the files")
    parser.add_argument("--scale", type=int, default=4)
    args, options = parser.parse_known_args()  # the rest goes to sharpen
    print("| output MP | peak RSS, MiB | above the first | seconds | s/MP |\n|---|---|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            source, target = Path(folder, f"in{args.suffix}"), Path(folder, f"out{args.suffix}")
            Image.fromarray(photo(size / args.scale**2)).save(
                source, **({"quality": 95} if args.suffix == ".jpg" else {})
            )
            peak, seconds = measure(source, target, ["--overwrite", "--scale", str(args.scale), *options])
            first = peak if first is None else first
            print(f"| {size:g} | {peak:.0f} | {peak - first:.0f} | {seconds:.1f} | {seconds / size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
