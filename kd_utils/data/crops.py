"""Crops on disk: the index of what step 1 made, its shards, and the batches that a training step is fed."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_utils import provenance
from kd_utils.common import files
from kd_utils.common.errors import StoreError
from kd_utils.config import Config
from kd_utils.data.photos import find_photos
from kd_utils.provenance import Provenance
from kd_utils.workdir import Workdir

# ---- the index


@dataclass(frozen=True)
class Shard:
    """A file of crops: arrays ``hr`` (n, H, W, 3) and ``lr`` (n, H/scale, W/scale, 3), or one test photo without n."""

    file: str
    split: str  # train, valid or test
    sha256: str  # of the LR pixels, which is what the teacher is given
    key: str  # of the provenance that it was made by
    count: int  # crops; 1 for a test photo
    photos: tuple[str, ...]
    refused: int = 0  # positions that were drawn and left out as flat or dark

    def to_dict(self) -> dict[str, Any]:
        """As it stands in index.json."""
        fields = {"file": self.file, "split": self.split, "sha256": self.sha256, "key": self.key, "count": self.count}
        if self.split == "test":
            return fields | {"name": self.photos[0]}
        return fields | {"photos": list(self.photos), "refused": self.refused}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Shard:
        return cls(
            file=fields["file"],
            split=fields["split"],
            sha256=fields["sha256"],
            key=fields["key"],
            count=fields["count"],
            photos=(fields["name"],) if fields["split"] == "test" else tuple(fields["photos"]),
            refused=fields.get("refused", 0),
        )


@dataclass(frozen=True)
class CropIndex:
    """What step 1 made: ``crops/index.json``, which is written last, so that it is there only for whole crops."""

    key: str  # a short hash of the provenance
    provenance: Provenance
    versions: dict[str, str]
    shards: list[Shard]  # of training and validation crops
    test: list[Shard]  # a file for each test photo

    def of_split(self, split: str) -> list[Shard]:
        return [s for s in self.shards if s.split == split]

    def count(self, split: str) -> int:
        return sum(s.count for s in self.of_split(split))

    def write(self, path: Path) -> None:
        fields = {
            "key": self.key,
            "provenance": self.provenance,
            "versions": self.versions,
            "shards": [s.to_dict() for s in self.shards],
            "test": [s.to_dict() for s in self.test],
        }
        files.write_json(path, fields | {"checksum": files.digest(fields)})

    @classmethod
    def read(cls, path: Path) -> CropIndex:
        """Raises StoreError where the file is missing or damaged."""
        if not path.is_file():
            raise StoreError(f"{path} is missing: run step 1 first (python -m kd_utils prepare)")

        fields = files.read_json(path, dict)
        checksum = fields.pop("checksum", None)  # an older version's index has none
        try:
            if checksum and checksum != files.digest(fields):
                raise ValueError("its checksum differs")
            if unknown := fields.keys() - {"key", "provenance", "versions", "shards", "test"}:
                raise ValueError(f"it holds {min(unknown)!r}")
            shards = [Shard.from_dict(s) for s in fields["shards"]]
            test = [Shard.from_dict(s) for s in fields["test"]]
            if fields["key"] != files.digest(fields["provenance"]):
                raise ValueError("its key is not that of its provenance")
            if any(s.key != fields["key"] for s in shards + test):
                raise ValueError("it names shards of other settings")
            return cls(fields["key"], fields["provenance"], fields["versions"], shards, test)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise StoreError(
                f"{path} is damaged ({e!r}): delete it and run step 1 again, which keeps whole shards"
            ) from e


def read_index(cfg: Config) -> CropIndex:
    """The index of the work folder's crops. Raises StoreError where `cfg` asks for other crops, DataError for none."""
    path = Workdir.of(cfg).crop_index
    index = CropIndex.read(path)

    want = provenance.crops_provenance(cfg)
    have = {k: v for k, v in index.provenance.items() if k != "photos"}
    provenance.require_same(path.parent, have, want)
    _require_photos(cfg, index, path.parent)
    return index


def _require_photos(cfg: Config, index: CropIndex, folder: Path) -> None:
    """Refuse crops of photos that are not where `cfg` says, by their names alone: hashing all of them takes long.

    What a preset says need not be said again in every step, so photos that are not a folder or zip are not looked for.
    """
    asked = {"data.test_photos": (cfg.data.test_photos, ["test"])}
    if cfg.data.photos not in ("samples", "DIV2K"):
        splits = ["train", "valid"] if cfg.data.test_photos else ["train", "valid", "test"]
        asked["data.photos"] = (cfg.data.photos, splits)

    for key, (where, splits) in asked.items():
        if not where:
            continue
        there = {p.name for p in find_photos(where, key)}
        used = set()
        for split in splits:
            used |= set(index.provenance["photos"][split])
        if gone := used - there:
            raise StoreError(
                f"{folder} was made of other photos than {key}={where} holds now: {min(gone)} is not among them. "
                f"Choose another --workdir, or delete {folder} to make it anew."
            )


def load_shard(work: Workdir, shard: Shard) -> dict[str, np.ndarray]:
    """The arrays of a file of crops, memory-mapped and verified.

    Raises StoreError where it is damaged, or is of other settings than the index.
    """
    path = work.crops / shard.file
    arrays, meta = files.load_arrays(path, verify=True)
    if meta.get("key") != shard.key or not {"hr", "lr"} <= arrays.keys():
        raise StoreError(f"{path} is not the shard of its index: run step 1 again (python -m kd_utils prepare)")
    return arrays


# ---- test photos


@dataclass
class PhotoPair:
    """A test photo and its degraded input."""

    name: str
    hr: np.ndarray  # uint8 (H, W, 3) RGB
    lr: np.ndarray  # uint8 (H/scale, W/scale, 3)


def load_photo_pairs(cfg: Config) -> list[PhotoPair]:
    """The test photos of step 1, memory-mapped; the first `eval.limit` (0: all)."""
    index = read_index(cfg)
    pairs = []
    for shard in index.test[: cfg.eval.limit or None]:
        arrays = load_shard(Workdir.of(cfg), shard)
        pairs.append(PhotoPair(shard.photos[0], arrays["hr"], arrays["lr"]))
    return pairs


# ---- batches


@dataclass
class Batch:
    """Crops of one size, uint8 (N, H, W, 3) RGB each, and where the perceptual loss looks."""

    lr: Tensor
    label: Tensor
    hr: Tensor
    positions: np.ndarray  # (N, 2) in [0, 1): places of the sub-crops (losses.sub_crops)


@dataclass(frozen=True)
class BatchPlan:
    """Which crops a step takes."""

    ids: np.ndarray  # (N,) numbers of crops
    symmetries: np.ndarray  # (N,) 0 to 7: how each is turned and mirrored
    positions: np.ndarray  # (N, 2), see Batch
    draws: np.ndarray  # (N,) in [0, 1): which of them get a clean input (training/batches.py)

    @classmethod
    def of(cls, ids: np.ndarray) -> BatchPlan:
        """These crops as they lie."""
        n = len(ids)
        return cls(ids, np.zeros(n, int), np.zeros((n, 2)), np.ones(n))

    def part(self, rank: int, world: int) -> BatchPlan:
        """The contiguous part of one of `world` processes."""
        n = len(self.ids)
        mine = slice(rank * n // world, (rank + 1) * n // world)
        return BatchPlan(self.ids[mine], self.symmetries[mine], self.positions[mine], self.draws[mine])


class Crops:
    """The crops of one split with their labels, memory-mapped, addressed by one running number.

    Every shard is verified by its checksum once, when it is opened: a flipped bit would silently spoil the training.
    """

    def __init__(self, work: Workdir, index: CropIndex, split: str):
        self.shards = []
        self.starts = [0]  # the number of each shard's first crop; the last entry is the total
        for shard in index.of_split(split):
            crops = load_shard(work, shard)
            labels, _ = files.load_arrays(work.labels / shard.file, verify=True)
            self.shards.append((crops["lr"], labels["label"], crops["hr"]))
            self.starts.append(self.starts[-1] + len(crops["lr"]))

    def __len__(self) -> int:
        return self.starts[-1]

    def batch(self, plan: BatchPlan) -> Batch:
        """The crops of a plan, each turned by its symmetry of the square."""
        lr, label, hr = [], [], []
        for i, symmetry in zip(plan.ids, plan.symmetries, strict=True):
            n = bisect.bisect_right(self.starts, i) - 1
            place = i - self.starts[n]
            for column, array in zip((lr, label, hr), self.shards[n], strict=True):
                column.append(_turn(array[place], symmetry))
        return Batch(_stack(lr), _stack(label), _stack(hr), plan.positions)

    def all(self) -> Batch:
        """Every crop as it lies."""
        return self.batch(BatchPlan.of(np.arange(len(self))))


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images))


def _turn(image: np.ndarray, symmetry: int) -> np.ndarray:
    """One of the 8 symmetries of the square: 0 to 3 quarter turns, from 4 on mirrored as well."""
    turned = np.rot90(image, symmetry % 4)
    return turned[:, ::-1] if symmetry >= 4 else turned


def sample_batch(seed: int, step: int, batch: int, n: int) -> BatchPlan:
    """The global batch of a step: a function of (seed, step) alone, so that a resumed run goes on exactly.

    Crops come in the order of a new permutation in each pass over all `n` of them.
    """
    ids = []
    for place in range(step * batch, (step + 1) * batch):
        epoch, within = divmod(place, n)
        ids.append(_permutation(seed, epoch, n)[within])

    rng = np.random.default_rng([seed, 2, step])
    return BatchPlan(np.array(ids), rng.integers(8, size=batch), rng.random((batch, 2)), rng.random(batch))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(n)
