"""The presets: what each changes from the defaults in config.py, as dotted keys."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {  # a CPU, minutes; its teacher's weights come by pip (docs/LOG.md says how its settings were chosen)
        "teacher": "anime_6B",
        "data.photos": "samples",
        "data.valid_count": 1,
        "data.crop": 192,
        "data.crops_per_photo": 24,  # the teacher takes most of a second for each
        "data.valid_crops_per_photo": 12,
        "data.test_side": 384,
        "degrade.profile": "mixed",  # on light degradation the teacher hardly differs from the original
        "student.size": "s",
        "loss.vgg": "random",
        "loss.crop": 32,
        "train.init": "student_x4_photo_s",  # which never saw this teacher
        "train.steps": 400,
        "train.batch": 8,
        "train.optimizer": "soap",
        "train.lr": 1.5e-3,
        "train.warmup": 30,
        "train.ema": 0.98,
        "train.valid_every": 100,
        "train.save_every": 100,
        "eval.time_side": 96,
        "eval.time_repeats": 3,
    },
    "adapt": {  # the student that ships, fitted to photos of one's own on a CPU in minutes
        "teacher": "anime_6B",
        "data.photos": "samples",
        "data.valid_count": 1,
        "data.crop": 192,
        "data.crops_per_photo": 16,
        "data.valid_crops_per_photo": 12,
        "data.test_side": 384,
        "degrade.profile": "mixed",
        "student.expand": 0,  # the fit is short: what a wide kernel learns better it has no time for
        "train.init": "shipped",
        "train.steps": 400,
        "train.batch": 8,
        "train.lr": 2e-4,
        "train.warmup": 20,
        "train.ema": 0.98,
        "train.valid_every": 100,
        "train.save_every": 100,
        "train.baseline": False,  # the report compares with where the student began
        "eval.time_side": 96,
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
