"""Step 3: distil the student from the teacher's labels, and train the same student without a teacher beside it.

What step n trains on is a function of (seed, n) alone: a run that was killed goes on exactly where it was, and ranks
(torchrun) that share a batch learn what one process learns. The order of beginnings is: the newest whole checkpoint
(here or on Drive), else `train.init` (a student file, or the teacher itself cut down), else fresh random weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_utils import prepare
from kd_utils.common import devices, files
from kd_utils.common.errors import TrainError
from kd_utils.config import INITS, VGGS, Config, to_dict, with_defaults
from kd_utils.data.crops import Crops, sample_batch
from kd_utils.models import student, teacher
from kd_utils.models.vgg import load_vgg
from kd_utils.training import checkpoints, initialization, objective, optimizers
from kd_utils.training.validation import TRAINING_FILES, ValidationEvent, validate

NO_TEACHER = "no_teacher"


@dataclass
class Trained:
    student: Path
    no_teacher: Path | None
    history: Path  # of the student
    curve: Path


def learning_rate(t: Any, step: int) -> float:
    """Learning rate: linear warm-up, then half a cosine from `lr` to `lr_end`."""
    if step < t.warmup:
        return t.lr * (step + 1) / t.warmup
    done = (step - t.warmup) / max(1, t.steps - t.warmup)
    return t.lr_end + (t.lr - t.lr_end) * (1 + math.cos(math.pi * min(1, done))) / 2


def train(cfg: Config, watch: Callable[[ValidationEvent], None] | None = None) -> Trained:
    """Step 3. Writes ``student_model.pth`` and, with `train.baseline`, ``train/no_teacher/student_model.pth``.

    `watch` is called at each validation (the notebook's live curve). Under torchrun each rank takes its part of every
    batch, and all learn what one process would; with a perceptual loss only where its sub-crops (`loss.fraction` of the
    batch) can be shared evenly, else each rank takes one at least, more in all than one process takes. Raises
    StoreError for crops or labels of another configuration, TrainError when the loss is not finite.
    """
    index = prepare.read_index(cfg)
    cfg = initialization.resolve_auto_init(cfg, index)
    labels = _check_labels(cfg, index)
    place = devices.ranks()
    if cfg.train.batch % place.world:
        raise TrainError(
            f"train.batch={cfg.train.batch} cannot be shared by {place.world} processes: choose a multiple"
        )
    # once for both trainings: a second joining can meet the addresses that the first left behind
    group = _join(place, devices.resolve_device(cfg.device))
    main = train_student(cfg, "student", index, labels, cfg.path("student_model.pth"), watch, group)
    other = None
    if cfg.train.baseline:
        other = cfg.path("train", NO_TEACHER, "student_model.pth")
        train_student(objective.baseline_config(cfg), NO_TEACHER, index, labels, other, watch, group)
    if group:
        torch.distributed.destroy_process_group()
    return Trained(main, other, cfg.path("train", "student", "history.json"), cfg.path("train", "student", "curve.png"))


def _check_labels(cfg: Config, index: dict[str, Any]) -> dict[str, Any]:
    folder = cfg.path("labels")
    if not (folder / "index.json").is_file():
        raise files.StoreError(f"{folder}/index.json is missing: run step 2 first (python -m kd_utils label)")
    have = files.read_json(folder / "index.json")
    want = teacher.provenance(cfg, *teacher.identify_teacher(cfg.teacher), index["key"])
    files.require_same(str(folder), have, want, f"Choose another --workdir, or delete {folder} and run step 2 again.")
    missing = [e["file"] for e in index["shards"] if not (folder / e["file"]).is_file()]
    if missing:
        raise files.StoreError(f"{folder} lacks {len(missing)} label shards ({missing[0]}): run step 2 again")
    for e in index["shards"]:  # a stopped step 2 of another teacher leaves shards of its own under the old index
        made = want | {"crops_sha256": e["sha256"]}
        files.require_same(str(folder / e["file"]), files.read_meta(folder / e["file"]), made, "Run step 2 again.")
    return have


def provenance(cfg: Config, labels: dict[str, Any]) -> dict[str, Any]:
    """What a training run depends on. How often it is watched and saved does not matter, nor who sums what first."""
    fields = to_dict(cfg, "seed", "scale", "student.", "loss.", "train.")
    if not cfg.loss.uses_vgg:
        fields.pop("loss.vgg")
    for key, words in (("train.init", INITS), ("loss.vgg", VGGS)):
        if (given := fields.get(key)) and given not in words:  # where the file lies does not matter, what it holds does
            fields |= {key: Path(given).name, f"{key}_sha256": files.sha256(Path(given).expanduser())}
    for name in ("compile", "valid_every", "save_every", "keep", "baseline"):
        fields.pop(f"train.{name}")
    return fields | {f"labels.{k}": v for k, v in labels.items()}


def train_student(
    cfg: Config, name: str, index: dict, labels: dict, out: Path, watch: Callable | None, group: bool
) -> Path:
    t, folder = cfg.train, cfg.path("train", name)
    drive = _on_drive(cfg, folder) if cfg.drive else None
    want = provenance(cfg, labels)
    here, there = [folder, out], [drive, _on_drive(cfg, out)] if cfg.drive else []
    remedy = f"Choose another workdir, or delete {', '.join(map(str, here + there))} to train anew."
    place = devices.ranks()
    saved = None if out.is_file() else checkpoints.latest(folder, drive)
    if group:
        require_same_resume_step("the end" if out.is_file() else saved[0] if saved else 0, folder)
    if out.is_file():
        made = student.load(out).meta.get("provenance") or {}
        files.require_same(str(out), made and with_defaults(made, want), want, remedy)
        _keep(cfg, out, folder)  # Drive may have been full, or not asked for, when the training ended
        return out
    device = devices.resolve_device(cfg.device)
    amp = devices.autocast(device, t.dtype)
    if place.rank == 0 and (warning := devices.bf16_warning(device, "train.dtype", t.dtype)):
        print(warning)
    double = amp.dtype == torch.float64
    crops, valid = (Crops(cfg, index, part) for part in ("train", "valid"))
    # what goes on needs no beginning
    net = (
        student.build(cfg.student.size, cfg.scale, cfg.student.expand)
        if saved
        else initialization.initial_student(cfg, crops, device)
    )
    net = net.to(device)
    net = net.double() if double else net
    if device.type == "cuda" or amp.dtype == torch.bfloat16:
        net = net.to(memory_format=torch.channels_last)
    ema = deepcopy(net).requires_grad_(False).eval()
    opt = optimizers.make_optimizer(t.optimizer, net.parameters(), t.lr, t.betas, fused=device.type == "cuda")
    scaler = torch.amp.GradScaler(device.type, enabled=amp.scaler)
    history: dict[str, Any] = {"step": [], "loss": [], "lr": [], "valid": []}
    first = 0
    if saved:
        first, state = saved
        files.require_same(str(folder), with_defaults(state["provenance"], want), want, remedy)
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimizers.load_optimizer_state(opt, state["opt"])
        if state["scaler"]:  # empty from a device that needs none
            scaler.load_state_dict(state["scaler"])
        history = state["history"]
        if place.rank == 0:
            print(f"{name}: goes on from step {first}")
    vgg = load_vgg(cfg.loss.vgg, device=device) if cfg.loss.uses_vgg else None
    if vgg is not None and double:
        vgg.double()
    if t.compile:
        net.compile()  # in place: its state, and all that is made of it, stays a plain student's
    model = (
        torch.nn.parallel.DistributedDataParallel(net, [device] if device.type == "cuda" else None) if group else net
    )
    mine = slice(place.rank * t.batch // place.world, (place.rank + 1) * t.batch // place.world)

    def load(step: int) -> tuple[list[Tensor], np.ndarray]:
        ids, symmetries, positions = (
            a[mine] for a in sample_batch(initialization.training_seed(cfg), step, t.batch, len(crops))
        )
        arrays = crops.batch(ids, symmetries)
        return ([a.pin_memory() for a in arrays] if device.type == "cuda" else arrays), positions

    def save(step: int) -> None:
        if place.rank == 0:
            state = {"provenance": want, "net": net.state_dict(), "ema": ema.state_dict(), "opt": opt.state_dict()}
            checkpoints.save(folder, step, state | {"scaler": scaler.state_dict(), "history": history}, t.keep, drive)

    every = max(1, min(50, t.steps // 100))
    total = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
    step = first
    bar = tqdm(
        total=t.steps, initial=first, desc=f"train {name} ({cfg.student.size})", unit="step", disable=place.rank > 0
    )
    with bar, ThreadPoolExecutor(2) as pool:
        ahead = {s: pool.submit(load, s) for s in range(first, min(first + 3, t.steps))}
        try:
            for step in range(first, t.steps):
                arrays, positions = ahead.pop(step).result()
                if step + 3 < t.steps:
                    ahead[step + 3] = pool.submit(load, step + 3)
                for g in opt.param_groups:
                    g["lr"] = learning_rate(t, step)
                lr, label, hr = (
                    a.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float64 if double else torch.float32)
                    / 255
                    for a in arrays
                )
                with torch.autocast(device.type, amp.dtype, enabled=amp.dtype in (torch.float16, torch.bfloat16)):
                    loss = objective.distillation_loss(cfg, model(lr), label, hr, vgg, positions, step)
                opt.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if t.clip:
                    scaler.unscale_(opt)
                    torch.nn.utils.clip_grad_norm_(net.parameters(), t.clip)
                scaler.step(opt)
                scaler.update()
                _follow(ema, net, min(t.ema, (1 + step) / (10 + step)))
                total += loss.detach()
                bar.update()
                done = step + 1
                if done % every == 0 or done == t.steps:
                    if group:
                        torch.distributed.all_reduce(total)
                    mean = total.item() / ((done - 1) % every + 1) / place.world
                    if not math.isfinite(mean):
                        raise TrainError(
                            f"{name}: the loss is not finite at step {done}; the last good checkpoint is kept in "
                            f"{folder}. Lower train.lr (now {t.lr:g}) or set train.dtype=fp32, and begin in another "
                            "--workdir."
                        )
                    total.zero_()
                    bar.set_postfix(loss=f"{mean:.4f}")
                    for key, value in (("step", done), ("loss", mean), ("lr", learning_rate(t, step))):
                        history[key].append(value)
                if place.rank == 0 and (done % t.valid_every == 0 or done == t.steps):
                    validate(cfg, name, ema, valid, done, history, watch)
                # only where the loss was just looked at: what is saved is known to be good
                if (done % every == 0 and done // t.save_every > (done - every) // t.save_every) or done == t.steps:
                    save(done)
        except KeyboardInterrupt:
            print(f"\n{name}: stopped at step {step}; call again to go on from the last checkpoint")
            raise
        except Exception as e:
            if type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                why = next(iter(str(e).strip().splitlines()), type(e).__name__)
                remedy = "install a C++ compiler (Debian, Ubuntu: apt-get install g++) or set train.compile=no"
                raise TrainError(f"train.compile=yes: torch.compile failed ({why}): {remedy}") from e
            raise
    if place.rank == 0:
        if first == t.steps:  # lost between its last checkpoint and this: its curve and pictures once more
            history["valid"].pop()
            validate(cfg, name, ema, valid, first, history, watch)
        student.save(
            ema, out, {"provenance": want, "versions": prepare.versions(), "run": name, "history": history["valid"][-1]}
        )
        _keep(cfg, out, folder)
    if group:
        torch.distributed.barrier()  # what every rank returns is there
    return out


def _on_drive(cfg: Config, path: Path) -> Path:
    return Path(cfg.drive).expanduser() / path.relative_to(cfg.path())


def _keep(cfg: Config, out: Path, folder: Path) -> None:
    """The student, its curve and its pictures onto Drive, where it is given and does not have them yet."""
    for path in (out, *(folder / n for n in TRAINING_FILES)) if cfg.drive and devices.ranks().rank == 0 else ():
        if path.is_file():
            files.backup(path, _on_drive(cfg, path))


def _join(place: devices.Ranks, device: torch.device) -> bool:
    """Join torchrun's processes, if it started us."""
    if place.world == 1:
        return False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return True


def require_same_resume_step(first: int | str, folder: Path) -> None:
    """Raises TrainError on every rank where they do not all go on from the same step: each would train on its own."""
    steps: list[Any] = [None] * devices.ranks().world
    torch.distributed.all_gather_object(steps, first)
    if len(set(steps)) > 1:
        raise TrainError(
            f"the processes would go on from different steps ({', '.join(map(str, steps))} by rank): {folder} must "
            "hold the same checkpoints on every machine; name a --workdir that all of them share, or copy it"
        )


@torch.no_grad()
def _follow(ema: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
