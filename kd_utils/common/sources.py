"""All that is ever downloaded: one table, and `fetch`, which resumes, verifies and lands a file atomically.

`KD_CACHE` is the folder files are kept in (default ~/.cache/imagesharpening-kd). `KD_MIRROR`, a folder or a base
URL, is tried first, by file name. A file put into the cache by hand is taken once its hash is right.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import re
import shutil
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from kd_utils.common import downloads
from kd_utils.common.errors import SourceError

CACHE = "~/.cache/imagesharpening-kd"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Source:
    name: str
    url: str
    bytes: int
    sha256: str
    licence: str
    mirrors: tuple[str, ...] = ()

    @property
    def file(self) -> str:  # its name in the cache and in a mirror
        return self.url.rsplit("/", 1)[-1]


_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_DIV2K_MIRROR = "https://huggingface.co/datasets/goodfellowliu/DIV2K/resolve/main/"
_ESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download/"
_BSD = "BSD-3-Clause (Real-ESRGAN)"
SOURCES = {
    s.name: s
    for s in (
        Source("div2k_train", _DIV2K + "DIV2K_train_HR.zip", 3530603713,
               "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
               "academic research only (DIV2K)", (_DIV2K_MIRROR + "DIV2K_train_HR.zip",)),
        Source("div2k_valid", _DIV2K + "DIV2K_valid_HR.zip", 448993893,
               "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
               "academic research only (DIV2K)", (_DIV2K_MIRROR + "DIV2K_valid_HR.zip",)),
        Source("anime_6B", _ESRGAN + "v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth", 17938799,
               "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da", _BSD),
        Source("general_x4v3", _ESRGAN + "v0.2.5.0/realesr-general-x4v3.pth", 4885111,
               "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292", _BSD),
        Source("general_wdn_x4v3", _ESRGAN + "v0.2.5.0/realesr-general-wdn-x4v3.pth", 4885111,
               "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca", _BSD),
        Source("animevideov3", _ESRGAN + "v0.2.5.0/realesr-animevideov3.pth", 2504012,
               "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d", _BSD),
        Source("x4plus", _ESRGAN + "v0.1.0/RealESRGAN_x4plus.pth", 67040989,
               "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1", _BSD),
        Source("vgg19", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", 574673361,
               "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
               "BSD-3-Clause (torchvision), trained on ImageNet"),
    )
}  # fmt: skip


def fetch(name: str, cache: str | Path | None = None) -> Path:
    """The path of a verified file: from the cache, else downloaded. `name` is a name in SOURCES, or a Drive link.

    Drive files have no known hash and are only checked not to be a web page. Raises SourceError, which says what
    to do; what has arrived by then is kept, and the next call goes on from there.
    """
    folder = Path(cache or os.environ.get("KD_CACHE") or CACHE).expanduser()
    if urlsplit(name).hostname in ("drive.google.com", "docs.google.com"):
        return _fetch_drive(name, folder / "drive")
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SOURCES)}, and Google Drive links"
        raise SourceError(f"unknown download {name!r}: {hint}")
    source = SOURCES[name]
    path = folder / source.file
    if not _cached(source, path):
        with _lock(path):
            if not _cached(source, path):  # another process may have fetched it while we waited
                _download(source, path)
    return path


def _cached(source: Source, path: Path) -> bool:
    """Is the right file there? Hashed once, then known by size and time (hashing DIV2K takes many seconds)."""
    if not path.is_file():
        return False
    if _stamped(source, path):
        return True
    if wrong := _wrong(source, path):
        raise SourceError(
            f"{path} is not {source.file}: {wrong}. Delete it to download it again, or put the right file there."
        )
    _stamped(source, path, leave=True)
    return True


def _stamped(source: Source, path: Path, leave: bool = False) -> bool:
    """Does the note beside `path` say that it was verified, as it is now? `leave` that note."""
    ok, stat = path.with_name(path.name + ".ok"), path.stat()
    note = f"{source.sha256} {stat.st_size} {stat.st_mtime_ns}\n"
    if leave:
        with suppress(OSError):  # a read-only cache is hashed each time
            ok.write_text(note)
    return ok.is_file() and ok.read_text() == note


def _wrong(source: Source, path: Path) -> str:
    """What is wrong with a complete file; empty: nothing."""
    with open(path, "rb") as f:
        size, sha = os.fstat(f.fileno()).st_size, hashlib.file_digest(f, "sha256").hexdigest()
    if (size, sha) == (source.bytes, source.sha256):
        return ""
    what = "it is a web page, saved under that name; " if _is_html(path) else ""
    return f"{what}it has {size} bytes and sha256 {sha} instead of {source.bytes} bytes and sha256 {source.sha256}"


def _is_html(path: Path) -> bool:
    with open(path, "rb") as f:
        return f.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _download(source: Source, path: Path) -> None:
    """Try each place in turn; called under the file's lock."""
    part = path.with_name(path.name + ".part")
    need, free = source.bytes - downloads.size(part), shutil.disk_usage(path.parent).free
    if free < need:
        raise SourceError(_no_room(source.file, path.parent, f"{need:,} bytes needed, {free:,} free"))
    mirror = os.environ.get("KD_MIRROR")
    failures = []
    for place in ([f"{mirror.rstrip('/')}/{source.file}"] if mirror else []) + [source.url, *source.mirrors]:
        try:
            _take(source, place, part)
            os.replace(part, path)
            _stamped(source, path, leave=True)
            return
        except downloads.Failed as e:
            failures.append(f"{place}: {e}")
            print(failures[-1], file=sys.stderr)
    kept = f" ({downloads.size(part):,} of {source.bytes:,} bytes are kept)" if part.exists() else ""
    raise SourceError(
        f"{source.file} could not be downloaded:\n  "
        + "\n  ".join(failures)
        + f"\nCheck the network and run this again{kept}; or set KD_MIRROR to a folder or base URL that has the file;"
        f" or put the file by hand at {path}"
    )


def _take(source: Source, place: str, part: Path) -> None:
    """One place's file into `part`, verified."""
    resumed = part.exists()
    try:
        with tqdm(total=source.bytes, desc=source.file, unit="B", unit_scale=True, mininterval=0.5) as bar:
            if place.startswith(("http://", "https://")):
                downloads.get(place, part, source.bytes, bar)
            else:
                downloads.copy(place.removeprefix("file://"), part, bar)
    except OSError as e:
        if e.errno in NO_ROOM:
            raise SourceError(_no_room(source.file, part.parent, e.strerror)) from e
        raise SourceError(_unwritable(part.parent, e)) from e
    if wrong := _wrong(source, part):
        part.unlink()
        if not resumed:
            raise downloads.Failed(wrong)
        _take(source, place, part)  # what was kept of an earlier try may have been the wrong part


def _fetch_drive(url: str, folder: Path) -> Path:
    """A Drive file by its link, under folder/ID/ with the name it has on Drive."""
    found = re.search(r"(?:/d/|[?&]id=)([-\w]{20,})", url)
    if not found:
        raise SourceError(f"{url!r} is no link to one file on Google Drive: use its Share link, .../file/d/ID/view")
    path = folder / found[1]
    by_hand = f"Share it with 'Anyone with the link', or download it in a browser and put it by hand into {path}/"
    with _lock(path):
        if here := next(path.glob("[!.]*"), None):
            return here
        import gdown  # its first import takes a second

        partly = path.with_name(path.name + ".part")
        shutil.rmtree(partly, ignore_errors=True)
        partly.mkdir()
        try:
            gdown.download(id=found[1], output=f"{partly}{os.sep}")  # `fuzzy=` for links is gone from gdown 6
        except Exception as e:  # gdown 5 and 6 raise different ones, and requests' own
            if isinstance(e, OSError) and e.errno in NO_ROOM:
                raise SourceError(_no_room(url, folder, e.strerror)) from e
            raise SourceError(
                f"{url} could not be downloaded from Google Drive ({downloads.reason(e)[:300]}). {by_hand}"
            ) from e
        here = next(partly.glob("[!.]*"), None)
        if not here or _is_html(here):
            raise SourceError(f"Google Drive sent a web page (a quota or sign-in page) for {url}. {by_hand}")
        path.mkdir(exist_ok=True)
        os.replace(here, path / here.name)
        shutil.rmtree(partly)
        return path / here.name


@contextmanager
def _lock(path: Path):
    """One process at a time fetches a file; the others wait and then find it."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another process is fetching {path.name}: waiting for it", file=sys.stderr)
            lock.acquire()
    except (OSError, NotImplementedError) as e:
        raise SourceError(_unwritable(path.parent, e)) from e
    try:
        yield
    finally:
        lock.release()


def _no_room(file: str, folder: Path, what: str) -> str:
    return f"no room for {file} in {folder} ({what}): free some, or set KD_CACHE to a folder on a larger disk"


def _unwritable(folder: Path, e: Exception) -> str:
    return f"the download cache {folder} cannot be written ({e}): set KD_CACHE to a folder that can"
