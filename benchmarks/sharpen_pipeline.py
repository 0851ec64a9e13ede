"""How much of `sharpen`'s time is the network's: python -m benchmarks.sharpen_pipeline PHOTOS [--old WORKTREE]

The same photos go in turns through the network alone, through `sharpen` to each kind of file, and through the `sharpen`
of an older commit, if --old names a worktree of one (git worktree add PATH COMMIT). Each turn is a process of its own;
its seconds count from the loaded model on. The network alone runs over the tiles that `sharpen` makes of the photos. On
a machine that others use as well, the processor's seconds tell more than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Runs in the tree that is measured, so it uses only what both have. Arguments: task, photos, folder, suffix, threads.
CODE = """
import json, sys, time
from pathlib import Path
import torch
task, photos, folder, suffix, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
from kd_utils import sharpen
paths = sorted(p for p in Path(photos).iterdir() if p.is_file())

if task == "network":
    from kd_utils.imaging import reading
    from kd_utils.models import tiling
    tool = sharpen.load(device="cpu")
    network, seconds, cpu = tool.net, 0.0, 0.0
    def timed(x):
        global seconds, cpu
        start, used = time.perf_counter(), time.process_time()
        y = network(x)
        seconds += time.perf_counter() - start
        cpu += time.process_time() - used
        return y
    tool.net = timed
    for path in paths:
        tiling.to_canvas(tool.step(), tool.reach, reading.read(path).pixels)
else:
    sharpen.load(device="cpu")  # what the first load imports is no part of the work
    used = time.process_time()
    done = sharpen.sharpen(paths, folder, device="cpu")
    assert len(done.written) == len(paths), done
    seconds, cpu = done.seconds, time.process_time() - used
print(json.dumps({"seconds": seconds, "cpu": cpu}))
"""


def turn(tree: Path, task: str, photos: Path, suffix: str, threads: int) -> dict[str, float]:
    """Seconds of one turn, and the processor's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE, task, str(photos), folder, suffix, str(threads)]
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
        ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def copies(photos: list[Path], suffix: str, folder: Path) -> Path:
    """The photos as files of one kind, in a folder of their own."""
    from PIL import Image

    folder.mkdir()
    for path in photos:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}{suffix}", quality=92)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--old", type=Path, help="a worktree of an older commit, to be measured in the same turns")
    parser.add_argument("--count", type=int, default=4, help="photos, the first ones by name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suffixes", nargs="+", default=[".png", ".jpg"])
    args = parser.parse_args()

    photos = sorted(p for p in args.photos.iterdir() if p.is_file())[: args.count]
    trees = {"new": ROOT} | ({"old": args.old.resolve()} if args.old else {})
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {suffix: copies(photos, suffix, Path(temporary, suffix[1:])) for suffix in args.suffixes}
        for _ in range(args.rounds):
            turns = [("network", ROOT, "network", args.suffixes[0])]
            for suffix in args.suffixes:
                turns += [(f"{name} {suffix}", tree, "sharpen", suffix) for name, tree in trees.items()]
            for row, tree, task, suffix in turns:
                took = turn(tree, task, folders[suffix], suffix, args.threads)
                print(row, took, file=sys.stderr, flush=True)
                if row not in best or took["seconds"] < best[row]["seconds"]:
                    best[row] = took

    network = best["network"]
    print("| | seconds | the network's share | processor seconds | the network's share |\n|---|---|---|---|---|")
    for row, took in best.items():
        shares = [network[key] / took[key] for key in ("seconds", "cpu")]
        print(f"| {row} | {took['seconds']:.1f} | {shares[0]:.0%} | {took['cpu']:.1f} | {shares[1]:.0%} |")


if __name__ == "__main__":
    main()
