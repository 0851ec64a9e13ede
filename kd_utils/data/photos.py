"""Which photos there are, and which of them are for training, validation and test.

The three never share a photo: the split is by photo (by scene for the samples), and a test or validation photo whose
bytes are also among the training photos is taken out of training.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from kd_utils.common import files, sources
from kd_utils.common.errors import DataError
from kd_utils.config import Config
from kd_utils.imaging import reading

# The colour photos inside scikit-image, by split; motorcycle left and right are one scene.
SAMPLES = {
    "train": (
        "astronaut.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
    ),
    "valid": ("rocket.jpg",),
    "test": ("chelsea.png", "coffee.png"),
}


OWN = ("crops", "labels", "train", "eval", "runs")  # what of a work folder is ours


@dataclass(frozen=True)
class PhotoFile:
    name: str  # unique within its source
    file: Path  # the photo, or the zip that holds it
    member: str = ""
    sha256: str = ""

    def bytes(self) -> bytes:
        """The file's bytes. Raises DataError."""
        try:
            if not self.member:
                return self.file.read_bytes()
            with zipfile.ZipFile(self.file) as z:
                return z.read(self.member)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:  # RuntimeError: locked, or an odd method
            where = f"{self.member} of {self.file}" if self.member else self.file
            raise DataError(f"{where} cannot be read ({e}): take it out, or copy it again") from e

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright. Raises images.ImageError."""
        return reading.read_rgb(self.bytes(), f"{self.name} of {self.file}" if self.member else self.name)


def find_photos(where: str, key: str = "data.photos") -> list[PhotoFile]:
    """All photos of a folder (recursive; not of a work folder in it) or a zip, sorted by name. Raises DataError, which
    names the `key`.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        works = {p.parents[1] for p in path.rglob("crops/index.json")}
        # pictures of our own, panels of test photos among them, are not to be trained on
        own = {work / part for work in works for part in OWN} | (works - {path})
        found = [
            PhotoFile(p.relative_to(path).as_posix(), p) for p in reading.list_images(path) if own.isdisjoint(p.parents)
        ]
    elif path.is_file():
        try:
            with zipfile.ZipFile(path) as z:
                names = [n for n in z.namelist() if Path(n).suffix.lower() in reading.SUFFIXES and not _hidden(n)]
        except zipfile.BadZipFile as e:
            raise DataError(f"{key}={where!r} is neither a folder nor a zip ({e}): name a folder of photos") from e
        found = [PhotoFile(n, path, n) for n in sorted(names)]
    else:
        raise DataError(f"{key}={where!r} does not exist: name a folder or zip of photos, DIV2K, or samples")
    if not found:
        raise DataError(f"{key}={where!r} holds no photos ({', '.join(sorted(reading.SUFFIXES))})")
    return found


def _hidden(member: str) -> bool:
    """What a folder's listing leaves out too, and what macOS adds to its zips."""
    return any(part.startswith((".", "__MACOSX")) for part in Path(member).parts)


def _hashed(photos: list[PhotoFile], what: str) -> list[PhotoFile]:
    bar = tqdm(photos, desc=f"reading {what}", unit="photo", disable=None if len(photos) < 50 else False, leave=False)
    return [PhotoFile(p.name, p.file, p.member, files.sha256(p.bytes())) for p in bar]


def split_photos(cfg: Config) -> dict[str, list[PhotoFile]]:
    """The photos of each split, hashed. Which photos a folder or zip holds out is by the hash of (seed, photo), so
    that adding photos moves none from training to validation or test."""
    d = cfg.data
    if d.photos == "samples":
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        parts = {s: _hashed([PhotoFile(n, folder / n) for n in names], "samples") for s, names in SAMPLES.items()}
        if d.test_photos:
            parts["test"] = _hashed(find_photos(d.test_photos, "data.test_photos"), "test photos")
    else:
        zips = {"DIV2K": ("div2k_train", "div2k_valid")}.get(d.photos)
        pool = _hashed(find_photos(str(sources.fetch(zips[0])) if zips else d.photos), "photos")
        total = len(pool)
        test_from = d.test_photos or (str(sources.fetch(zips[1])) if zips else "")
        pool.sort(key=lambda p: files.digest([cfg.seed, p.sha256]))
        parts = {"test": _hashed(find_photos(test_from, "data.test_photos"), "test photos")} if test_from else {}
        for part, count in (("test", 0 if test_from else d.test_count), ("valid", d.valid_count)):
            if part not in parts:
                parts[part], pool = pool[:count], pool[count:]
        parts["train"] = sorted(pool, key=lambda p: p.name)
    held = {p.sha256 for p in parts["test"]}
    parts["valid"] = [p for p in parts["valid"] if p.sha256 not in held]
    held |= {p.sha256 for p in parts["valid"]}
    unseen = [p for p in parts["train"] if p.sha256 not in held]
    if len(unseen) < len(parts["train"]):
        twice = len(parts["train"]) - len(unseen)
        print(f"{twice} training photos are also test or validation photos: left out of training")
    parts["train"] = unseen[: d.limit or None]
    for part, photos in parts.items():
        if not photos:
            if part == "test" and not d.test_count:
                raise DataError("no test photos: data.test_count=0 holds out none; raise it, or give data.test_photos")
            if d.photos == "samples" or total > d.valid_count + (0 if d.test_photos else d.test_count):
                raise DataError(
                    f"no {part} photos: those of data.photos={d.photos!r} are all test or validation photos too; give "
                    "other data.photos or data.test_photos"
                )
            held_out = "" if d.test_photos else f" + data.test_count={d.test_count}"
            raise DataError(
                f"no {part} photos: data.photos={d.photos!r} has {total}; it takes more than data.valid_count="
                f"{d.valid_count}{held_out}: lower these or add photos"
            )
    return parts
