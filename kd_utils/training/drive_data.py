"""Crops and labels kept on Google Drive as well, so that the next notebook's machine need not make them again.

Drive is slow with many files and loses rewritten ones. So the shards are packed into a few large files under new names,
which are proven like every other copy, and a list of them is written last. What a broken machine left is gone on with.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from kd_utils.common import devices, files
from kd_utils.common.errors import StoreError
from kd_utils.config import Config
from kd_utils.data import packs
from kd_utils.training.drive import copies
from kd_utils.workdir import Workdir

FOLDER = "data"  # of packs and lists, on Drive
PACK = 512_000_000  # bytes of shards in a pack, about a third on Drive
RATIO = 0.35  # of a shard's bytes, measured (docs/LOG.md)


@dataclass
class Kept:
    """The list of the packs of one step's shards, the file that is written last."""

    kind: str  # crops or labels
    key: str  # of the provenance
    made_from: dict[str, Any]  # what finds it before the provenance is known: the settings, and which photos
    packs: list[str]
    bytes: int  # on Drive
    index: dict[str, Any] = field(default_factory=dict)  # index.json of the crops
    name: str = ""  # of its file


def is_on(cfg: Config) -> bool:
    """Whether crops and labels are kept on Drive: with several processes each makes its part, and none of them is."""
    return bool(cfg.drive_data and cfg.drive) and devices.process_count() == 1


def gigabytes(count: float) -> str:
    """A size as people read it."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.1f} MB"


def _files(count: int) -> str:
    return f"{count} file{'s' if count > 1 else ''}"


# ---- from Drive


def find(cfg: Config, kind: str, key: str = "", made_from: dict[str, Any] | None = None) -> Kept | None:
    """The newest list on Drive of this `key`, or, where it is not known yet, of what was made from the same."""
    for kept in _lists(cfg, kind):
        if (key and kept.key == key) or (not key and made_from and kept.made_from == made_from):
            return kept
    return None


def restore(cfg: Config, kept: Kept) -> bool:
    """Bring back the shards that the work folder lacks; whether all packs could be read. What is wrong is said."""
    work = Workdir.of(cfg)
    folder = work.crops if kept.kind == "crops" else work.labels
    print(f"{kept.kind} come from Drive: {gigabytes(kept.bytes)} in {_files(len(kept.packs))} ({kept.name})")
    whole = True
    for name in tqdm(kept.packs, desc=f"{kept.kind} from Drive", unit="file"):
        local = work.root / "data" / name
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(_folder(cfg) / name, local)  # Drive reads fast from front to back only
            packs.unpack(local, folder)
        except (StoreError, OSError) as e:
            print(f"NOT FROM DRIVE: {name} ({e}). What it holds is made here.")
            whole = False
        local.unlink(missing_ok=True)
    with suppress(OSError):
        (work.root / "data").rmdir()
    return whole


def _folder(cfg: Config) -> Path:
    return Path(cfg.drive).expanduser() / FOLDER


def _lists(cfg: Config, kind: str) -> list[Kept]:
    """The lists of this kind on Drive, the newest first; those that cannot be read are left out."""
    found = []
    with suppress(OSError):
        paths = sorted(_folder(cfg).glob(f"{kind}-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in paths:
            with suppress(StoreError):
                found.append(read_list(path))
    return found


def read_list(path: Path) -> Kept:
    """One list of packs. Raises StoreError for one that is damaged."""
    try:
        return Kept(**files.read_json(path, dict) | {"name": path.stem})
    except TypeError as e:
        raise StoreError(f"{path} is no list of packs ({e})") from e


# ---- to Drive


def keep(cfg: Config, kept: Kept, shards: Sequence[Path]) -> None:
    """Pack `shards`, copy the packs to Drive and then their list; what is there already stays.

    `kept` says what they are; its packs and bytes are filled in. Says beforehand how many GB that takes. Nothing that
    goes wrong ends the work: it is said.
    """
    if find(cfg, kept.kind, kept.key):
        return
    work = Workdir.of(cfg)
    assert work.drive
    here = work.root / "data"  # packs wait here until their copies are proven
    groups = _groups(shards)
    raw = sum(path.stat().st_size for path in shards)
    if not _has_room(cfg, kept.kind, RATIO * raw):
        return
    print(
        f"Keeping the {kept.kind} on Drive: about {gigabytes(RATIO * raw)} ({gigabytes(raw)} here, packed without "
        f"loss) in {_files(len(groups))} in {_folder(cfg)}"
    )

    stem = f"{kept.kind}-{datetime.date.today()}-{work.root.resolve().name}-{kept.key[:6]}"
    made_before = _packs_on_drive(cfg, kept)
    with copies(work.root, work.drive) as drive:
        assert drive
        for n, group in enumerate(tqdm(groups, desc=f"{kept.kind} to Drive", unit="file")):
            meta = {"kind": kept.kind, "key": kept.key, "part": n, "of": len(groups)}
            place = made_before.get((n, len(groups)))
            if not place:
                path = packs.write(here / f"{stem}-{n + 1}-of-{len(groups)}.safetensors", group, meta)
                drive.copy(path)
                place = drive.place(path)
                if place not in drive.waiting:
                    path.unlink()
            kept.packs.append(place.name)
        if drive.waiting:
            return  # what waits is named when `copies` ends; the list would promise what is not there
        kept.bytes = sum((_folder(cfg) / name).stat().st_size for name in kept.packs)
        told = asdict(kept)
        del told["name"]
        drive.copy(files.write_json(here / f"{stem}.json", told))
    shutil.rmtree(here, ignore_errors=True)
    _say_others(cfg, kept)


def _groups(shards: Sequence[Path]) -> list[list[Path]]:
    """Neighbouring shards of about PACK bytes together."""
    groups: list[list[Path]] = []
    size = PACK
    for shard in shards:
        if size >= PACK:
            groups.append([])
            size = 0
        groups[-1].append(shard)
        size += shard.stat().st_size
    return groups


def _packs_on_drive(cfg: Config, kept: Kept) -> dict[tuple[int, int], Path]:
    """Packs that an interrupted call left, by (part, of)."""
    found = {}
    with suppress(OSError):
        for path in _folder(cfg).glob(f"{kept.kind}-*-{kept.key[:6]}-*.safetensors"):
            with suppress(StoreError):
                meta = packs.read_meta(path)
                if meta.get("key") == kept.key:
                    found[meta["part"], meta["of"]] = path
    return found


def _has_room(cfg: Config, kind: str, size: float) -> bool:
    folder = Path(cfg.drive).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return True  # the copies will say what is wrong
    if free > size:
        return True
    print(f"NOT KEPT: {folder} has {gigabytes(free)} free, and the {kind} take about {gigabytes(size)} there.")
    return False


def _say_others(cfg: Config, kept: Kept) -> None:
    others = [other for other in _lists(cfg, kept.kind) if other.key != kept.key]
    if others:
        size = gigabytes(sum(other.bytes for other in others))
        names = ", ".join(f"{other.name}*" for other in others[:4])
        print(
            f"{_folder(cfg)} also keeps {kept.kind} of other settings ({size}): {names}. Delete what you do not need."
        )
