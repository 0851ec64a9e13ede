"""Packs: many shards of pictures in one file, compressed without loss, for a folder on which many small files are slow.

Pictures are stored as WebP without loss: crops take .36 of their bytes and labels .34, where zlib leaves .66 and .59
(docs/LOG.md). A pack is itself a shard of bytes (common/files.py), so that it is whole or found to be damaged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from kd_utils.common import files
from kd_utils.common.errors import StoreError

STRIP = 4096  # rows of pixels that are compressed as one picture
LARGEST = 16_383  # pixels a side that WebP can hold
EFFORT = 0  # of WebP: more takes four times as long and saves a twentieth


def write(path: Path, shards: Sequence[Path], meta: dict[str, Any]) -> Path:
    """Pack shards into one file; `meta` goes into its header. Raises StoreError for a damaged shard."""
    packed: dict[str, np.ndarray] = {}
    told = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for shard in shards:
            arrays, about = files.load_arrays(shard, verify=True)
            for name, array in arrays.items():
                for n, strip in enumerate(pool.map(_compress, _strips(array))):
                    packed[f"{shard.name}/{name}/{n:05d}"] = np.frombuffer(strip, np.uint8)
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            told[shard.name] = {"meta": about, "shapes": shapes, "sha256": _fingerprint(arrays)}
    return files.save_arrays(path, packed, meta | {"shards": told})


def read_meta(path: Path) -> dict[str, Any]:
    """What `write` was given; checks the file's length, not its data. Raises StoreError."""
    meta = files.read_meta(path)
    if not isinstance(meta.get("shards"), dict):
        raise StoreError(f"{path} is no pack: delete it, and it is made again")
    return meta


def verify(path: Path) -> None:
    """Read a pack to its end. Raises StoreError where it is damaged or cannot be read."""
    read_meta(path)
    files.load_arrays(path, verify=True)


def unpack(path: Path, folder: Path) -> list[Path]:
    """Write the shards of a pack that `folder` lacks, byte for byte as they were; returns those that were written.

    Raises StoreError for a damaged pack.
    """
    told = read_meta(path)["shards"]
    lacking = [name for name in told if not (folder / name).is_file()]
    if not lacking:
        return []

    packed, _ = files.load_arrays(path, verify=True)
    written = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name in lacking:
            about = told[name]
            arrays = {}
            for array, shape in about["shapes"].items():
                prefix = f"{name}/{array}/"
                strips = [packed[key].tobytes() for key in sorted(packed) if key.startswith(prefix)]
                if _are_pictures(shape):
                    parts = list(pool.map(_decompress, strips))
                else:
                    parts = [np.frombuffer(strip, np.uint8) for strip in strips]
                arrays[array] = np.concatenate(parts).reshape(shape) if parts else np.empty(shape, np.uint8)
            if _fingerprint(arrays) != about["sha256"]:
                raise StoreError(f"{path} does not give back {name} as it was: delete the pack, and it is made again")
            written.append(files.save_arrays(folder / name, arrays, about["meta"]))
    return written


def _fingerprint(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()


# ---- strips of pixels


def _strips(array: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures (..., W, 3) as strips (rows, W, 3); what is no picture that WebP can hold as runs of bytes."""
    if _are_pictures(array.shape):
        rows = array.reshape(-1, array.shape[-2], 3)
        for start in range(0, len(rows), STRIP):
            yield rows[start : start + STRIP]
    else:
        yield array.reshape(-1)


def _are_pictures(shape: Sequence[int]) -> bool:
    return len(shape) >= 3 and shape[-1] == 3 and 0 < shape[-2] <= LARGEST


def _compress(strip: np.ndarray) -> bytes:
    if strip.ndim == 1:
        return strip.tobytes()
    image = pyvips.Image.new_from_array(np.ascontiguousarray(strip)).copy(interpretation="srgb")
    return image.webpsave_buffer(lossless=True, effort=EFFORT, Q=10)


def _decompress(data: bytes) -> np.ndarray:
    return pyvips.Image.new_from_buffer(data, "").numpy()[..., :3]
