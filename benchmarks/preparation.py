"""From PNG photos to crops and degraded inputs: milliseconds a megapixel, for 10, 40 and 160 photos.

    python -m benchmarks.preparation [--photos FOLDER] [--counts 10,40,160] [--div2k 2040x1356]

Without `--photos` the photos that scikit-image brings are enlarged to 1.5 megapixels, grained and written as PNG. The
last lines tell how the time grows with the number of photos, the memory that was used at most, and what DIV2K's 800
photos would take at the rate of the largest count.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from benchmarks import measure
from benchmarks.measure import Peaks, Row
from kd_utils import prepare
from kd_utils.config import make

WIDTH, HEIGHT = 1500, 1000
DIV2K = 800 * 2.8  # megapixels: 800 photos of 2040 x 1356 or so


def write_photos(folder: Path, count: int) -> None:
    """PNG photos that differ from each other: an enlarged photo with its own grain."""
    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for n in range(count):
        rng = np.random.default_rng(n)
        large = cv2.resize(sources[n % len(sources)], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        grain = rng.integers(-6, 7, large.shape)
        cv2.imwrite(str(folder / f"{n:04d}.png"), np.clip(large + grain, 0, 255).astype(np.uint8)[..., ::-1])


def prepare_once(photos: Path, work: Path, threads: int) -> float:
    """Milliseconds of step 1; one photo each is kept apart for validation and test."""
    more = f"data.photos={photos} data.valid_count=1 data.test_count=1 workers={threads}"
    start = measure.clock(threads)
    prepare.prepare(make("colab", more, workdir=str(work)))
    return 1000 * (measure.clock(threads) - start)


def bench(args: argparse.Namespace, peaks: Peaks) -> list[Row]:
    timed: dict[tuple[str, str, str], float] = {}
    counts = [int(n) for n in args.counts.split(",")]
    with tempfile.TemporaryDirectory() as name:
        photos, given = Path(name, "photos"), Path(name, "given")
        given.mkdir()
        if args.photos:
            for path in sorted(p for p in args.photos.iterdir() if p.is_file())[: max(counts)]:
                shutil.copy(path, given)
        else:
            write_photos(given, max(counts))

        for count in counts:
            photos.mkdir()
            some = sorted(given.iterdir())[:count]
            for path in some:
                (photos / path.name).symlink_to(path)
            megapixels = sum(np.prod(cv2.imread(str(path)).shape[:2]) for path in some) / 1e6
            ms = prepare_once(photos, Path(name, f"work-{count}"), args.threads)
            timed[f"{len(some)} photos, a megapixel of them", "prepare", "uint8"] = ms / megapixels
            shutil.rmtree(photos)

    # a megapixel of a photo is 3 million bytes, which a copy reads and writes
    rows = measure.rows_of("preparation", timed, args.threads, next(iter(timed))[0], peaks)
    for row in rows:
        row.peak_share = 2 * 3e6 / (row.ms / 1000) / (peaks.copy * 1e9)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit} MiB")
    print(f"DIV2K's 800 photos at the last rate: {rows[-1].ms * DIV2K / 60000:.0f} minutes with {args.threads} threads")
    return rows


def parser() -> argparse.ArgumentParser:
    parser = measure.options(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of photos (default: made of scikit-image's)")
    parser.add_argument("--counts", default="10,40,160", help="numbers of photos (default: 10,40,160)")
    return parser


if __name__ == "__main__":
    measure.run(parser().parse_args(), bench)
