"""Steps in processes of their own, and the undisturbed run that torture compares with."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

from kd_utils import label, prepare, sharpen, train
from kd_utils.common import files
from kd_utils.common.errors import KDError, SharpenError
from kd_utils.config import Config, make


def sharpen_photos(cfg: Config) -> None:
    """Step 5 on the photos of the bench. Raises SharpenError where one fails."""
    options = {"model": cfg.path("student_model.pth"), "device": "cpu", "quiet": True}
    done = sharpen.sharpen(cfg.path("photos"), cfg.path("sharpened"), **options)
    if done.failed:
        raise SharpenError(str(done.failed))


STEPS = {"prepare": prepare.prepare, "label": label.label, "train": train.train, "sharpen": sharpen_photos}
SETS = (
    "teacher=student_x4_photo_s student.size=8x2 data.crop=32 data.crops_per_photo=4 data.valid_crops_per_photo=2 "
    "data.test_side=64 loss.margin=1 loss.perceptual=0 train.init= train.steps=12 train.batch=4 train.warmup=2 "
    "train.valid_every=6 train.save_every=2 train.lr=1e-3 train.baseline=no device=cpu workers=1"
)
REFUSED, FOREIGN = 1, 70  # exit codes of a step that ended in an error of ours, or in another one


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
        (self.whole / "photos").mkdir(parents=True)
        for n in range(4):
            image = np.random.default_rng(n).integers(0, 256, (24, 32, 3), np.uint8)
            files.write_png(self.whole / "photos" / f"{n}.png", Image.fromarray(image))
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
        kinds["sharpen"] = "sharpened/*.png"
        names = [p.relative_to(self.whole) for p in self.whole.glob(kinds[step]) if not p.name.startswith(".")]
        if step == "train":
            names.append(Path("student_model.pth"))
        return all((work / n).is_file() and (work / n).read_bytes() == (self.whole / n).read_bytes() for n in names)

    def said(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""


BEFORE = {
    "prepare": [],
    "label": ["crops"],
    "train": ["crops", "labels"],
    "sharpen": ["photos", "student_model.pth"],
}
