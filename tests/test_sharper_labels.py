"""loss.usm: labels made sharper where the student is softer than they are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.images import photo
from helpers.training import config, difference
from scipy.ndimage import gaussian_filter

from benchmarks import card
from kd_utils import train
from kd_utils.common.errors import ConfigError
from kd_utils.common.tensors import to_tensor
from kd_utils.config import make, to_dict
from kd_utils.data.crops import Batch, Crops, read_index
from kd_utils.evaluation import metrics, protocol
from kd_utils.evaluation.scores import Evaluation
from kd_utils.models import student
from kd_utils.training.losses import baseline_config
from kd_utils.training.sharper_labels import SIGMA, steepness, with_sharper_labels
from kd_utils.workdir import Workdir


def batch_of(*labels):
    label = to_tensor(np.stack(labels))
    return Batch(label[..., ::4, ::4], label, label.flip(-1), np.zeros((len(label), 2)))


def blurred(label):
    return np.stack([gaussian_filter(label[..., c].astype(float), SIGMA) for c in range(3)], 2)


def test_it_is_an_unsharp_mask_as_strong_as_the_student_is_soft():
    labels = [photo(96, 80, seed) // 2 + 60 for seed in range(2)]  # far from black and white, so nothing is cut off
    soft = np.stack([blurred(label) for label in labels]).round().astype(np.uint8)
    batch = batch_of(*labels)
    made = with_sharper_labels(batch, to_tensor(soft), amount=0.8)
    for label, pred, sharper in zip(labels, soft, made.label, strict=True):
        softness = 1 - metrics.sharpness(pred, label, 0)
        want = label + 0.8 * softness * (label - blurred(label))
        got = sharper.permute(1, 2, 0).numpy() * 255
        inside = slice(12, -12)
        np.testing.assert_allclose(got[inside, inside], want[inside, inside], atol=0.1)
        assert softness > 0.3 and metrics.sharpness(got.round().astype(np.uint8), label, 0) > 1.05

    for name in ("lr", "hr", "positions"):
        assert getattr(made, name) is getattr(batch, name)


def test_a_crisp_student_a_flat_label_and_white_stay():
    crisp, flat = photo(48, 48), np.full((48, 48, 3), 90, np.uint8)
    batch = batch_of(crisp, flat)
    same = with_sharper_labels(batch, batch.label, amount=2)
    torch.testing.assert_close(same.label, batch.label)
    noise = 0.2 * torch.randn(batch.label.shape, generator=torch.Generator().manual_seed(1))
    noisy = with_sharper_labels(batch, batch.label + noise, amount=2)
    torch.testing.assert_close(noisy.label, batch.label)  # sharper than its label: nothing is asked for

    board = 255 * (np.indices((48, 48)).sum(0) // 8 % 2)[..., None].repeat(3, 2).astype(np.uint8)
    pred = torch.full((1, 3, 48, 48), 0.5)
    bounded = with_sharper_labels(batch_of(board), pred, amount=2).label
    assert bounded.min() >= 0 and bounded.max() <= 1


def test_half_precision_of_the_training_does_not_round_labels():
    batch = batch_of(photo(64, 48))
    pred = torch.full_like(batch.label, 0.5)
    want = with_sharper_labels(batch, pred, amount=1).label
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(with_sharper_labels(batch, pred.bfloat16(), amount=1).label, want)
    double = with_sharper_labels(replace(batch, label=batch.label.double()), pred.double(), amount=1).label
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), want)


def test_steepness_is_the_gradient_that_evaluation_reports():
    a, b = photo(40, 56, 1), photo(40, 56, 2)
    ratio = steepness(to_tensor(a[None])) / steepness(to_tensor(b[None]))
    assert ratio.item() == pytest.approx(metrics.sharpness(a, b, 0), rel=1e-4)


def test_a_student_trained_with_it_is_crisper_and_the_baseline_the_same(labelled, tmp_path):
    common = "loss.perceptual=0 student.size=8x2 student.expand=0 train.steps=60"
    cfg = config(labelled, tmp_path / "plain", common)
    plain = train.train(cfg)
    sharp = train.train(config(labelled, tmp_path / "sharp", f"{common} loss.usm=30"))
    lr = Crops(Workdir.of(cfg), read_index(cfg), "valid").all().lr
    x = to_tensor(lr.numpy())
    with torch.no_grad():
        steep = [steepness(student.load(path)(x).clamp(0, 1)).mean() for path in (plain.student, sharp.student)]
    assert steep[1] > 1.005 * steep[0]
    assert difference(plain.baseline, sharp.baseline) == 0
    assert baseline_config(make("quick", "loss.usm=1")).loss.usm == 0
    with pytest.raises(ConfigError, match="loss.usm"):
        make("quick", "loss.usm=-1")
    with pytest.raises(ConfigError, match="loss.usm=2 sharpens labels, and no term looks at them"):
        make("quick", "loss.usm=2 loss.teacher=0 loss.gt=1 loss.perceptual=0 loss.fft=0 loss.gradient=0")


def test_reports_and_cards_say_it_in_words_and_not_as_a_term():
    settings = to_dict(make("quick", "loss.usm=1.5"))
    made = Evaluation.__new__(Evaluation)
    made.trained = {"student": SimpleNamespace(settings=settings)}
    for text in (protocol._training(made), card.describe_loss(settings)):
        assert text.count("sharper where the student is softer") == 1 and "1.5" in text
        assert "1.5 ×" not in text and "1.5 `loss.usm`" not in text
