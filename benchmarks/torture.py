"""Try to lose or spoil work: kills, damaged files, two runs at once, a lost Drive, a full disk, mutated inputs.

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
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from kd_utils import label, prepare, train
from kd_utils.common import files
from kd_utils.common.errors import KDError
from kd_utils.config import make
from kd_utils.data import photos
from kd_utils.data.crops import CropIndex
from kd_utils.imaging import reading
from kd_utils.models import student
from kd_utils.training import checkpoints

STEPS = {"prepare": prepare.prepare, "label": label.label, "train": train.train}
SETS = (
    "teacher=student_x4_s student.size=8x2 data.crop=32 data.crops_per_photo=4 data.valid_crops_per_photo=2 "
    "data.test_side=64 loss.margin=1 loss.perceptual=0 train.init= train.steps=12 train.batch=4 train.warmup=2 "
    "train.valid_every=6 train.save_every=2 train.lr=1e-3 train.baseline=no device=cpu workers=1"
)
REFUSED, FOREIGN = 1, 70  # exit codes of a step that ended in an error of ours, or in another one


@dataclass
class Row:
    """One kind of fault: how often it was tried, and what must stay 0."""

    kind: str
    tried: int = 0
    lost: int = 0  # work that was done and is not there
    silent: int = 0  # a result that differs, without a word
    foreign: int = 0  # an error that is not ours
    litter: int = 0  # temporary files that stay

    @property
    def ok(self) -> bool:
        return not (self.lost or self.silent or self.foreign or self.litter)


# ---- steps in processes of their own


def start(step: str, sets: str, work: Path, log: Path, deadly_write: int = 0) -> int:
    """Begin a step in a forked process; returns its pid. It kills itself at its `deadly_write`-th write, if any."""
    pid = os.fork()
    if pid:
        return pid

    code = 0
    try:
        with open(log, "a") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)
        if deadly_write:
            _die_at_write(deadly_write)
        STEPS[step](make("quick", f"{SETS} {sets}", workdir=str(work)))
    except KDError as e:
        print(f"error: {e}")
        code = REFUSED
    except BaseException:
        traceback.print_exc()
        code = FOREIGN
    finally:
        sys.stdout.flush()
        os._exit(code)


def _die_at_write(n: int) -> None:
    """Kill this process when it renames its n-th file: before (odd n) or after it."""
    rename, done = os.replace, 0

    def replace(a, b):
        nonlocal done
        done += 1
        if done == (n + 1) // 2 and n % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(a, b)
        if done == (n + 1) // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def end(pid: int) -> int:
    """The exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(step: str, sets: str, work: Path, log: Path) -> int:
    return end(start(step, sets, work, log))


class Bench:
    """The undisturbed run, and work folders that begin as it ended."""

    def __init__(self, folder: Path, rng: random.Random):
        self.folder, self.rng, self.log = folder, rng, folder / "log.txt"
        self.whole = folder / "whole"
        self.seconds = {}
        for step in STEPS:
            began = time.monotonic()
            if code := run(step, "", self.whole, self.log):
                raise SystemExit(f"the undisturbed {step} ended with {code}: {self.log.read_text()[-2000:]}")
            self.seconds[step] = time.monotonic() - began

    def fresh(self, *parts: str) -> Path:
        """A new work folder with some parts of the undisturbed one."""
        work = Path(tempfile.mkdtemp(dir=self.folder))
        for part in parts:
            source = self.whole / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, work / part)
        return work

    def equal(self, step: str, work: Path) -> bool:
        """Whether a step's results are those of the undisturbed run, byte for byte."""
        kinds = {"prepare": "crops/*.*", "label": "labels/*.*", "train": "train/student/step-*.pt"}
        names = [p.relative_to(self.whole) for p in self.whole.glob(kinds[step]) if not p.name.startswith(".")]
        if step == "train":
            names.append(Path("student_model.pth"))
        return all((work / n).is_file() and (work / n).read_bytes() == (self.whole / n).read_bytes() for n in names)

    def said(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""


BEFORE = {"prepare": [], "label": ["crops"], "train": ["crops", "labels"]}


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
    }
    for _ in range(rounds):
        for name, reader in read_by.items():
            for place in (0.0, 0.5, 0.99):
                parts = ["crops", "train"] if reader == "label" else ["crops", "labels", "train"]
                work = bench.fresh(*parts)
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
    """The same folder, other settings, at once: one ends whole, the other is refused."""
    row = Row("two runs at once")
    for n in range(rounds):
        step, key, values = ("prepare", "seed", (0, 1)) if n % 2 == 0 else ("train", "train.lr", ("1e-3", "2e-3"))
        work = bench.fresh(*BEFORE[step])
        pids = [start(step, f"{key}={value}", work, bench.log) for value in values]
        codes = [end(pid) for pid in pids]
        row.tried += 1
        row.foreign += FOREIGN in codes
        row.silent += codes.count(0) != 1
        if codes.count(0) == 1:
            won = codes.index(0)
            row.lost += run(step, f"{key}={values[won]}", work, bench.log) != 0
            row.lost += won == 0 and not bench.equal(step, work)
        shutil.rmtree(work)
    return row


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


def with_mount(folder: Path, size: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


def fuzz(bench: Bench, count: int) -> Row:
    """Mutated shards, indexes, students, zips and pictures: read as they were, or refused by an error of ours."""
    row = Row("mutated inputs")
    picture = next((Path(photos.__file__).parents[2] / "assets").rglob("*.png"), None)
    seeds: list[tuple[Path, Callable[[Path], object]]] = [
        (bench.whole / "crops" / "valid-00000.safetensors", _shard_bytes),
        (bench.whole / "crops" / "index.json", CropIndex.read),
        (bench.whole / "student_model.pth", _weights),
        (_small_zip(bench.folder / "photos.zip"), _zip_bytes),
    ]
    if picture and picture.stat().st_size < 300_000:
        seeds.append((picture, lambda path: reading.read(path) and None))

    wholes = [(path, path.read_bytes(), read, read(path)) for path, read in seeds]
    for n in range(count):
        path, whole, read, want = wholes[n % len(wholes)]
        target = bench.folder / f"mutated{path.suffix}"
        target.write_bytes(_mutate(whole, bench.rng))
        row.tried += 1
        try:
            if read(target) != want:
                row.silent += 1
                shutil.copy(target, bench.folder / f"silent-{n}{path.suffix}")
        except KDError:
            pass
        except Exception:
            row.foreign += 1
            with open(bench.log, "a") as log:
                traceback.print_exc(file=log)
            shutil.copy(target, bench.folder / f"foreign-{n}{path.suffix}")
    return row


def _mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(len(out), rng.choice((64, 2000, len(out)))))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            del out[at : at + rng.randrange(1, 40)]
        out = out or bytearray(b"\0")
    return bytes(out)


def _shard_bytes(path: Path) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in files.load_arrays(path, verify=True)[0].items()}


def _weights(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in student.load(path).state_dict().items()}


def _zip_bytes(path: Path) -> list[bytes] | None:
    for photo in photos.find_photos(str(path)):
        photo.bytes()
    return None


def _small_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for n, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)):
            z.writestr(f"{n}.png", os.urandom(300) * 3, method)
    return path


# ---- all of it


def torture(kill_count: int, rounds: int, inputs: int, seed: int) -> list[Row]:
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
    rows.append(fuzz(bench, inputs))
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
    args = parser.parse_args()
    began = time.monotonic()
    rows = torture(args.kills, args.rounds, args.inputs, args.seed)
    print(table(rows) + f"seed {args.seed}, {time.monotonic() - began:.0f} seconds")
    return int(not all(row.ok for row in rows))


if __name__ == "__main__":
    sys.exit(main())
