"""How much of `sharpen`'s time is the network's: python -m benchmarks.sharpen_pipeline PHOTOS [--old WORKTREE]

The same photos go in turns through the network alone, one photo at a time on all threads, through `sharpen` to each
kind of file, and through the `sharpen` of an older commit, if --old names a worktree of one (git worktree add PATH
COMMIT). With --frames 40 the photos are 40 frames of 480x270, cut from the first photo, each a little further on, as
of a film. Each turn is a process of its own; its seconds count from the loaded model on. The network alone runs over
the tiles that `sharpen` makes of the photos. On a machine that others use as well, the processor's seconds tell more
than the clock's.
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

# Runs in the tree that is measured, so it uses only what both have.
# Arguments: task, photos, folder, suffix, threads, model.
CODE = """
import json, sys, time
from pathlib import Path
import torch
task, photos, folder, suffix, threads, model = sys.argv[1:]
torch.set_num_threads(int(threads))
from kd_utils import sharpen
paths = sorted(p for p in Path(photos).iterdir() if p.is_file())

if task == "network":
    from kd_utils.imaging import reading
    from kd_utils.models import tiling
    tool = sharpen.load(model, device="cpu")
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
    sharpen.load(model, device="cpu")  # what the first load imports is no part of the work
    used = time.process_time()
    done = sharpen.sharpen(paths, folder, model=model, device="cpu")
    assert len(done.written) == len(paths), done
    seconds, cpu = done.seconds, time.process_time() - used
print(json.dumps({"seconds": seconds, "cpu": cpu}))
"""


def turn(tree: Path, task: str, photos: Path, suffix: str, threads: int, model: str) -> dict[str, float]:
    """Seconds of one turn, and the processor's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CODE, task, str(photos), folder, suffix, str(threads), model]
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


def frames(photo: Path, count: int, suffix: str, folder: Path) -> Path:
    """Pictures of 480x270 of a photo, each 2 pixels right of and 1 below the one before, in a folder of their own."""
    from PIL import Image

    folder.mkdir()
    image = Image.open(photo).convert("RGB")
    width, height = image.width - 480, image.height - 270
    for n in range(count):
        left, top = 2 * n % max(width, 1), n % max(height, 1)
        image.crop((left, top, left + 480, top + 270)).save(folder / f"{n:04}{suffix}", quality=92)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--old", type=Path, help="a worktree of an older commit, to be measured in the same turns")
    parser.add_argument("--count", type=int, default=4, help="photos, the first ones by name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=0, help="this many frames of the first photo instead")
    parser.add_argument("--model", default="m", help="as of sharpen (default: m, which is photo-m)")
    parser.add_argument("--suffixes", nargs="+", default=[".png", ".jpg"])
    args = parser.parse_args()

    photos = sorted(p for p in args.photos.iterdir() if p.is_file())[: args.count]
    trees = {"new": ROOT} | ({"old": args.old.resolve()} if args.old else {})
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {}
        for suffix in args.suffixes:
            folder = Path(temporary, suffix[1:])
            if args.frames:
                folders[suffix] = frames(photos[0], args.frames, suffix, folder)
            else:
                folders[suffix] = copies(photos, suffix, folder)
        count = args.frames or len(photos)
        for _ in range(args.rounds):
            turns = [("network", ROOT, "network", args.suffixes[0])]
            for suffix in args.suffixes:
                turns += [(f"{name} {suffix}", tree, "sharpen", suffix) for name, tree in trees.items()]
            for row, tree, task, suffix in turns:
                took = turn(tree, task, folders[suffix], suffix, args.threads, args.model)
                print(row, took, file=sys.stderr, flush=True)
                if row not in best or took["seconds"] < best[row]["seconds"]:
                    best[row] = took

    network = best["network"]
    print("| | seconds | the network's share | processor seconds | the network's share | photos a second |")
    print("|---|---|---|---|---|---|")
    for row, took in best.items():
        shares = [network[key] / took[key] for key in ("seconds", "cpu")]
        times = f"{took['seconds']:.1f} | {shares[0]:.0%} | {took['cpu']:.1f} | {shares[1]:.0%}"
        print(f"| {row} | {times} | {count / took['seconds']:.2f} |")


if __name__ == "__main__":
    main()
