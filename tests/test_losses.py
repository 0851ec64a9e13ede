"""The losses: values against formulas written out, gradients, fixed random VGG, refusals, strips equal to the whole."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kd_utils.models import vgg as vgg19
from kd_utils.training import losses


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vgg():
    return vgg19.load_vgg("random")


def _pair(n=2, h=48, w=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = F.interpolate(torch.rand(n, 3, h // 4 + 1, w // 4 + 1, generator=g), size=(h, w), mode="bicubic").clamp(0, 1)
    return a, (a + 0.1 * torch.randn(a.shape, generator=g)).clamp(0, 1)


def test_l1_and_fft():
    a, b = _pair()
    assert losses.l1(a, b) == pytest.approx((a - b).abs().mean().item())
    soft = ((a - b).square() + 0.1**2).sqrt().mean() - 0.1
    torch.testing.assert_close(losses.l1(a, b, 0.1), soft)
    assert losses.l1(a, a, 0.1) == pytest.approx(0, abs=1e-7)
    assert losses.l1(a, b, 1e-6) == pytest.approx(losses.l1(a, b).item(), abs=1e-6)
    spectra = [torch.fft.rfft2(x) for x in (a, b)]
    wanted = F.l1_loss(*[torch.stack([s.real, s.imag], -1) for s in spectra])
    torch.testing.assert_close(losses.fft_l1(a, b), wanted)
    assert losses.fft_l1(a.half(), b.half()).dtype == torch.float32
    assert losses.fft_l1(a.double(), b.double()).dtype == torch.float64


def test_screen_sees_a_printed_grid_and_nothing_else():
    label, _ = _pair(h=64, w=64)
    pattern = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(16) * 0.02  # the same four columns in every 4x4 square
    assert losses.screen_l1(label + pattern, label) == pytest.approx(0.02, rel=1e-4)
    assert losses.screen_l1(label + 0.1, label) == pytest.approx(0, abs=1e-6), "a shift of the brightness is no grid"
    period_six = torch.sin(torch.arange(64) * 2 * torch.pi / 6) * 0.02
    assert losses.screen_l1(label + period_six, label) < 0.002, "nor is a texture with another period"
    assert losses.screen_l1(label[..., :16, :16], label[..., :16, :16]) == 0, "crops smaller than the window"


def test_random_vgg_is_the_same_everywhere():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    vgg = vgg19.load_vgg("random")
    assert torch.equal(torch.random.get_rng_state(), before), "loading must not draw from the global random numbers"
    digest = hashlib.sha256()
    for value in vgg.features.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == "7dcf648aeb9d46a4"
    assert "not ImageNet" in vgg.name
    features = vgg(_pair()[0])
    assert {k: tuple(v.shape[1:]) for k, v in features.items()} == {
        "conv1_2": (64, 48, 40), "conv2_2": (128, 24, 20), "conv3_4": (256, 12, 10)
    }  # fmt: skip
    for value in features.values():
        assert 0.2 < value.std() < 5, "Kaiming's scale keeps the features near 1 at every depth"
        assert (value < 0).any(), "tapped before the ReLU"


def test_perceptual_is_real_esrgans_relative_to_each_layers_size(vgg):
    a, b = _pair()

    def by_hand(x):  # the taps cloned before an in-place ReLU could touch them
        x = (x - torch.tensor(vgg19.MEAN).view(1, 3, 1, 1)) / torch.tensor(vgg19.STD).view(1, 3, 1, 1)
        taps = []
        for i, module in enumerate(vgg.features):
            x = module(x)
            if i in (2, 7, 16):
                taps.append(x.clone())
        return taps

    weights = [w / size for w, size in zip((0.1, 0.1, 1.0), vgg.size.values(), strict=True)]
    wanted = sum(w * (p - q).abs().mean() for w, p, q in zip(weights, by_hand(a), by_hand(b), strict=True))
    torch.testing.assert_close(losses.perceptual(a, b, vgg), wanted)
    assert losses.perceptual(a, a, vgg) == 0


def test_perceptual_does_not_depend_on_the_scale_of_the_weights(tmp_path, vgg):
    """Oxford's VGG19 has features a hundred times larger than torchvision's; loss.perceptual must mean the same."""
    state = {k: v.clone() for k, v in vgg.features.state_dict().items()}
    state["0.weight"] *= 100
    torch.save(state, tmp_path / "large.pth")
    a, b = _pair()
    large = losses.perceptual(a, b, vgg19.load_vgg(tmp_path / "large.pth"))
    torch.testing.assert_close(large, losses.perceptual(a, b, vgg))


def test_gradient_reaches_the_prediction_only(vgg):
    a, b = (x.requires_grad_() for x in _pair())
    losses.perceptual(a, b, vgg).backward()
    assert a.grad.abs().sum() > 0 and b.grad is None
    assert all(p.grad is None and not p.requires_grad for p in vgg.parameters())


def test_perceptual_under_autocast(vgg):
    a, b = _pair()
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.perceptual(a, b, vgg)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(losses.perceptual(a, b, vgg).item(), rel=0.02)


def test_sub_crops_are_drawn_per_sample():
    where = torch.stack(torch.meshgrid(torch.arange(40), torch.arange(32), indexing="ij"))  # each pixel says its place
    batch = torch.cat([where[None].expand(8, -1, -1, -1), torch.arange(8).view(8, 1, 1, 1).expand(8, 1, 40, 32)], 1)
    seen = []
    for seed in range(60):
        p, t = losses.sub_crops(batch, batch.clone(), 16, 0.5, np.random.default_rng(seed).random((8, 2)))
        assert p.shape == (4, 3, 16, 16) and torch.equal(p, t)
        assert p[:, 2, 0, 0].tolist() == [0, 2, 4, 6], "samples evenly spaced in the batch"
        assert len({tuple(c[:2, 0, 0].tolist()) for c in p}) > 1, "one position for all would not be per sample"
        seen += p[:, 0, 0, 0].tolist()
    assert {min(seen), max(seen)} == {0, 24}, "every position must be reachable"


def test_sub_crops_do_not_depend_on_the_number_of_processes():
    a, b = torch.rand(16, 3, 32, 32), torch.rand(16, 3, 32, 32)
    draws = np.random.default_rng(3).random((16, 2))
    whole = losses.sub_crops(a, b, 16, 0.25, draws)
    parts = [losses.sub_crops(a[s], b[s], 16, 0.25, draws[s]) for s in (slice(0, 8), slice(8, 16))]
    for k in range(2):
        assert torch.equal(whole[k], torch.cat([p[k] for p in parts]))


def test_sub_crops_limits():
    a = torch.rand(3, 3, 24, 24)
    assert losses.sub_crops(a, a, 24, 0.01, np.zeros((3, 2)))[0].shape == (1, 3, 24, 24)
    with pytest.raises(ValueError, match="do not fit"):
        losses.sub_crops(a, a, 25, 1, np.zeros((3, 2)))


def _distance_by_hand(a, b, vgg):
    total = 0
    fa, fb = vgg(a), vgg(b)
    for layer in ("conv1_2", "conv2_2", "conv3_4"):
        p, q = (f[layer] / f[layer].pow(2).sum(1, keepdim=True).sqrt() for f in (fa, fb))
        total = total + (p - q).pow(2).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("height", [128, 171, 193])  # 193: the last strip is a single row
def test_distance_in_strips_is_the_whole_images(vgg, height):
    a, b = _pair(2, height, 45)
    wanted = _distance_by_hand(a, b, vgg)
    for rows in (64, 256):
        got = vgg19.vgg_distance(a, b, vgg, rows)
        assert got.shape == (2,)
        torch.testing.assert_close(got.float(), wanted, rtol=1e-5, atol=0)
    assert vgg19.vgg_distance(a, a, vgg, 64).tolist() == [0, 0]
    one = vgg19.vgg_distance(a, b[:1], vgg, 64)
    torch.testing.assert_close(one.float(), _distance_by_hand(a, b[:1].expand_as(a), vgg), rtol=1e-5, atol=0)


def test_distance_refuses(vgg):
    with pytest.raises(ValueError, match="one size"):
        vgg19.vgg_distance(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), vgg)


def test_weights_from_a_file(tmp_path, vgg):
    state = {f"features.{k}": v for k, v in vgg.features.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "full.pth")
    torch.save({k: v.half() for k, v in vgg.features.state_dict().items()}, tmp_path / "bare.pth")
    full, bare = (vgg19.load_vgg(tmp_path / f"{n}.pth") for n in ("full", "bare"))
    assert "full.pth" in full.name
    a, b = _pair()
    assert losses.perceptual(a, b, full) == losses.perceptual(a, b, vgg)
    assert losses.perceptual(a, b, bare).item() == pytest.approx(losses.perceptual(a, b, vgg).item(), rel=1e-2)


def test_clear_errors(tmp_path, vgg):
    state = vgg.features.state_dict()
    torch.save({**state, "16.weight": torch.zeros(4, 4, 3, 3)}, tmp_path / "shape.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(state, tmp_path / "short.pth")
    (tmp_path / "page.pth").write_text("<html>404</html>")
    for name, says in {
        "shape": r"features\.16\.weight is \(4, 4, 3, 3\)",
        "list": "not a state dict",
        "page": "not a PyTorch checkpoint",
        "missing": "no VGG19 weights at",
    }.items():
        with pytest.raises(vgg19.VGGError, match=says):
            vgg19.load_vgg(tmp_path / f"{name}.pth")
    with pytest.raises(vgg19.VGGError, match=r"has no features\.19\.weight.*conv4_4"):
        vgg19.load_vgg(tmp_path / "short.pth", "conv4_4")
    with pytest.raises(vgg19.VGGError, match="unknown VGG19 layer"):
        vgg19.load_vgg("random", "conv9_9")


def test_real_vgg19(shared):
    """The file of shared weights loads, and the distance orders what the eye orders: a little noise below a lot."""
    vgg = vgg19.load_vgg(shared / "weights/vgg19_features_to_conv3_4.pth")
    a, b = _pair(1, 64, 64)
    near, far = vgg19.vgg_distance(a, a + 0.2 * (b - a), vgg), vgg19.vgg_distance(a, b, vgg)
    assert 0 < near.item() < far.item() < 6
