"""Step 1: photos into HR crops and degraded LR crops.

Where a crop lies and how it is degraded depend on (seed, photo, number of the crop) alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from kd_utils.common import devices, files
from kd_utils.common.errors import DataError
from kd_utils.config import Config, to_dict
from kd_utils.data.degradations import degrade
from kd_utils.data.photos import PhotoFile, find_photos, split_photos
from kd_utils.evaluation.metrics import luma
from kd_utils.imaging import reading

CONTEXT = 32  # HR pixels degraded around a crop and cut away again, so that blurs see the photo and not a border
DRAWS = 4  # positions tried per crop wanted, before a photo is taken as too flat or dark for more
SHARD = 256  # crops in a shard, about


@dataclass
class Prepared:
    folder: Path
    photos: dict[str, int]  # per split
    crops: dict[str, int]  # per split; test counts photos
    left_out: int  # positions drawn and refused as flat or nearly black
    made: int  # shards made by this call; the rest was there


@dataclass
class TestPair:
    name: str
    hr: np.ndarray  # uint8 (H, W, 3) RGB
    lr: np.ndarray  # uint8 (H/scale, W/scale, 3)


def choose_crops(
    photo: np.ndarray, crop: int, want: int, rng: np.random.Generator, d: Any
) -> tuple[list[tuple[int, int]], int]:
    """Up to `want` corners (y, x) of crops that are neither flat nor too dark, and how many were refused.

    Refused: standard deviation of Y below `d.min_std` or mean of Y below `d.min_mean`. Y is BT.601's, 16 to 235.
    """
    h, w = photo.shape[:2]
    kept, refused = [], 0
    for _ in range(DRAWS * want):
        y, x = int(rng.integers(h - crop + 1)), int(rng.integers(w - crop + 1))
        gray = luma(photo[y : y + crop, x : x + crop])
        if gray.std() < d.min_std or gray.mean() < d.min_mean:
            refused += 1
        else:
            kept.append((y, x))
            if len(kept) == want:
                break
    return kept, refused


def crop_pairs(photo: PhotoFile, cfg: Config, want: int) -> tuple[np.ndarray, np.ndarray, int]:
    """HR (n, crop, crop, 3) and LR (n, crop/scale, crop/scale, 3) of one photo, and how many positions were refused."""
    side, s = cfg.data.crop, cfg.scale
    none = [np.empty((0, n, n, 3), np.uint8) for n in (side, side // s)]
    try:
        pixels = photo.pixels()
    except reading.ImageError as e:
        print(f"LEFT OUT: {e}")  # one bad file among thousands is no reason to stop; as a test photo it is
        return *none, 0
    if min(pixels.shape[:2]) < side:
        print(f"LEFT OUT: {photo.name} is {pixels.shape[1]}x{pixels.shape[0]}, smaller than data.crop={side}")
        return *none, 0
    rng = np.random.default_rng([cfg.seed, int(photo.sha256[:12], 16)])
    corners, refused = choose_crops(pixels, side, want, rng, cfg.data)
    seeds = [int(v) for v in rng.integers(2**62, size=want)][: len(corners)]
    padded = np.pad(pixels, ((CONTEXT, CONTEXT), (CONTEXT, CONTEXT), (0, 0)), "reflect")
    c, cl = slice(CONTEXT, CONTEXT + side), slice(CONTEXT // s, (CONTEXT + side) // s)
    hr, lr = (np.empty((len(corners), *a.shape[1:]), np.uint8) for a in none)
    for i, ((y, x), seed) in enumerate(zip(corners, seeds, strict=True)):
        wide = padded[y : y + side + 2 * CONTEXT, x : x + side + 2 * CONTEXT]
        hr[i], lr[i] = wide[c, c], degrade(wide[None], [seed], s, cfg.degrade.profile)[0, cl, cl]
    return hr, lr, refused


def make_test_pair(photo: PhotoFile, cfg: Config) -> TestPair:
    """A whole test photo (or its centre, `data.test_side`), its sides cut to multiples of 8, and its degraded LR."""
    hr = photo.pixels()
    sides = [min(n, cfg.data.test_side or n) // 8 * 8 for n in hr.shape[:2]]
    if min(sides) < 64:
        raise DataError(
            f"test photo {photo.name} is only {hr.shape[1]}x{hr.shape[0]}: it takes 64 pixels a side; take it out of "
            f"{photo.file.parent}, or name other photos as data.test_photos"
        )
    y, x = ((n - m) // 2 for n, m in zip(hr.shape[:2], sides, strict=False))
    hr = np.ascontiguousarray(hr[y : y + sides[0], x : x + sides[1]])
    seed = int(files.digest([cfg.seed, "test", photo.sha256]), 16) >> 2
    return TestPair(photo.name, hr, degrade(hr[None], [seed], cfg.scale, cfg.degrade.profile)[0])


def provenance(cfg: Config, parts: dict[str, list[PhotoFile]]) -> dict[str, Any]:
    """What the crops depend on; where the photos lay does not matter, what they hold does."""
    fields = to_dict(cfg, "seed", "scale", "data.", "degrade.")
    for path in ("data.photos", "data.test_photos"):
        fields.pop(path)
    return fields | {"photos": {part: {p.name: p.sha256 for p in photos} for part, photos in sorted(parts.items())}}


def versions() -> dict[str, str]:
    """Recorded beside what we make; not compared, as Colab's versions move while a training is under way."""
    return {n: metadata.version(n) for n in ("torch", "torchvision", "numpy", "opencv-python", "pillow")}


def prepare(cfg: Config) -> Prepared:
    """Step 1: shards of crops in ``workdir/crops``, and one file for each test photo; resumes after a kill.

    Ranks take every world-th shard; whoever finds all of them made writes ``index.json``, which ends the step.
    Raises DataError, images.ImageError, sources.SourceError, or StoreError when the folder holds other crops.
    """
    out = cfg.path("crops")
    parts = split_photos(cfg)
    want = provenance(cfg, parts)
    key = files.digest(want)
    if (out / "index.json").is_file():
        have = files.read_json(out / "index.json")["provenance"]
        files.require_same(str(out), have, want, f"Choose another --workdir, or delete {out} to make them again.")
    rank, world, _ = devices.ranks()
    # (file, split, maker); tests first: one that cannot be used ends the step, and had better do so early
    jobs: list[tuple[str, str, Callable]] = [
        (f"test-{n:05d}.safetensors", "test", partial(_make_test, photo, cfg)) for n, photo in enumerate(parts["test"])
    ]
    for part, each in (("train", cfg.data.crops_per_photo), ("valid", cfg.data.valid_crops_per_photo)):
        step = max(1, math.ceil(SHARD / each))
        for n, i in enumerate(range(0, len(parts[part]), step)):
            jobs.append(
                (f"{part}-{n:05d}.safetensors", part, partial(_make_shard, parts[part][i : i + step], cfg, each))
            )
    done = {
        j[0]
        for j in tqdm(jobs, desc="checking crops", unit="shard", delay=3, leave=False, disable=rank > 0)
        if files.is_made(out / j[0], key=key)
    }
    todo = [j for j in jobs[rank::world] if j[0] not in done]
    workers = cfg.workers or min(4, os.cpu_count() or 1)
    bar = tqdm(total=len(todo), desc="crops", unit="shard", disable=rank > 0 or not todo)
    with bar, _one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        for arrays, meta, job in pool.map(lambda j: (*j[2](), j), todo):
            files.save_arrays(out / job[0], arrays, {"key": key} | meta)
            done.add(job[0])
            bar.update()
    photos, left = {part: len(v) for part, v in parts.items()}, [j for j in jobs if j[0] not in done]
    if not all(files.is_made(out / j[0], key=key) for j in left):  # other ranks may have made theirs meanwhile
        return Prepared(out, photos, {}, 0, len(todo))
    shards = []
    for file, part, _ in jobs:
        arrays, meta = files.load_arrays(out / file)
        shards.append({"file": file, "split": part, "sha256": files.sha256(arrays["lr"].tobytes()), **meta})
    crops = {part: sum(e["count"] for e in shards if e["split"] == part) for part in parts}
    for part, what in (("train", "training"), ("valid", "validation")):
        if not crops[part]:
            named = ", ".join([p.name for p in parts[part]][:4])
            raise DataError(
                f"no {what} crops: each of its {photos[part]} photos ({named}) cannot be read, is smaller than "
                f"data.crop={cfg.data.crop}, or flat or dark; give other photos, a smaller data.crop, or another "
                "seed or data.valid_count, which draw others for validation"
            )
    index = {"key": key, "provenance": want, "versions": versions()}
    # one whose photos are all too small or flat holds none: nothing to label
    index["shards"] = [e for e in shards if e["split"] != "test" and e["count"]]
    index["test"] = [e for e in shards if e["split"] == "test"]
    files.write_json(out / "index.json", index)
    files.delete_stale_shards(out, {j[0] for j in jobs})
    return Prepared(out, photos, crops, sum(e.get("refused", 0) for e in shards), len(todo))


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Our threads fill the cores already; torch's own on top of them make it 2 to 7 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_shard(photos: list[PhotoFile], cfg: Config, each: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    made = [crop_pairs(p, cfg, each) for p in photos]
    arrays = {"hr": np.concatenate([m[0] for m in made]), "lr": np.concatenate([m[1] for m in made])}
    return arrays, {"count": len(arrays["hr"]), "refused": sum(m[2] for m in made), "photos": [p.name for p in photos]}


def _make_test(photo: PhotoFile, cfg: Config) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    pair = make_test_pair(photo, cfg)
    return {"hr": pair.hr, "lr": pair.lr}, {"count": 1, "name": photo.name}


def read_index(cfg: Config) -> dict[str, Any]:
    """`crops/index.json`, refused where `cfg` asks for other crops. Raises StoreError, or DataError for no photos."""
    path = cfg.path("crops", "index.json")
    if not path.is_file():
        raise files.StoreError(f"{path} is missing: run step 1 first (python -m kd_utils prepare)")
    index = files.read_json(path)
    want = provenance(cfg, {})
    have = {k: v for k, v in index["provenance"].items() if k != "photos"}
    want.pop("photos")
    remedy = f"Choose another --workdir, or delete {path.parent} to make them again."
    files.require_same(str(path.parent), have, want, remedy)
    used = index["provenance"]["photos"]
    given = {"data.test_photos": (cfg.data.test_photos, ("test",))}
    if cfg.data.photos not in ("samples", "DIV2K"):  # what the preset says need not be said again in every step
        own = () if cfg.data.test_photos else ("test",)
        given["data.photos"] = (cfg.data.photos, ("train", "valid", *own))
    for key, (where, parts) in given.items():
        there = {p.name for p in find_photos(where, key)} if where else set()  # by name only: hashing takes long
        if where and (gone := {name for part in parts for name in used[part]} - there):
            raise files.StoreError(
                f"{path.parent} was made of other photos than {key}={where} holds now: {min(gone)} is not among them. "
                f"{remedy}"
            )
    return index


def load_test_pairs(cfg: Config) -> list[TestPair]:
    """The test photos with their degraded LR, memory-mapped; the first `eval.limit` (0: all)."""
    index = read_index(cfg)
    pairs = []
    for entry in index["test"][: cfg.eval.limit or None]:
        arrays, meta = files.load_arrays(cfg.path("crops", entry["file"]))
        pairs.append(TestPair(meta["name"], arrays["hr"], arrays["lr"]))
    return pairs
