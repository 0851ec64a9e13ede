"""What a work folder and its Drive hold: what is whole, what is damaged, and from where a run would go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kd_utils.common import files
from kd_utils.common.errors import KDError
from kd_utils.data import packs
from kd_utils.data.crops import CropIndex, load_shard
from kd_utils.models import student
from kd_utils.training import checkpoints, drive_data, folders
from kd_utils.workdir import BASELINE, STUDENT, STUDENT_FILE, Workdir

GOOD, DAMAGED, RESUMABLE, MISSING = "good", "DAMAGED", "resumable", "not made"


@dataclass
class Found:
    """One part of a work folder."""

    what: str
    state: str
    detail: str


def inspect_workdir(work: Workdir) -> Iterator[Found]:
    """Everything in a work folder and on its Drive, each file read to its end and verified."""
    try:
        index = CropIndex.read(work.crop_index) if work.crop_index.is_file() else None
    except KDError as e:
        index = None
        yield Found("crops", DAMAGED, str(e))
    else:
        yield _crops(work, index)
        yield _labels(work, index)
    if work.drive:
        yield from _packs(work.drive / drive_data.FOLDER)

    for root in (work.root, work.drive):
        if root:
            place = Workdir(root)
            where = "" if root == work.root else " on Drive"
            yield _student(place.student, "student", where)
            for kind in (STUDENT, BASELINE):
                for name in folders.names(place, kind) or [kind]:
                    yield from _training(place.training(name), where)


def _crops(work: Workdir, index: CropIndex | None) -> Found:
    if not index:
        begun = len(list(work.crops.glob("*.safetensors")))
        state = RESUMABLE if begun else MISSING
        return Found("crops", state, f"{begun} shards, no index: run step 1 (python -m kd_utils prepare)")
    bad = []
    for shard in index.shards + index.test:
        try:
            load_shard(work, shard)
        except KDError:
            bad.append(shard.file)
    return _shards("crops", len(index.shards + index.test), bad, "1 (python -m kd_utils prepare)")


def _labels(work: Workdir, index: CropIndex | None) -> Found:
    if not index or not work.label_index.is_file():
        begun = len(list(work.labels.glob("*.safetensors")))
        state = RESUMABLE if begun else MISSING
        return Found("labels", state, f"{begun} shards, no index: run step 2 (python -m kd_utils label)")
    try:
        want = files.read_json(work.label_index, dict)
    except KDError as e:
        return Found("labels", DAMAGED, str(e))
    if want.get("crops") != index.key:
        return Found("labels", DAMAGED, f"they are of other crops than {work.crops}: delete {work.labels}, run step 2")
    bad = []
    for shard in index.shards:
        if not files.is_made(work.labels / shard.file, **want, crops_sha256=shard.sha256):
            bad.append(shard.file)
    return _shards("labels", len(index.shards), bad, "2 (python -m kd_utils label)")


def _shards(what: str, total: int, bad: list[str], step: str) -> Found:
    if not bad:
        return Found(what, GOOD, f"{total} shards")
    return Found(what, DAMAGED, f"{len(bad)} of {total} shards ({', '.join(bad[:3])}): step {step} makes them again")


def _packs(folder: Path) -> Iterator[Found]:
    """The crops and labels that are kept on Drive: each list with its packs, then the packs that no list names yet."""
    listed: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        what = f"{path.name.partition('-')[0]} on Drive"
        try:
            kept = drive_data.read_list(path)
        except KDError as e:
            yield Found(what, DAMAGED, f"{e}: delete it")
            continue
        listed.update(kept.packs)
        bad = [name for name in kept.packs if not _is_whole_pack(folder / name)]
        if bad:
            remedy = f"delete {', '.join(bad)} and {path.name} in {folder}, and the step keeps them there again"
            yield Found(what, DAMAGED, f"{len(bad)} of {len(kept.packs)} files: {remedy}")
        else:
            size = drive_data.gigabytes(kept.bytes)
            yield Found(what, GOOD, f"{len(kept.packs)} files, {size} ({kept.name})")

    for path in sorted(folder.glob("*.safetensors")):
        if path.name in listed:
            continue
        what = f"{path.name.partition('-')[0]} on Drive"
        if _is_whole_pack(path):
            yield Found(what, RESUMABLE, f"{path.name}, in no list yet: the step goes on with it")
        else:
            yield Found(what, DAMAGED, f"{path}: delete it")


def _is_whole_pack(path: Path) -> bool:
    try:
        packs.verify(path)
    except (KDError, OSError):
        return False
    return True


def _training(folder: Path, where: str) -> Iterator[Found]:
    """A training's student and checkpoints. An older version left the student at the top alone."""
    what = folder.name.replace(BASELINE, "baseline", 1)
    own = folder / STUDENT_FILE
    if own.is_file() or folder.name == BASELINE:
        yield _student(own, what, where)
    yield from _checkpoints(folder, what, where)


def _student(path: Path, what: str, where: str) -> Found:
    what += where
    if not path.is_file():
        return Found(what, MISSING, "")
    try:
        net = student.load(path)
    except KDError as e:
        return Found(what, DAMAGED, f"{e}. Step 3 makes it again from its last checkpoint")
    made = net.meta.get("provenance") or {}
    return Found(what, GOOD, f"{path}, x{net.scale}, {made.get('train.steps', 'unknown')} steps")


def _checkpoints(folder: Path, what: str, where: str) -> Iterator[Found]:
    what += "'s checkpoints" + where
    whole: list[Path] = []
    for path in checkpoints.found(folder):
        if checkpoints.is_whole(path):
            whole.append(path)
        else:
            yield Found(what, DAMAGED, f"{path}: delete it")
    if whole:
        step = int(whole[0].name.split("-")[1])
        yield Found(what, RESUMABLE, f"{len(whole)} whole, the newest of step {step}")
