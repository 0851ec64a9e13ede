"""Whether two work folders hold the same results: the check after a change that should change nothing.

    python -m benchmarks.same_results BEFORE AFTER

Crops and labels are compared byte by byte, students tensor by tensor, and metrics.json value by value without its
timings. A setting that only AFTER knows is passed over where it is at its default. Exit code 1 where something differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from kd_utils.common import files
from kd_utils.config import Config
from kd_utils.overrides import flatten

TIMED = ("ms_per_megapixel", "timing", "versions")
OLD_NAMES = {"student_no_teacher": "baseline"}  # rows of metrics.json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()

    differ = []
    for folder in ("crops", "labels"):
        differ += different_files(args.before / folder, args.after / folder)
    for name in ("student_model.pth", "train/no_teacher/student_model.pth"):
        differ += different_tensors(args.before / name, args.after / name)
    before, after = (flat(files.read_json(folder / "eval" / "metrics.json")) for folder in (args.before, args.after))
    differ += different_values(before, after)

    for line in differ:
        print(line)
    print(f"{len(differ)} differences between {args.before} and {args.after}")
    return 1 if differ else 0


def different_files(before: Path, after: Path) -> list[str]:
    names = {p.name for folder in (before, after) for p in folder.iterdir() if p.name != "index.json"}
    return [f"{after / name}: bytes differ" for name in sorted(names) if not same_bytes(before / name, after / name)]


def same_bytes(a: Path, b: Path) -> bool:
    return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


def different_tensors(before: Path, after: Path) -> list[str]:
    a, b = (torch.load(path, weights_only=True)["params"] for path in (before, after))
    if a.keys() != b.keys():
        return [f"{after}: names of tensors differ"]
    return [f"{after}: {name} differs" for name in a if not torch.equal(a[name], b[name])]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """A nested JSON value as one dict of paths, under today's names and without timings."""
    if isinstance(value, dict):
        inner = {OLD_NAMES.get(name, name): v for name, v in value.items() if name not in TIMED}
    elif isinstance(value, list):
        inner = {str(n): v for n, v in enumerate(value)}
    else:
        return {key: value}
    return {path: v for name, part in inner.items() for path, v in flat(part, f"{key}/{name}").items()}


def different_values(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    defaults = flatten(Config())
    out = []
    for path in sorted(before.keys() | after.keys()):
        name = path.rsplit("/", 1)[-1]
        is_new = path not in before and after[path] == defaults.get(name, object())
        if before.get(path) != after.get(path) and not is_new:
            out.append(f"metrics.json {path}: {before.get(path)!r}, now {after.get(path)!r}")
    return out


if __name__ == "__main__":
    sys.exit(main())
