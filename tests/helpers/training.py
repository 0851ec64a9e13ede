"""A tiny problem to train on: 8x8 bodies, a random teacher, a few steps."""

import torch

from kd_utils.config import make

TINY = (
    "data.crop=32 data.crops_per_photo=4 data.valid_crops_per_photo=2 data.test_side=64 loss.perceptual=0.02 "
    "loss.margin=1 loss.crop=16 "
    "loss.fraction=0.5 train.init= train.steps=12 train.batch=4 train.warmup=2 train.valid_every=6 train.save_every=2 "
    "train.lr=1e-3"
)


def config(labelled, tmp_path, more=""):
    """A work folder of its own that shares the crops and labels."""
    root, sets = labelled
    tmp_path.mkdir(exist_ok=True, parents=True)
    for part in ("crops", "labels"):
        if not (tmp_path / part).exists():
            (tmp_path / part).symlink_to(root / part)
    return make("quick", f"{sets} {more}", workdir=str(tmp_path))


def weights(path):
    return torch.load(path, weights_only=True)["params"]


def difference(a, b):
    a, b = weights(a), weights(b)
    return max((a[k] - b[k]).abs().max().item() for k in a)
