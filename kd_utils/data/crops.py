"""What a training step is fed: the crops of a split with their labels, and which of them step n takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_utils.common import files
from kd_utils.config import Config


class Crops:
    """The crops of one split with their labels, memory-mapped, addressed by one running number."""

    def __init__(self, cfg: Config, index: dict[str, Any], part: str):
        self.shards = []
        for e in (e for e in index["shards"] if e["split"] == part):
            crops, _ = files.load_arrays(cfg.path("crops", e["file"]))
            labels, _ = files.load_arrays(cfg.path("labels", e["file"]))
            self.shards.append((crops["lr"], labels["label"], crops["hr"]))
        self.starts = np.cumsum([0] + [len(s[0]) for s in self.shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batch(self, ids: np.ndarray, symmetries: np.ndarray) -> list[Tensor]:
        """uint8 (N, H, W, 3): LR, label, HR, each turned by one of the 8 symmetries of the square."""
        out: list[list[np.ndarray]] = [[], [], []]
        for i, symmetry in zip(ids, symmetries, strict=True):
            n = int(np.searchsorted(self.starts, i, "right")) - 1
            for kind, array in zip(out, self.shards[n], strict=True):
                a = np.rot90(array[i - self.starts[n]], symmetry % 4)
                kind.append(a[:, ::-1] if symmetry >= 4 else a)
        return [torch.from_numpy(np.stack(k)) for k in out]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(n)


def sample_batch(seed: int, step: int, batch: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the global batch of a step is: crop numbers, symmetries, and (batch, 2) positions of sub-crops in [0, 1)."""
    at = np.arange(step * batch, (step + 1) * batch)
    ids = np.array([_order(seed, int(p) // n, n)[p % n] for p in at])
    rng = np.random.default_rng([seed, 2, step])
    return ids, rng.integers(8, size=batch), rng.random((batch, 2))
