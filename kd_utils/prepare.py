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
from kd_utils.common import devices, files, locks, progress
from kd_utils.common.errors import DataError, StoreError
from kd_utils.config import Config
from kd_utils.data.crops import CropIndex, Shard
from kd_utils.data.cutting import cut_crops, degrade_photo
from kd_utils.data.photos import PhotoFile, split_photos
from kd_utils.training import drive_data
from kd_utils.training.drive_data import Kept
from kd_utils.workdir import Workdir

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
    if made := _all_from_drive(cfg, work):
        return made
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
        elif drive_data.is_on(cfg) and (kept := drive_data.find(cfg, "crops", key)):
            drive_data.restore(cfg, kept)
        made = _prepare(cfg, work, splits, want, key, before)

    if drive_data.is_on(cfg) and made.crops:
        index = CropIndex.read(work.crop_index)
        shards = [work.crops / shard.file for shard in index.shards + index.test]
        drive_data.keep(cfg, Kept("crops", key, made_from(cfg), [], 0, files.read_json(work.crop_index)), shards)
    return made


def made_from(cfg: Config) -> dict[str, Any]:
    """What these crops are known by before any photo was looked at; empty where the photos are one's own."""
    if cfg.data.photos not in ("samples", "DIV2K") or cfg.data.test_photos:
        return {}
    return {"photos": cfg.data.photos, "settings": provenance.crops_provenance(cfg)}


def _all_from_drive(cfg: Config, work: Workdir) -> Prepared | None:
    """All crops from the copies on Drive, so that their photos need not be downloaded; None where that cannot be."""
    kept = drive_data.find(cfg, "crops", made_from=made_from(cfg)) if drive_data.is_on(cfg) else None
    if not kept:
        return None
    with locks.hold(work.crops, kept.key):
        if not work.crop_index.is_file():
            if not drive_data.restore(cfg, kept):
                return None
            files.write_json(work.crop_index, kept.index)  # last, so that it is there for whole crops only
        index = CropIndex.read(work.crop_index)
        if index.key != kept.key or not all(
            files.is_made(work.crops / shard.file, key=index.key) for shard in index.shards + index.test
        ):
            return None
    photos = {split: len(names) for split, names in index.provenance["photos"].items()}
    return _summary(work, index, photos, 0)


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
    left = [job for job in missing if job.file not in mine]
    if _missing(work, key, left, quiet=True):
        return Prepared(work.crops, counts, {}, 0, len(todo))
    return _summary(work, _write_index(cfg, work, key, want, jobs, made_with), counts, len(todo))


def _summary(work: Workdir, index: CropIndex, photos: dict[str, int], made: int) -> Prepared:
    crops = {"train": index.count("train"), "valid": index.count("valid"), "test": len(index.test)}
    return Prepared(work.crops, photos, crops, sum(shard.refused for shard in index.shards), made)


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
    photos = sum(len(job.photos) for job in jobs)
    bar = tqdm(total=photos, desc="crops", unit="photo", disable=devices.process_rank() > 0 or not jobs)

    def write(job: Job, made: Future) -> None:
        arrays, meta = made.result()
        files.save_arrays(work.crops / job.file, arrays, {"key": key} | meta)
        bar.set_postfix(progress.beside(bar, torch.device("cpu")), refresh=False)
        bar.update(len(job.photos))

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
