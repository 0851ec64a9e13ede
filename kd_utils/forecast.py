"""What a notebook's settings will take, said before it is spent: downloads, room on Drive, time on this machine."""

from __future__ import annotations

import time

from kd_utils.config import Config
from kd_utils.models import student

DIV2K_PHOTOS = 800
PACED = 20  # seconds of training that are not worth a word
SAMPLES = 2  # crops in the batch whose step is timed


def say(cfg: Config, form: set[str]) -> None:
    """Print it. `form` holds the names that the notebook's form sets: it says which steps the notebook takes."""
    if cfg.drive_data:
        _say_drive(cfg)
    _say_downloads(cfg, form)
    if "steps" in form:
        _say_time(cfg)


def _say_downloads(cfg: Config, form: set[str]) -> None:
    from kd_utils.common import cache, sources

    wanted = []
    if "photos" in form and cfg.data.photos == "DIV2K" and not _crops_on_drive(cfg):
        wanted += ["div2k_train", "div2k_valid"]
    # their teacher comes by pip, a wheel of 46 MB: not worth a warning
    if "teacher" in form and cfg.teacher in sources.SOURCES and cfg.preset not in ("quick", "adapt"):
        wanted.append(cfg.teacher)
    if "steps" in form and cfg.loss.uses_vgg and cfg.loss.vgg == "imagenet":
        wanted.append("vgg19")

    folder = cache.cache_folder()
    ahead = [sources.SOURCES[name] for name in wanted]
    ahead = [source for source in ahead if not (folder / source.file).is_file()]
    if ahead:
        total = sum(source.bytes for source in ahead) / 1e9
        names = ", ".join(source.name for source in ahead)
        print(f"Downloads {total:.1f} GB first ({names}), kept in {folder}.")


def _say_drive(cfg: Config) -> None:
    from kd_utils.training import drive_data

    if not cfg.drive:
        print("drive_data keeps nothing without `drive`: tick both.")
    elif cfg.data.photos == "DIV2K" and not _crops_on_drive(cfg):
        hr = cfg.data.crop**2 * 3
        crops = DIV2K_PHOTOS * cfg.data.crops_per_photo
        raw = crops * hr * (2 + 1 / cfg.scale**2)  # original, label, LR
        size = drive_data.gigabytes(drive_data.RATIO * raw)
        print(f"Crops and labels will take about {size} on Google Drive (drive_data).")


def _crops_on_drive(cfg: Config) -> bool:
    from kd_utils.prepare import made_from
    from kd_utils.training import drive_data

    return drive_data.is_on(cfg) and drive_data.find(cfg, "crops", made_from=made_from(cfg)) is not None


# ---- time


def _say_time(cfg: Config) -> None:
    """How long the training takes on this CPU, by a few timed steps. A GPU is not timed: it only warms up in so few."""
    from kd_utils.common import devices

    if devices.resolve_device(cfg.device).type != "cpu":
        return
    seconds = training_seconds(cfg)
    if seconds < PACED:
        return
    said = f"On this CPU the training takes about {_spoken(seconds)}."
    if seconds > 3600:
        said = (
            f"NO GPU: {said} On Colab choose Runtime > Change runtime type > T4 GPU; or take the preset quick, "
            "which is made for a CPU."
        )
    print(said)


def training_seconds(cfg: Config) -> float:
    """Seconds that step 3 takes on this CPU, baseline included, without the perceptual loss; by timing its network."""
    import torch

    side = cfg.data.crop // cfg.scale
    state = torch.random.get_rng_state()
    x = torch.rand(SAMPLES, 3, side, side)
    net = student.build(cfg.student.size, cfg.scale, cfg.student.expand).train()
    torch.random.set_rng_state(state)  # what is timed changes nothing

    times = []
    for _ in range(3):
        began = time.perf_counter()
        net(x).abs().mean().backward()
        times.append(time.perf_counter() - began)
    trainings = 2 if cfg.train.baseline else 1
    return min(times) * cfg.train.steps * cfg.train.batch / SAMPLES * trainings


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} hours"
    return f"{seconds / 86400:.0f} days"
