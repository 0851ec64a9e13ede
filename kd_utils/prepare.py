"""Step 1: photos into HR crops and degraded LR crops.

Where a crop lies and how it is degraded depend on the seed, the photo and the settings of `data`, and on nothing else.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from kd_utils import provenance
from kd_utils.common import devices, files, locks
from kd_utils.common.errors import DataError, ImageError, StoreError
from kd_utils.config import Config, DataConfig
from kd_utils.data.crops import CropIndex, PhotoPair, Shard
from kd_utils.data.degradations import degrade
from kd_utils.data.photos import PhotoFile, split_photos
from kd_utils.imaging.colors import luma
from kd_utils.workdir import Workdir

CONTEXT = 32  # HR pixels degraded around a crop and cut away again, so that blurs see the photo and not a border
DRAWS = 4  # positions tried for each crop wanted
SHARD = 256  # crops in a shard, about

Arrays = dict[str, np.ndarray]


@dataclass
class Prepared:
    """What step 1 returns."""

    folder: Path
    photos: dict[str, int]  # in each split
    crops: dict[str, int]  # in each split; for the test it counts photos
    left_out: int  # positions that were drawn and refused as flat or dark
    made: int  # shards made by this call; the rest was there


@dataclass
class Job:
    """A file of the crops folder that is to be there: crops of some photos, or one test photo."""

    file: str
    split: str
    photos: list[PhotoFile]


def prepare(cfg: Config) -> Prepared:
    """Step 1: shards of crops in ``crops/``, and one file for each test photo; it resumes after a kill.

    Under torchrun each process makes every world-th shard, and whoever finds all of them made writes ``index.json``.
    Raises DataError, ImageError, SourceError, StoreError when the folder holds crops of other settings, and BusyError
    while another process makes such crops there.
    """
    work = Workdir.of(cfg)
    splits = split_photos(cfg)

    # the provenance of these crops, and the refusal of others that lie here already
    photos = {split: {p.name: p.sha256 for p in members} for split, members in sorted(splits.items())}
    want = provenance.crops_provenance(cfg, photos)
    key = files.digest(want)
    with locks.hold(work.crops, key):
        files.sweep(work.crops)
        before = CropIndex.read(work.crop_index) if work.crop_index.is_file() else None
        if before:
            provenance.require_same(work.crops, before.provenance, want)
        return _prepare(cfg, work, splits, want, key, before)


def _prepare(
    cfg: Config,
    work: Workdir,
    splits: dict[str, list[PhotoFile]],
    want: provenance.Provenance,
    key: str,
    before: CropIndex | None,
) -> Prepared:
    """Make what is missing in the crops folder, while it is held; `before` is its index, where there is one."""
    made_with = before.versions if before else provenance.versions()

    # what is to be made, and what of it is there
    jobs = list_jobs(cfg, splits)
    rank, world = devices.process_rank(), devices.process_count()
    missing = _missing(work, key, jobs, quiet=rank > 0)
    mine = {job.file for job in jobs[rank::world]}
    todo = [job for job in missing if job.file in mine]
    if todo:
        _require_same_reader(work, made_with, todo[0].file)
    _make_shards(cfg, work, key, todo)

    # other processes may have made theirs meanwhile; the last one to end finds all of them
    counts = {split: len(members) for split, members in splits.items()}
    made = Prepared(work.crops, counts, {}, 0, len(todo))
    left = [job for job in missing if job.file not in mine]
    if not _missing(work, key, left, quiet=True):
        index = _write_index(cfg, work, key, want, jobs, made_with)
        made.crops = {"train": index.count("train"), "valid": index.count("valid"), "test": len(index.test)}
        made.left_out = sum(shard.refused for shard in index.shards)
    return made


def _require_same_reader(work: Workdir, made_with: dict[str, str], file: str) -> None:
    """Refuse to make a lost shard by other libraries than the rest: their pixels may differ."""
    here = provenance.versions()["reader"]
    there = made_with.get("reader", "Pillow and OpenCV")
    if there != here:
        raise StoreError(
            f"{work.crops / file} is missing or damaged, and the other crops were read by {there}, here it is {here}: "
            f"restore the file from a copy, or delete {work.crops} to make all of them anew"
        )


def _missing(work: Workdir, key: str, jobs: list[Job], quiet: bool) -> list[Job]:
    """Those of `jobs` whose files are not there, are damaged, or are of another provenance."""
    bar = tqdm(jobs, desc="checking crops", unit="shard", delay=3, leave=False, disable=quiet)
    return [job for job in bar if not files.is_made(work.crops / job.file, key=key)]


# ---- the files of the crops folder


def list_jobs(cfg: Config, splits: dict[str, list[PhotoFile]]) -> list[Job]:
    """All files that are to be made.

    The test photos come first: one that cannot be used ends the step, and should do so early.
    """
    jobs = []
    for n, photo in enumerate(splits["test"]):
        jobs.append(Job(f"test-{n:05d}.safetensors", "test", [photo]))
    for split in ("train", "valid"):
        photos = splits[split]
        together = max(1, math.ceil(SHARD / crops_per_photo(cfg, split)))
        for n, start in enumerate(range(0, len(photos), together)):
            jobs.append(Job(f"{split}-{n:05d}.safetensors", split, photos[start : start + together]))
    return jobs


def crops_per_photo(cfg: Config, split: str) -> int:
    return cfg.data.valid_crops_per_photo if split == "valid" else cfg.data.crops_per_photo


def _make_shards(cfg: Config, work: Workdir, key: str, jobs: list[Job]) -> None:
    """Make the files of `jobs`, several at a time; each is written as soon as it is made."""
    workers = cfg.workers or min(4, os.cpu_count() or 1)
    bar = tqdm(total=len(jobs), desc="crops", unit="shard", disable=devices.process_rank() > 0 or not jobs)

    def write(job: Job, made: Future) -> None:
        arrays, meta = made.result()
        files.save_arrays(work.crops / job.file, arrays, {"key": key} | meta)
        bar.update()

    # few shards are ahead of the one that is written, so that memory is bounded and an error ends the step soon
    ahead: deque[tuple[Job, Future]] = deque()
    with bar, _one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            for job in jobs:
                ahead.append((job, pool.submit(_make_shard, cfg, job)))
                if len(ahead) > 2 * workers:
                    write(*ahead.popleft())
            while ahead:
                write(*ahead.popleft())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _make_shard(cfg: Config, job: Job) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file and what its header says of them."""
    if job.split == "test":
        pair = degrade_photo(job.photos[0], cfg)
        return {"hr": pair.hr, "lr": pair.lr}, {"count": 1, "name": pair.name}

    hr, lr, names = [], [], []
    refused = 0
    for photo in job.photos:
        cut = cut_crops(photo, cfg, crops_per_photo(cfg, job.split))
        hr.append(cut.hr)
        lr.append(cut.lr)
        names.append(photo.name)
        refused += cut.refused
    arrays = {"hr": np.concatenate(hr), "lr": np.concatenate(lr)}
    return arrays, {"count": len(arrays["hr"]), "refused": refused, "photos": names}


def _write_index(
    cfg: Config, work: Workdir, key: str, want: provenance.Provenance, jobs: list[Job], made_with: dict[str, str]
) -> CropIndex:
    """Write the index of finished crops and delete what an earlier run of other settings left."""
    shards, test = [], []
    for job in jobs:
        arrays, meta = files.load_arrays(work.crops / job.file)
        if meta["key"] != key:
            raise StoreError(
                f"{work.crops / job.file} was made by another run with other settings, at the same time: give each run "
                "a --workdir of its own"
            )
        sha256 = files.sha256(arrays["lr"].tobytes())
        names = tuple(p.name for p in job.photos)
        shard = Shard(job.file, job.split, sha256, key, meta["count"], names, meta.get("refused", 0))
        if job.split == "test":
            test.append(shard)
        elif shard.count:  # where all photos are too small there is nothing to label
            shards.append(shard)

    index = CropIndex(key, want, made_with, shards, test)
    for split, what in (("train", "training"), ("valid", "validation")):
        if not index.count(split):
            photos = [photo.name for job in jobs if job.split == split for photo in job.photos]
            raise DataError(
                f"no {what} crops: each of its {len(photos)} photos ({', '.join(photos[:4])}) cannot be read, is "
                f"smaller than data.crop={cfg.data.crop}, or flat or dark; give other photos, a smaller data.crop, or "
                "another seed or data.valid_count, which draw others for validation"
            )
    index.write(work.crop_index)
    files.delete_stale_shards(work.crops, {job.file for job in jobs})
    return index


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Our threads fill the cores already; torch's own on top of them make it 2 to 7 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- crops of a photo


@dataclass
class CutCrops:
    """The crops of one photo."""

    hr: np.ndarray  # uint8 (n, crop, crop, 3)
    lr: np.ndarray  # uint8 (n, crop/scale, crop/scale, 3)
    refused: int  # positions that were drawn and left out


def cut_crops(photo: PhotoFile, cfg: Config, want: int) -> CutCrops:
    """Up to `want` crops of one photo; none, with a word, of a photo that is damaged or too small."""
    side, scale = cfg.data.crop, cfg.scale
    none = CutCrops(np.empty((0, side, side, 3), np.uint8), np.empty((0, side // scale, side // scale, 3), np.uint8), 0)
    try:
        pixels = photo.pixels()
    except ImageError as e:
        print(f"LEFT OUT: {e}")  # one bad file among thousands does not stop the step; a bad test photo does
        return none
    if min(pixels.shape[:2]) < side:
        print(f"LEFT OUT: {photo.name} is {pixels.shape[1]}x{pixels.shape[0]}, smaller than data.crop={side}")
        return none

    # one stream of random numbers for each photo: its corners first, then a seed for each crop
    rng = np.random.default_rng([cfg.seed, int(photo.sha256[:12], 16)])
    corners, refused = choose_corners(pixels, side, want, rng, cfg.data)
    seeds = [int(v) for v in rng.integers(2**62, size=want)]

    hr = np.empty((len(corners), *none.hr.shape[1:]), np.uint8)
    lr = np.empty((len(corners), *none.lr.shape[1:]), np.uint8)
    padded = np.pad(pixels, ((CONTEXT, CONTEXT), (CONTEXT, CONTEXT), (0, 0)), "reflect")
    inner = slice(CONTEXT, CONTEXT + side)
    inner_lr = slice(CONTEXT // scale, (CONTEXT + side) // scale)
    for i, (y, x) in enumerate(corners):
        wide = padded[y : y + side + 2 * CONTEXT, x : x + side + 2 * CONTEXT]
        hr[i] = wide[inner, inner]
        lr[i] = degrade(wide[None], [seeds[i]], scale, cfg.degrade.profile)[0, inner_lr, inner_lr]
    return CutCrops(hr, lr, refused)


def choose_corners(
    photo: np.ndarray, crop: int, want: int, rng: np.random.Generator, limits: DataConfig
) -> tuple[list[tuple[int, int]], int]:
    """Up to `want` corners (y, x) of crops that are neither flat nor too dark, and how many were refused.

    Refused: standard deviation of Y below `min_std` or mean of Y below `min_mean`. Y is BT.601's, 16 to 235.
    """
    h, w = photo.shape[:2]
    corners: list[tuple[int, int]] = []
    refused = 0
    for _ in range(DRAWS * want):
        y, x = int(rng.integers(h - crop + 1)), int(rng.integers(w - crop + 1))
        gray = luma(photo[y : y + crop, x : x + crop])
        if gray.std() < limits.min_std or gray.mean() < limits.min_mean:
            refused += 1
            continue
        corners.append((y, x))
        if len(corners) == want:
            break
    return corners, refused


def degrade_photo(photo: PhotoFile, cfg: Config) -> PhotoPair:
    """A whole test photo (or its centre, `data.test_side`), its sides cut to multiples of 8, and its degraded LR."""
    whole = photo.pixels()
    sides = [min(n, cfg.data.test_side or n) // 8 * 8 for n in whole.shape[:2]]
    if min(sides) < 64:
        raise DataError(
            f"test photo {photo.name} is only {whole.shape[1]}x{whole.shape[0]}: it takes 64 pixels a side; take it "
            f"out of {photo.file.parent}, or name other photos as data.test_photos"
        )
    top, left = ((n - side) // 2 for n, side in zip(whole.shape[:2], sides))
    hr = np.ascontiguousarray(whole[top : top + sides[0], left : left + sides[1]])
    seed = int(files.digest([cfg.seed, "test", photo.sha256]), 16) >> 2
    return PhotoPair(photo.name, hr, degrade(hr[None], [seed], cfg.scale, cfg.degrade.profile)[0])
