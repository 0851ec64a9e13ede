"""All benchmarks of speed, one after the other, into bench.json: python -m benchmarks.bench [--quick] (make bench)

Under 10 minutes on a free CPU of two cores. `--quick` takes smaller pictures and fewer turns, for a look.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import labelling, measure, preparation, scale_out, training_step, training_terms, upscaling

QUICK = {
    upscaling: ["--input", "120x68", "--turns", "2"],
    labelling: ["--turns", "2"],
    training_step: ["--turns", "2", "--sizes", "s"],
    training_terms: ["--steps", "10"],
    preparation: ["--counts", "10,20"],
    scale_out: [],  # fewer crops are too few shards to share
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1", help="default: 1, timed by the processor's clock")
    parser.add_argument("--quick", action="store_true", help="smaller pictures, fewer turns")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="default: bench.json")
    args = parser.parse_args()

    rows = []
    for bench, quick in QUICK.items():
        print(f"\n## {bench.__name__.rsplit('.')[-1]}\n", flush=True)
        words = ["--threads", args.threads, *(quick if args.quick else [])]
        made_of = getattr(bench, "parser", lambda: measure.options(""))()
        rows += measure.run(made_of.parse_args(words), bench.bench)
    measure.write(args.out, rows, measure.measure_peaks(torch.get_num_threads()))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
