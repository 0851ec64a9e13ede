"""Step 2: the teacher's labels, what it makes of every LR crop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from kd_utils import provenance
from kd_utils.common import devices, files, locks, progress
from kd_utils.common.devices import Runtime
from kd_utils.common.errors import ConfigError, StoreError, TeacherError
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.config import Config
from kd_utils.data.crops import CropIndex, Shard, load_shard, read_index
from kd_utils.models import ncnn_run, pruning, student
from kd_utils.models.teacher import Teacher, TeacherRef, load_teacher, resolve_teacher, teacher_target
from kd_utils.provenance import Provenance
from kd_utils.training import drive_data
from kd_utils.training.drive_data import Kept
from kd_utils.workdir import Workdir


@dataclass
class Labelled:
    """What step 2 returns."""

    folder: Path
    shards: int
    crops: int
    made: int  # crops labelled by this call; the rest was there
    teacher: TeacherRef


def label(cfg: Config) -> Labelled:
    """Step 2: one shard of labels for each shard of crops, in ``labels/``; it resumes after a kill.

    With many processes (torchrun, or several machines on one folder) rank r takes the shards r, r + world, ...; the
    bytes of a shard do not depend on how many took part, as batches never cross a shard's end. Raises StoreError where
    the crops or the labels that are there are of other settings, BusyError while another process makes such labels
    there, and TeacherError.
    """
    work = Workdir.of(cfg)
    index = read_index(cfg)
    runtime = devices.resolve_runtime(cfg.device, cfg.label.dtype)
    ref = resolve_teacher(cfg)

    teacher = load_teacher(ref, runtime.device)
    engine = choose_engine(cfg, work, ref, runtime)
    if cfg.train.init == "teacher":  # to fail before the labels are made
        pruning.check(teacher.compact(), *student.shape(cfg.student.size))

    want = provenance.labels_provenance(cfg, ref, index.key, engine)
    with locks.hold(work.labels, files.digest(want)):
        files.sweep(work.labels)
        # labels may be hours of work, and perhaps another run's, as their folder can be linked: never written over
        if work.label_index.is_file():
            provenance.require_same(work.labels, files.read_json(work.label_index, dict), want)
        elif drive_data.is_on(cfg) and (kept := drive_data.find(cfg, "labels", files.digest(want))):
            drive_data.restore(cfg, kept)
        if runtime.is_main:
            _print_teacher_and_warnings(cfg, ref, runtime)
        if engine == "ncnn":
            teacher.net = ncnn_run.load(teacher)
        made = _label_shards(cfg, work, index, teacher, runtime, want)

    if drive_data.is_on(cfg):
        shards = [work.labels / shard.file for shard in index.shards]
        drive_data.keep(cfg, Kept("labels", files.digest(want), {}, [], 0), shards)
    return Labelled(work.labels, len(index.shards), index.count("train") + index.count("valid"), made, ref)


def choose_engine(cfg: Config, work: Workdir, ref: TeacherRef, runtime: Runtime) -> str:
    """What computes the teacher, "torch" or "ncnn". Raises ConfigError where ncnn cannot."""
    if engine := _engine_of(cfg, work):
        if engine == "ncnn" and runtime.device.type != "cpu":
            raise ConfigError(
                f"label.engine=ncnn computes on the CPU, not on {runtime.device}: set device=cpu, or label.engine=torch"
            )
        return engine
    is_plain_cpu = runtime.device.type == "cpu" and runtime.dtype == torch.float32
    return "ncnn" if is_plain_cpu and ncnn_run.can_run(ref.path) else "torch"


def _engine_of(cfg: Config, work: Workdir) -> str:
    """The engine that is asked for, or that made the labels that are there; "" where it is to be chosen."""
    if cfg.label.engine != "auto":
        return cfg.label.engine
    if work.label_index.is_file():
        return files.read_json(work.label_index, dict).get("label.engine", "torch")
    return ""


def _label_shards(
    cfg: Config, work: Workdir, index: CropIndex, teacher: Teacher, runtime: Runtime, want: Provenance
) -> int:
    """Label this process's shards that are missing, while the folder is held; returns the number of their crops."""
    todo = missing_labels(work, index.shards[runtime.rank :: runtime.world], want, quiet=not runtime.is_main)
    crops = sum(shard.count for shard in todo)
    with tqdm(
        total=crops, unit="crop", desc=f"labels by {teacher.ref.name}", disable=not (runtime.is_main and todo)
    ) as bar:
        for shard in todo:
            labels = _label_shard(cfg, work, teacher, runtime, shard, bar)
            files.save_arrays(work.labels / shard.file, {"label": labels}, label_meta(want, shard))

    if runtime.is_main:
        files.delete_stale_shards(work.labels, {shard.file for shard in index.shards})
        files.write_json(work.label_index, want)
    return crops


def _print_teacher_and_warnings(cfg: Config, ref: TeacherRef, runtime: Runtime) -> None:
    if ref.is_stand_in:
        print(f"Teacher: {ref.name}, a student of our own that stands in for Real-ESRGAN (nothing is downloaded).")
    elif ref.remark:
        print(f"Teacher: {ref.name}, {ref.remark}.")
    if warning := devices.bf16_warning(runtime.device, "label.dtype", cfg.label.dtype):
        print(warning)


def label_meta(want: Provenance, shard: Shard) -> Provenance:
    """What the header of a shard of labels says."""
    return want | {"crops_sha256": shard.sha256}


def missing_labels(work: Workdir, shards: list[Shard], want: Provenance, quiet: bool = False) -> list[Shard]:
    """Those of `shards` whose labels are not there, are damaged, or are of another provenance."""
    bar = tqdm(shards, desc="checking labels", unit="shard", delay=3, leave=False, disable=quiet)
    return [s for s in bar if not files.is_made(work.labels / s.file, **label_meta(want, s))]


def _label_shard(cfg: Config, work: Workdir, teacher: Teacher, runtime: Runtime, shard: Shard, bar: tqdm) -> np.ndarray:
    """The labels of a shard of crops, uint8 (n, H, W, 3)."""
    lr = load_shard(work, shard)["lr"]
    labels = []
    for start in range(0, len(lr), cfg.label.batch):
        batch = lr[start : start + cfg.label.batch]
        labels.append(_label_batch(cfg, teacher, runtime, batch))
        bar.update(len(batch))
        bar.set_postfix(progress.beside(bar, runtime.device), refresh=False)
    return np.concatenate(labels)


def _label_batch(cfg: Config, teacher: Teacher, runtime: Runtime, lr: np.ndarray) -> np.ndarray:
    """uint8 (N, h, w, 3) -> uint8 (N, h*scale, w*scale, 3). Raises TeacherError for labels that are not finite."""
    x = to_tensor(lr, runtime.device)  # (N, 3, h, w)
    if runtime.dtype == torch.bfloat16:  # a CPU's bf16 kernels want this order; in fp32 it would move the last bits
        x = x.contiguous(memory_format=torch.channels_last)
    with runtime.autocast():
        y = teacher_target(teacher.net, x, cfg.scale, cfg.label.input_scale)

    if not y.isfinite().all():
        kind = str(runtime.dtype).removeprefix("torch.")
        raise TeacherError(
            f"{teacher.ref.name} gives labels that are not finite in {kind} on {runtime.device}: its file is damaged, "
            "or it cannot be computed so here; try label.dtype=fp32"
        )
    return to_uint8(y)


def require_labels(cfg: Config, work: Workdir, index: CropIndex, ref: TeacherRef) -> Provenance:
    """The provenance of the labels in the work folder. StoreError where there are none, or others."""
    if not work.label_index.is_file():
        raise StoreError(f"{work.label_index} is missing: run step 2 first (python -m kd_utils label)")
    have = files.read_json(work.label_index, dict)
    want = provenance.labels_provenance(cfg, ref, index.key, _engine_of(cfg, work))
    provenance.require_same(work.labels, have, want)

    missing = [s.file for s in index.shards if not (work.labels / s.file).is_file()]
    if missing:
        raise StoreError(f"{work.labels} lacks {len(missing)} label shards ({missing[0]}): run step 2 again")
    # an interrupted step 2 of another teacher can leave its shards under the old index
    for shard in index.shards:
        path = work.labels / shard.file
        provenance.require_same(path, files.read_meta(path), label_meta(want, shard), "Run step 2 again.")
    return have
