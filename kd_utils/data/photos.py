"""Which photos there are, and which of them are for training, validation and test.

The three never share a photo: the split is by photo (by scene for the samples), and a test or validation photo whose
bytes are also among the training photos is taken out of training.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from kd_utils.common import files, sources
from kd_utils.common.errors import DataError
from kd_utils.config import Config
from kd_utils.imaging import folders, reading

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

WORKDIR_PARTS = ("crops", "labels", "train", "eval", "runs")  # what of a work folder is ours
HASHED_SILENTLY = 50  # photos; more get a progress bar

# What zipfile raises for damaged zips. RuntimeError: a member that is encrypted, or of a method that it lacks.
BAD_ZIP = (
    OSError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, EOFError, OverflowError, struct.error,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
ROOM = 64 << 20  # bytes that any member of a zip may unpack to, and the times its size that a larger one may
TIMES = 100


def _refuse_bomb(member: zipfile.ZipInfo) -> None:
    """Refuse a member that unpacks to far more than a photo does: photos are compressed already."""
    if member.file_size > max(ROOM, TIMES * member.compress_size):
        raise ValueError(f"it would unpack from {member.compress_size:,} to {member.file_size:,} bytes")


@dataclass(frozen=True)
class PhotoFile:
    """A photo of a folder or of a zip."""

    name: str  # unique within its source
    file: Path  # the photo, or the zip that holds it
    member: str = ""  # its name within the zip
    sha256: str = ""

    def bytes(self) -> bytes:
        """The file's bytes. Raises DataError."""
        try:
            if not self.member:
                return self.file.read_bytes()
            with zipfile.ZipFile(self.file) as z:
                _refuse_bomb(z.getinfo(self.member))
                return z.read(self.member)
        except BAD_ZIP as e:
            where = f"{self.member} of {self.file}" if self.member else self.file
            raise DataError(f"{where} cannot be read ({e}): take it out, or copy it again") from e

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright. Raises ImageError."""
        shown = f"{self.name} of {self.file}" if self.member else self.name
        return reading.read_rgb(self.bytes(), shown)


# ---- finding


def find_photos(where: str, key: str = "data.photos") -> list[PhotoFile]:
    """All photos of a folder (recursive) or a zip, sorted by name. Raises DataError, which names the setting `key`.

    The pictures of a work folder that lies in the folder are left out.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        found = _in_folder(path)
    elif path.is_file():
        found = _in_zip(path, key)
    else:
        raise DataError(f"{key}={where!r} does not exist: name a folder or zip of photos, DIV2K, or samples")
    if not found:
        raise DataError(f"{key}={where!r} holds no photos ({', '.join(folders.SUFFIXES)})")
    return found


def _in_folder(folder: Path) -> list[PhotoFile]:
    # our own pictures, panels of test photos among them, are not to be trained on
    ours = set()
    for index in folder.rglob("crops/index.json"):
        work = index.parents[1]
        ours |= {work / part for part in WORKDIR_PARTS}
        if work != folder:
            ours.add(work)

    found = []
    for path in folders.list_images(folder):
        if ours.isdisjoint(path.parents):
            found.append(PhotoFile(path.relative_to(folder).as_posix(), path))
    return found


def _in_zip(path: Path, key: str) -> list[PhotoFile]:
    try:
        with zipfile.ZipFile(path) as z:
            members = sorted(z.namelist())
    except BAD_ZIP as e:
        raise DataError(f"{key}='{path}' is neither a folder nor a zip ({e}): name a folder of photos") from e
    return [PhotoFile(m, path, m) for m in members if folders.is_image(m)]


def _with_hashes(photos: list[PhotoFile], what: str) -> list[PhotoFile]:
    quiet = None if len(photos) < HASHED_SILENTLY else False
    bar = tqdm(photos, desc=f"reading {what}", unit="photo", disable=quiet, leave=False)
    return [replace(photo, sha256=files.sha256(photo.bytes())) for photo in bar]


# ---- the splits


def split_photos(cfg: Config) -> dict[str, list[PhotoFile]]:
    """The photos of "train", "valid" and "test", hashed. Raises DataError where one of them would be empty."""
    splits = _split_samples(cfg) if cfg.data.photos == "samples" else _split_folder(cfg)
    total = sum(len(photos) for split, photos in splits.items() if split != "test" or not _has_own_test(cfg))

    # a photo that is twice there counts as a test photo, else as a validation photo
    held_out = {photo.sha256 for photo in splits["test"]}
    splits["valid"] = [photo for photo in splits["valid"] if photo.sha256 not in held_out]
    held_out |= {photo.sha256 for photo in splits["valid"]}
    unseen = [photo for photo in splits["train"] if photo.sha256 not in held_out]

    twice = len(splits["train"]) - len(unseen)
    if twice:
        print(f"{twice} training photos are also test or validation photos: left out of training")
    splits["train"] = unseen[: cfg.data.limit or None]
    _require_photos(cfg, splits, total)
    return splits


def _split_samples(cfg: Config) -> dict[str, list[PhotoFile]]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    splits = {}
    for split, names in SAMPLES.items():
        splits[split] = _with_hashes([PhotoFile(name, folder / name) for name in names], "samples")
    if cfg.data.test_photos:
        splits["test"] = _test_photos(cfg.data.test_photos)
    return splits


def _split_folder(cfg: Config) -> dict[str, list[PhotoFile]]:
    """The splits of DIV2K, a folder or a zip.

    Which photos are held out is by the hash of (seed, photo), so that adding photos moves none from training to
    validation or test.
    """
    where, test_from = cfg.data.photos, cfg.data.test_photos
    if where == "DIV2K":
        where = str(sources.fetch("div2k_train"))
        test_from = test_from or str(sources.fetch("div2k_valid"))

    pool = _with_hashes(find_photos(where), "photos")
    pool.sort(key=lambda photo: files.digest([cfg.seed, photo.sha256]))
    if test_from:
        test = _test_photos(test_from)
    else:
        test, pool = pool[: cfg.data.test_count], pool[cfg.data.test_count :]
    valid, pool = pool[: cfg.data.valid_count], pool[cfg.data.valid_count :]
    return {"test": test, "valid": valid, "train": sorted(pool, key=lambda photo: photo.name)}


def _has_own_test(cfg: Config) -> bool:
    """Whether the test photos are of another source than the rest."""
    return bool(cfg.data.test_photos) or cfg.data.photos == "DIV2K"


def _test_photos(where: str) -> list[PhotoFile]:
    return _with_hashes(find_photos(where, "data.test_photos"), "test photos")


def _require_photos(cfg: Config, splits: dict[str, list[PhotoFile]], total: int) -> None:
    """Refuse an empty split: DataError says why it is empty and what to do. `total` is the number of photos given."""
    settings = cfg.data
    empty = next((split for split, photos in splits.items() if not photos), None)
    if not empty:
        return
    if empty == "test" and not settings.test_count:
        raise DataError("no test photos: data.test_count=0 holds out none; raise it, or give data.test_photos")

    wanted = settings.valid_count + (0 if settings.test_photos else settings.test_count)
    if settings.photos == "samples" or total > wanted:
        raise DataError(
            f"no {empty} photos: those of data.photos={settings.photos!r} are all test or validation photos too; give "
            "other data.photos or data.test_photos"
        )
    counts = f"data.valid_count={settings.valid_count}"
    if not settings.test_photos:
        counts += f" + data.test_count={settings.test_count}"
    raise DataError(
        f"no {empty} photos: data.photos={settings.photos!r} has {total}; it takes more than {counts}: "
        "lower these or add photos"
    )
