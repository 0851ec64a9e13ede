"""The adversarial term: a discriminator that learns, when it begins, and that a stopped training goes on exactly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.training import config, difference

from kd_utils import train
from kd_utils.common import devices
from kd_utils.common.errors import ConfigError
from kd_utils.config import make
from kd_utils.data.crops import Batch
from kd_utils.models import student
from kd_utils.training import checkpoints, losses
from kd_utils.training.adversarial import Critic
from kd_utils.training.run import Run
from kd_utils.workdir import STUDENT

ON = "loss.adversarial=0.1 loss.perceptual=0 student.size=8x2 student.expand=0 train.baseline=no"


def test_it_learns_to_tell_soft_pictures_from_labels():
    random = torch.Generator().manual_seed(2)
    label = F.interpolate(torch.rand(4, 3, 16, 16, generator=random), scale_factor=2)  # hard edges
    lr, soft = F.avg_pool2d(label, 4), F.avg_pool2d(label, 3, 1, 1)
    batch = Batch(lr, label, label, np.zeros((4, 2)))
    cfg = make("quick", "loss.adversarial=1 loss.adversarial_crop=32 loss.adversarial_lr=0.001")
    critic = Critic(cfg, 0, devices.resolve_runtime("cpu", "fp32", training=True))

    # how many steps it takes differs from one processor to another: 200 to 300 were seen
    for _ in range(1000):
        critic.train_step(batch, soft)
        crisp_loss, soft_loss = (critic.student_loss(batch, x).item() for x in (label, soft))
        if crisp_loss < -1 and soft_loss > 1:
            break
    assert crisp_loss < -1 and soft_loss > 1, "labels score above 1, as the hinge asks, soft pictures below -1"

    # the student is told what to change, the discriminator is not changed by it
    before = [p.clone() for p in critic.net.parameters()]
    picture = soft.clone().requires_grad_(True)
    critic.student_loss(batch, picture).backward()
    assert picture.grad.abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, critic.net.parameters(), strict=True))


def test_it_begins_where_it_is_asked_to(labelled, tmp_path):
    def trained(name, more):
        cfg = config(labelled, tmp_path / name, f"{ON} train.save_every=6 train.keep=9 {more}")
        return train.train(cfg).student, tmp_path / name / "train" / "student"

    off, off_folder = trained("off", "loss.adversarial=0")
    late, late_folder = trained("late", "loss.crisp_start=0.5")
    never, _ = trained("never", "loss.crisp_start=1")
    assert difference(off, never) == 0 and difference(off, late) > 0

    # up to the half of the 12 steps it is the training without it
    halves = {}
    for name, folder in (("off", off_folder), ("late", late_folder)):
        path = next(p for p in checkpoints.found(folder) if p.name.startswith("step-00000006"))
        halves[name] = torch.load(path, weights_only=True)
    net = [halves[name]["net"] for name in ("off", "late")]
    assert all(torch.equal(net[0][key], net[1][key]) for key in net[0])
    with pytest.raises(ConfigError, match="crisp_start"):
        make("quick", "loss.crisp_start=1.5")


def test_what_has_begun_stays_where_the_steps_are_raised(labelled, tmp_path):
    cfg = config(labelled, tmp_path, f"{ON} loss.crisp_start=0.5 train.steps=40")

    def begins(*chain):
        part = Run(cfg, STUDENT, *[None] * 7, chain=chain).part
        return next(step for step in range(40) if losses.crisp_terms_have_begun(part, step))

    assert begins() == 20
    assert begins([20, 20]) == 0, "its last ten steps were crisp"
    assert begins([20, 8]) == 16, "stopped before: half of the 32 that are left"
    assert begins([20, 8], [30, 28]) == 0


def test_a_step_without_a_term_is_refused():
    with pytest.raises(ConfigError, match="leaves a step nothing to learn from"):
        make("quick", "loss.teacher=0 loss.gt=0 loss.gt_end=1 loss.screen=1 loss.perceptual=0 loss.crisp_start=0.5")
    assert make("quick", "loss.teacher=0 loss.gt=0 loss.gt_end=1 loss.screen=1 loss.perceptual=0").loss.screen == 1
    assert losses.baseline_config(make("quick", "loss.crisp_start=0.5")).loss.crisp_start == 0


def test_a_stopped_training_goes_on_exactly(labelled, tmp_path):
    whole = train.train(config(labelled, tmp_path / "whole", ON)).student
    cfg = config(labelled, tmp_path / "again", ON)
    train.train(cfg)
    folder = tmp_path / "again" / "train" / "student"
    for path in (
        folder / "student_model.pth",
        tmp_path / "again" / "student_model.pth",
        *checkpoints.found(folder)[1:],
    ):
        path.unlink()
    newest = checkpoints.found(folder)[0]
    assert "critic" in torch.load(newest, weights_only=True)
    again = train.train(cfg).student
    assert difference(whole, again) == 0 and student.load(again).feat == 8
