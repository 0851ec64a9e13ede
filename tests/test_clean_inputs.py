"""train.clean_inputs: crops whose input is their label made smaller."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.training import config

from kd_utils import train
from kd_utils.common import devices
from kd_utils.common.errors import ConfigError
from kd_utils.config import make
from kd_utils.data.crops import Batch, Crops, read_index, sample_batch
from kd_utils.models import student
from kd_utils.training.batches import batches, with_clean_inputs
from kd_utils.training.losses import baseline_config
from kd_utils.workdir import Workdir


def batch_of(n=4, side=32, scale=4):
    rng = np.random.default_rng(5)
    lr, label, hr = (
        torch.from_numpy(rng.integers(0, 256, (n, s, s, 3), np.uint8)) for s in (side // scale, side, side)
    )
    return Batch(lr, label, hr, np.zeros((n, 2)))


def test_the_label_made_smaller_is_the_input_and_the_label_its_answer():
    batch = batch_of()
    batch.label[1] = 37  # of one colour, and so is what is made of it
    batch.hr[2] = 99
    made = with_clean_inputs(batch, np.array([False, True, False, False]), has_teacher=True)
    assert (made.lr[1] == 37).all() and (made.label[1] == 37).all() and (made.hr[1] == 37).all()
    for name in ("lr", "label", "hr"):
        assert torch.equal(getattr(made, name)[[0, 2, 3]], getattr(batch, name)[[0, 2, 3]])

    alone = with_clean_inputs(batch, np.array([False, False, True, False]), has_teacher=False)
    assert (alone.lr[2] == 99).all() and (alone.label[2] == 99).all(), "the baseline sees no label"
    assert with_clean_inputs(batch, np.zeros(4, bool), has_teacher=True) is batch


def test_the_share_is_kept_on_average_and_processes_agree():
    draws = np.concatenate([sample_batch(3, step, 8, 20).draws for step in range(500)])
    assert abs((draws < 0.25).mean() - 0.25) < 0.03
    plan = sample_batch(3, 7, 8, 20)
    parts = [plan.part(rank, 2).draws for rank in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), plan.draws)


def test_a_training_sees_them_and_its_baseline_sees_its_own(labelled, tmp_path):
    off = config(labelled, tmp_path, "loss.perceptual=0 train.steps=6 train.batch=8 student.size=8x2 student.expand=0")
    cfg = replace(off, train=replace(off.train, clean_inputs=0.5))
    crops = Crops(Workdir.of(cfg), read_index(cfg), "train")
    runtime = devices.resolve_runtime("cpu", "fp32", training=True)

    def seen(cfg):
        return next(batches(crops, cfg, 0, runtime, 0))

    before, with_label, with_original = seen(off), seen(cfg), seen(baseline_config(cfg))
    clean = sample_batch(0, 0, 8, len(crops)).draws < 0.5
    assert 0 < clean.sum() < 8
    changed = [not torch.equal(a, b) for a, b in zip(before.lr, with_label.lr, strict=True)]
    assert changed == clean.tolist()
    assert torch.equal(with_label.label, before.label) and torch.equal(with_label.hr[clean], before.label[clean])
    assert torch.equal(with_original.hr, before.hr) and not torch.equal(with_original.lr, with_label.lr)

    made = student.load(train.train(cfg).student).meta["provenance"]
    assert made["train.clean_inputs"] == 0.5
    assert make("quick").train.clean_inputs == 0
    with pytest.raises(ConfigError, match="clean_inputs=0.1 is for scale=4 and 2"):
        make("quick", "scale=1 train.clean_inputs=0.1")
