"""Try to lose or spoil work: kills, damaged files, two runs at once, a lost Drive, full disks, bad inputs and servers.

    make torture ARGS="--kills 20 --inputs 20000 --seed 1"

Each fault is followed by the same step once more, and what it leaves is compared with an undisturbed run, byte for
byte. Steps run in forked processes. Faults of real mounts need root, and are left out loudly without it.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks.torture_bench import BEFORE, FOREIGN, REFUSED, SETS, STEPS, Bench, end, run, start
from benchmarks.torture_inputs import Row, evil_pickles, fuzz, server_faults
from kd_utils.models import student
from kd_utils.own_files import ROOT
from kd_utils.training import checkpoints

# ---- faults


def kills(bench: Bench, count: int) -> Row:
    """SIGKILL at any moment and at the moments of writes, then the same step again."""
    row = Row("SIGKILL")
    for n in range(count):
        step = list(STEPS)[n % len(STEPS)]
        work = bench.fresh(*BEFORE[step])
        if n // len(STEPS) % 2:
            end(start(step, "", work, bench.log, deadly_write=bench.rng.randint(1, 12)))
        else:
            pid = start(step, "", work, bench.log)
            time.sleep(bench.rng.uniform(0, bench.seconds[step]))
            os.kill(pid, signal.SIGKILL)
            end(pid)

        row.tried += 1
        code = run(step, "", work, bench.log)
        row.foreign += code == FOREIGN
        row.lost += not bench.equal(step, work)
        row.litter += len(list(work.rglob(".*.part")))
        shutil.rmtree(work)
    return row


def damage(bench: Bench, rounds: int) -> Row:
    """Bytes zeroed at the head, the middle and the end of each kind of file; then the steps that read and make it."""
    row = Row("damaged files")
    newest = checkpoints.found(bench.whole / "train" / "student")[0].relative_to(bench.whole)
    read_by = {
        "crops/train-00000.safetensors": "label",
        "crops/valid-00000.safetensors": "train",
        "crops/index.json": "train",
        "labels/train-00000.safetensors": "train",
        "labels/index.json": "train",
        str(newest): "train",
        "student_model.pth": "sharpen",
    }
    for _ in range(rounds):
        for name, reader in read_by.items():
            for place in (0.0, 0.5, 0.99):
                parts = [*BEFORE[reader], "train"] if reader in ("label", "train") else BEFORE[reader]
                work = bench.fresh(*parts)
                if name == str(newest):  # else the student that is finished is taken
                    (work / "train" / "student" / "student_model.pth").unlink()
                _zero(work / name, place, bench.rng)
                code = run(reader, "", work, bench.log)
                row.tried += 1
                row.foreign += code == FOREIGN
                row.silent += code == 0 and not bench.equal(reader, work)
                if name.endswith(".safetensors"):  # the step that makes it heals it
                    maker = "prepare" if name.startswith("crops") else "label"
                    code = run(maker, "", work, bench.log)
                    row.lost += code != 0 or not bench.equal(maker, work)
                shutil.rmtree(work)
    return row


def _zero(path: Path, place: float, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    before = bytes(data)
    for i in range(at, min(len(data), at + 5000)):
        data[i] = 0
    if bytes(data) == before:
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def two_runs(bench: Bench, rounds: int) -> Row:
    """The same folder, other settings, at once: of prepare one ends whole and the other is refused; a training ends
    whole in a folder of its own, or is refused.
    """
    row = Row("two runs at once")
    for n in range(rounds):
        step, key, values = ("prepare", "seed", (0, 1)) if n % 2 == 0 else ("train", "train.lr", ("1e-3", "2e-3"))
        work = bench.fresh(*BEFORE[step])
        pids = [start(step, f"{key}={value}", work, bench.log) for value in values]
        codes = [end(pid) for pid in pids]
        row.tried += 1
        row.foreign += FOREIGN in codes
        row.silent += codes.count(0) == 0 or (step == "prepare" and codes.count(0) == 2)
        won = [value for value, code in zip(values, codes) if code == 0]
        for value in won:
            row.lost += run(step, f"{key}={value}", work, bench.log) != 0
        if step == "prepare":
            row.lost += won == [0] and not bench.equal(step, work)
        else:
            row.lost += not _has_students(work, won)
            row.lost += "1e-3" in won and not _has_student_of(bench.whole / "student_model.pth", work)
        shutil.rmtree(work)
    return row


def _has_students(work: Path, rates: list) -> bool:
    """Whether the trainings of these learning rates, and no others, have a whole student each."""
    students = [student.load(path) for path in work.glob("train/*/student_model.pth")]
    return sorted(net.meta["provenance"]["train.lr"] for net in students) == sorted(map(float, rates))


def _has_student_of(path: Path, work: Path) -> bool:
    """Whether a training has exactly the student `path`."""
    return any(own.read_bytes() == path.read_bytes() for own in work.glob("train/*/student_model.pth"))


def lost_drive(bench: Bench) -> Row:
    """Drive is unmounted while the student trains."""
    row = Row("Drive unmounted")
    work, drive = bench.fresh("crops", "labels"), bench.folder / "drive"
    with_mount(drive, "20m")
    pid = start("train", f"drive={drive}", work, bench.folder / "drive.log")
    deadline = time.monotonic() + 120
    while not checkpoints.found(drive / "train" / "student") and time.monotonic() < deadline:
        time.sleep(0.005)
    subprocess.run(["umount", "-l", drive], check=True)
    code = end(pid)
    said = (bench.folder / "drive.log").read_text()
    row.tried += 1
    row.foreign += code == FOREIGN
    row.lost += not bench.equal("train", work)
    row.silent += "ONLY HERE" not in said
    row.litter += len([p for p in drive.rglob("*") if p.is_file()])
    return row


def full_disk(bench: Bench) -> Row:
    """The disk of the work folder is full, then it is not."""
    row = Row("full disk")
    work = bench.folder / "small"
    for step in ("prepare", "label", "train"):
        with_mount(work, "20m")
        for part in BEFORE[step]:
            shutil.copytree(bench.whole / part, work / part)
        used = sum(p.stat().st_size for p in work.rglob("*") if p.is_file())
        subprocess.run(["mount", "-o", f"remount,size={used + (40 << 10) + (used >> 4)}", work], check=True)
        code = run(step, "", work, bench.log)
        row.tried += 1
        row.foreign += code not in (0, REFUSED)
        subprocess.run(["mount", "-o", "remount,size=40m", work], check=True)
        row.lost += run(step, "", work, bench.log) != 0 or not bench.equal(step, work)
        row.litter += len(list(work.rglob(".*.part")))
        subprocess.run(["umount", "-l", work], check=True)
    return row


def full_disk_run(bench: Bench) -> Row:
    """The disk is full while `run` executes a notebook: one error of ours, and with room the run ends."""
    row = Row("full disk of run", 1)
    work = bench.folder / "small"
    with_mount(work, "60m")
    for part in BEFORE["train"]:
        shutil.copytree(bench.whole / part, work / part)
    used = sum(p.stat().st_size for p in work.rglob("*") if p.is_file())
    subprocess.run(["mount", "-o", f"remount,size={used + (64 << 10)}", work], check=True)
    command = [sys.executable, "-m", "kd_utils", "run", "--preset", "quick", "--only", "03", "--workdir", work, "--set"]
    command += SETS.split()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    row.foreign += done.returncode != 1 or "Traceback" in done.stderr or done.stderr.count("error:") != 1
    with open(bench.log, "a") as log:
        log.write(done.stderr)

    subprocess.run(["mount", "-o", "remount,size=60m", work], check=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    row.lost += done.returncode != 0 or not bench.equal("train", work)
    row.litter += len(list(work.rglob(".*.part")))
    subprocess.run(["umount", "-l", work], check=True)
    return row


def with_mount(folder: Path, size: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


# ---- all of it


def torture(kill_count: int, rounds: int, inputs: int, seed: int, notebooks: bool = True) -> list[Row]:
    """All faults, in a folder that is removed where everything held."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    bench = Bench(folder, rng)
    again = Bench(Path(tempfile.mkdtemp(dir=folder)), rng)
    rows = [Row("undisturbed, twice", 1, silent=sum(not bench.equal(step, again.whole) for step in STEPS))]
    rows += [kills(bench, kill_count), damage(bench, rounds), two_runs(bench, 2 * rounds)]
    if can_mount():
        rows += [lost_drive(bench), full_disk(bench)]
    else:
        print("LEFT OUT: a Drive that is unmounted and a full disk need root, to mount a small disk")
    if can_mount() and notebooks:
        rows.append(full_disk_run(bench))
    else:
        print("LEFT OUT: `run` on a full disk (it needs root, and not --no-notebooks)")
    rows.append(fuzz(bench.whole, folder, bench.log, inputs, rng))
    rows += [evil_pickles(folder, bench.log, rng), server_faults(folder, bench.log, max(20, inputs // 100), rng)]
    if all(row.ok for row in rows):
        shutil.rmtree(folder)
    else:
        print(f"what happened is in {folder}/log.txt")
    return rows


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


def table(rows: list[Row]) -> str:
    names = [field.name for field in fields(Row)]
    out = io.StringIO()
    print(f"{names[0]:20}" + "".join(f"{name:>9}" for name in names[1:]), file=out)
    for row in rows:
        print(f"{row.kind:20}" + "".join(f"{getattr(row, name):9,}" for name in names[1:]), file=out)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1, help="of damage to each kind of file, and of two runs")
    parser.add_argument("--inputs", type=int, default=2000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-notebooks", action="store_true", help="leave `run` on a full disk out")
    args = parser.parse_args()
    began = time.monotonic()
    rows = torture(args.kills, args.rounds, args.inputs, args.seed, not args.no_notebooks)
    print(table(rows) + f"seed {args.seed}, {time.monotonic() - began:.0f} seconds")
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main())
