"""Step 3: distil the student from the teacher's labels, and train the baseline, the same student without a teacher.

What step n trains on is a function of (seed, n) alone. A run that was killed goes on exactly where it was, and
processes (torchrun) that share a batch learn what one process learns. A training begins with the newest whole
checkpoint (here or on Drive), else with `train.init` (a student's file, or the teacher itself cut down), else with
random weights.

Where `train.steps` is raised from A to B, the training goes on from its newest checkpoint, of step a, for B - a steps
with a learning rate that rises and falls anew. Any other change of settings gets a folder of its own
(training/folders.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kd_utils import provenance
from kd_utils.common import devices, progress
from kd_utils.common.devices import Runtime
from kd_utils.common.errors import TrainError
from kd_utils.config import Config
from kd_utils.data.crops import Batch, Crops, read_index
from kd_utils.label import require_labels
from kd_utils.models import student
from kd_utils.models.teacher import resolve_teacher
from kd_utils.models.vgg import VGGFeatures, load_vgg
from kd_utils.training import checkpoints, distributed, drive, folders
from kd_utils.training.adversarial import Critic
from kd_utils.training.batches import batches, to_device
from kd_utils.training.initialization import initial_student, resolve_init, training_seed
from kd_utils.training.losses import baseline_config, crisp_terms_have_begun, distillation_loss
from kd_utils.training.optimizers import learning_rate
from kd_utils.training.run import Run, Watch, after, back_up, hold_alone, save_checkpoint, save_student, sweep
from kd_utils.training.sharper_labels import with_sharper_labels
from kd_utils.training.state import LossMeter, TrainState, update_ema
from kd_utils.training.validation import TRAINING_FILES, ValidationEvent, validate
from kd_utils.workdir import BASELINE, STUDENT, Workdir


@dataclass
class Trained:
    """What step 3 returns."""

    student: Path  # at the top of the work folder
    baseline: Path | None
    history: Path  # of the student, as the two below
    curve: Path
    pictures: Path


def train(cfg: Config, watch: Watch | None = None) -> Trained:
    """Step 3. Writes ``student_model.pth`` and, with `train.baseline`, ``train/no_teacher/student_model.pth``.

    Both are kept under ``train/``, in the folder that these settings have there.
    `watch` is called at each validation (the notebook's live curve). Under torchrun each process takes its part of
    every batch, and all learn what one process would; with a perceptual loss only where its sub-crops (`loss.fraction`
    of the batch) divide evenly among them. Raises StoreError for crops or labels of
    other settings, BusyError while another run trains here, TrainError when the loss is not finite.
    """
    # everything that the settings name is found once, and handed down
    work = Workdir.of(cfg)
    index = read_index(cfg)
    ref = resolve_teacher(cfg)
    cfg = resolve_init(cfg, index, ref, quiet=False)
    labels = require_labels(cfg, work, index, ref)
    runtime = devices.resolve_runtime(cfg.device, cfg.train.dtype, training=True)
    if cfg.train.batch % runtime.world:
        raise TrainError(
            f"train.batch={cfg.train.batch} cannot be shared by {runtime.world} processes: choose a multiple"
        )

    # both trainings share one group of processes: a second group can collide with the first one's ports
    distributed.join_processes(runtime)
    if runtime.is_main:
        folders.restore(work)
        folders.adopt(work)
    distributed.wait_for_all(runtime)

    def run_of(name: str, cfg: Config, copies: drive.Drive | None) -> Run:
        made_of = provenance.training_provenance(cfg, labels)
        folder = folders.find(work, name, made_of)
        return Run(cfg, name, work, folder, index, ref, labels, runtime, watch, copies)

    with drive.copies(work.root, work.drive if runtime.is_main else None) as copies:
        run = run_of(STUDENT, cfg, copies)
        train_student(run)
        trained = Trained(work.student, None, *(run.folder / name for name in TRAINING_FILES))
        if cfg.train.baseline:
            trained.baseline = train_student(run_of(BASELINE, baseline_config(cfg), copies))
    distributed.leave_processes(runtime)
    return trained


def train_student(run: Run) -> Path:
    """Train the student of a run to its end, from where it was; returns its file."""
    with hold_alone(run):
        sweep(run)
        finished = run.is_finished
        saved = None if finished else checkpoints.latest(run.folder, run.drive)
        resume_from = "the end" if finished else saved[0] if saved else 0
        distributed.require_same_resume_step(run.runtime, run.folder, resume_from)
        if not finished:
            fit(after(run, saved), saved)

    if run.runtime.is_main and run.name == STUDENT:
        folders.publish(run.work, run.folder)
    distributed.wait_for_all(run.runtime)  # the files that every process returns are there
    back_up(run)  # Drive may have been full, or not asked for, when the training ended
    return run.out


def fit(run: Run, saved: tuple[int, dict[str, Any]] | None) -> None:
    """Train from a checkpoint, or from the beginning, and write the student."""
    cfg, runtime, settings = run.cfg, run.runtime, run.cfg.train
    part = run.part.train  # logs, validations and checkpoints count from its beginning
    crops, valid = Crops(run.work, run.index, "train"), Crops(run.work, run.index, "valid")
    if runtime.is_main and (warning := devices.bf16_warning(runtime.device, "train.dtype", settings.dtype)):
        print(warning)

    state = _start(run, crops, saved)
    vgg = _load_vgg(cfg, runtime)
    model = distributed.share_gradients(state.net, runtime)
    log_every = max(1, min(50, part.steps // 100))
    meter = LossMeter(runtime)

    bar = tqdm(
        total=settings.steps,
        initial=state.step,
        desc=f"train {run.title} ({cfg.student.size})",
        unit="step",
        disable=not runtime.is_main,
    )
    with bar, _stops_clearly(run, state):
        for batch in batches(crops, cfg, training_seed(cfg), runtime, state.step):
            loss = train_step(run, state, model, batch, vgg)
            meter.add(loss)
            bar.update()
            done = state.step - run.begin

            logged = done % log_every == 0 or done == part.steps
            if logged:
                mean = meter.mean()
                _require_finite(run, state.step, mean)
                bar.set_postfix({"loss": f"{mean:.4f}"} | progress.beside(bar, runtime.device, settings.batch))
                state.history.add(state.step, mean, learning_rate(part, done - 1))
            if runtime.is_main and (done % part.valid_every == 0 or done == part.steps):
                _validate(run, state, valid)
            # a checkpoint follows a look at the loss, so that what is saved is known to be good
            save_due = done // part.save_every > (done - log_every) // part.save_every
            if (logged and save_due) or done == part.steps:
                save_checkpoint(run, state)

    if runtime.is_main:
        if saved and saved[0] == settings.steps:  # killed after the last checkpoint, before the student was written
            state.history.valid.pop()
            _validate(run, state, valid)
        save_student(run, state)


def train_step(run: Run, state: TrainState, model: nn.Module, batch: Batch, vgg: VGGFeatures | None) -> Tensor:
    """One update of the weights; returns the loss of the batch, a detached scalar."""
    settings, optimizer, scaler = run.cfg.train, state.optimizer, state.scaler
    step = state.step - run.begin  # of this part, for what rises and falls over it
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(run.part.train, step)

    # forward
    batch = to_device(batch, run.runtime)
    with run.runtime.autocast():
        pred = model(batch.lr)  # (N, 3, H, W)
        if run.part.loss.usm:
            batch = with_sharper_labels(batch, pred, run.part.loss.usm)
        loss = distillation_loss(run.part, pred, batch, vgg, step)
        critic = state.critic if crisp_terms_have_begun(run.part, step) else None
        if critic:
            loss = loss + run.cfg.loss.adversarial * critic.student_loss(batch, pred)

    # backward
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    if settings.clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(state.net.parameters(), settings.clip)

    # update; the running mean follows quickly at first, when the weights still move fast
    scaler.step(optimizer)
    scaler.update()
    decay = min(settings.ema, (1 + state.step) / (10 + state.step))
    update_ema(state.ema, state.net, decay)
    if critic:
        critic.train_step(batch, pred.detach())
    state.step += 1
    return loss.detach()


# ---- the parts of fit


def _start(run: Run, crops: Crops, saved: tuple[int, dict[str, Any]] | None) -> TrainState:
    """The state of a training before its next step."""
    cfg, runtime = run.cfg, run.runtime
    if saved:  # a resumed run needs no initial weights
        net = student.build(cfg.student.size, cfg.scale, cfg.student.expand)
    else:
        net = initial_student(cfg, run.teacher, crops, runtime.device)

    state = TrainState.initial(net, cfg.train, runtime)
    if cfg.loss.adversarial:
        state.critic = Critic(cfg, training_seed(cfg), runtime)
    if saved:
        state.restore(*saved)
        if runtime.is_main:
            _say_how_it_goes_on(run, state.step)
    if runtime.is_main and (kept := folders.keep_shorter(run.folder)):
        print(f"{run.title}: what it was before is kept in {kept}")
    if cfg.train.compile:
        state.net.compile()  # in place: its state, and all that is made of it, stays a plain student's
    return state


def _say_how_it_goes_on(run: Run, step: int) -> None:
    said = f"{run.title}: goes on from step {step}"
    if run.chain and step == run.begin:
        part = run.part.train
        said += (
            f" of {run.chain[-1][0]} to {run.cfg.train.steps}. The learning rate rises to {part.lr:g} in {part.warmup} "
            f"steps and falls to {part.lr_end:g} anew, so this is not what {run.cfg.train.steps} steps at once give"
        )
    print(said)


def _load_vgg(cfg: Config, runtime: Runtime) -> VGGFeatures | None:
    if not cfg.loss.uses_vgg:
        return None
    vgg = load_vgg(cfg.loss.vgg, device=runtime.device)
    return vgg.double() if runtime.dtype == torch.float64 else vgg


def _require_finite(run: Run, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainError(
            f"{run.title}: the loss is not finite at step {step}; the last good checkpoint is kept in {run.folder}. "
            f"Lower train.lr (now {run.cfg.train.lr:g}) or set train.dtype=fp32."
        )


def _validate(run: Run, state: TrainState, valid: Crops) -> None:
    pictures = validate(run.cfg, run.name, run.folder, state.ema, valid, state.step, state.history)
    if run.watch:
        run.watch(ValidationEvent(run.name, state.history, pictures))


@contextmanager
def _stops_clearly(run: Run, state: TrainState) -> Iterator[None]:
    """An interrupt says where the training stopped, and a compiler that fails says what to install."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{run.title}: stopped at step {state.step}; call again to go on from the last checkpoint")
        raise
    except Exception as e:
        if not type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = next(iter(str(e).strip().splitlines()), type(e).__name__)
        remedy = "install a C++ compiler (Debian, Ubuntu: apt-get install g++) or set train.compile=no"
        raise TrainError(f"train.compile=yes: torch.compile failed ({why}): {remedy}") from e
