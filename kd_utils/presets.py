"""The three presets: what each changes from the defaults in config.py, as dotted keys."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {  # CPU, minutes, nothing downloaded
        "teacher": "student_x4_m",
        "data.photos": "samples",
        "data.valid_count": 1,
        "data.crop": 192,
        "data.crops_per_photo": 64,
        "data.valid_crops_per_photo": 12,
        "data.test_side": 384,
        "degrade.profile": "light",
        "student.size": "s",
        "loss.perceptual": 0.02,
        "loss.vgg": "random",
        "loss.crop": 32,
        "train.init": "auto",
        "train.steps": 400,
        "train.batch": 8,
        "train.optimizer": "soap",
        "train.lr": 3e-3,
        "train.warmup": 30,
        "train.ema": 0.98,
        "train.valid_every": 100,
        "train.save_every": 100,
        "eval.time_repeats": 3,
    },
    "colab": {  # a free T4 session with room to spare (docs/LOG.md says how long and how that was estimated)
        "data.photos": "DIV2K",
        "data.crops_per_photo": 16,
        "data.test_side": 1024,
        "degrade.profile": "mixed",
        "label.batch": 32,
        "loss.perceptual": 0.01,  # more costs PSNR and sharpens nothing (docs/LOG.md)
        "train.steps": 30_000,
        "train.batch": 32,
        "eval.limit": 50,
    },
    "full": {  # a patient user
        "data.photos": "DIV2K",
        "data.crops_per_photo": 48,
        "degrade.profile": "mixed",
        "label.batch": 64,
        "student.size": "l",
        "loss.perceptual": 0.01,  # more costs PSNR and sharpens nothing (docs/LOG.md)
        "train.steps": 300_000,
        "train.batch": 32,
        "train.valid_every": 5000,
        "train.save_every": 2000,
    },
}
