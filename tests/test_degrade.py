"""The degradation pipeline: published kernels and ranges, real JPEG, and crops that do not depend on their batch."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.images import photo
from PIL import Image

from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.data import degradation_steps, degradations, kernels
from kd_utils.data.degradation_steps import Blur, Jpeg, Noise

ANISO = (1.3, 0.6, 0.7)  # sigma_x, sigma_y, theta


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Crops are small: on a busy machine several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flat(value: float, side: int = 128) -> torch.Tensor:
    return torch.full((1, 3, side, side), value)


# ---- kernels


# Values that basicsr 1.4.2's kernels have at these places from the centre (row, column), so that the kernels are held
# against it where it cannot be installed too.
PLACES = [(0, 0), (0, 1), (-1, 0), (-1, 2)]  # and the two upper corners
REFERENCE = [
    (kernels.gaussian(7, *ANISO), [0.2042035, 0.09650871, 0.08014632, 0.00046378, 0.00086117, 0.0]),
    (kernels.gaussian(7, *ANISO, 0.55), [0.09179437, 0.04914984, 0.0453298, 0.01271383, 0.01423762, 0.00126333]),
    (kernels.plateau(7, *ANISO, 1.8), [0.25890719, 0.08427494, 0.06334915, 0.00284776, 0.00344586, 0.00022861]),
    (kernels.sinc(7, 1.9), [0.37895391, 0.23182289, 0.23182289, -0.02766229, 0.02283341, 0.02283341]),
    (kernels.sinc(21, 0.8), [0.04679202, 0.04314716, 0.04314716, 0.0304109, -0.00178265, -0.00178265]),
]


@pytest.mark.parametrize(("kernel", "values"), REFERENCE)
def test_kernels_have_the_values_of_basicsr(kernel, values):
    c = len(kernel) // 2
    ours = [*(kernel[c + y, c + x] for y, x in PLACES), kernel[0, 0], kernel[0, -1]]
    np.testing.assert_allclose(ours, values, atol=1e-8)


def test_kernels_equal_basicsr(official):
    from basicsr.data import degradations as ref

    rng = np.random.default_rng(0)
    for k in (7, 13, 21):
        for _ in range(5):
            sx, sy, theta = rng.uniform(0.2, 3), rng.uniform(0.2, 3), rng.uniform(-math.pi, math.pi)
            beta, cutoff = rng.uniform(0.5, 4), rng.uniform(math.pi / 5, math.pi)
            pairs = [
                (kernels.gaussian(k, sx, sy, theta), ref.bivariate_Gaussian(k, sx, sy, theta, isotropic=False)),
                (kernels.gaussian(k, sx, sx, 0.0), ref.bivariate_Gaussian(k, sx, sx, 0.0, isotropic=True)),
                (
                    kernels.gaussian(k, sx, sy, theta, beta),
                    ref.bivariate_generalized_Gaussian(k, sx, sy, theta, beta, isotropic=False),
                ),
                (
                    kernels.plateau(k, sx, sy, theta, beta),
                    ref.bivariate_plateau(k, sx, sy, theta, beta, isotropic=False),
                ),
                (kernels.sinc(k, cutoff), ref.circular_lowpass_kernel(cutoff, k)),
            ]
            for ours, theirs in pairs:
                np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_blur_equals_basicsr(official):
    from basicsr.utils.img_process_util import filter2D

    x = to_tensor(photo(40, 56)[None])
    for kernel in (kernels.gaussian(21, 1.5, 1.5, 0.0), kernels.gaussian(13, *ANISO), kernels.sinc(7, 2.0)):
        theirs = filter2D(x, torch.from_numpy(kernel).float()[None])
        torch.testing.assert_close(degradation_steps.apply(Blur(kernel, ""), x), theirs, atol=1e-6, rtol=0)


def test_every_drawn_kernel_is_odd_and_sums_to_one():
    blurs = [s for seed in range(300) for s in degradations.plan((64, 64), seed, 4, "mixed") if isinstance(s, Blur)]
    assert {len(b.kernel) for b in blurs} >= set(range(7, 22, 2))
    for b in blurs:
        assert b.kernel.shape == (len(b.kernel),) * 2 and len(b.kernel) % 2 == 1
        assert abs(b.kernel.sum() - 1) < 1e-9


def test_blur_keeps_a_flat_picture_and_serves_pictures_smaller_than_the_kernel():
    for kernel in (kernels.gaussian(21, 3.0, 3.0, 0.0), kernels.gaussian(21, *ANISO, 0.6), kernels.sinc(21, 0.8)):
        for side in (1, 3, 40):
            torch.testing.assert_close(degradation_steps.apply(Blur(kernel, ""), flat(0.5, side)), flat(0.5, side))


# ---- noise and JPEG


@pytest.mark.parametrize("sigma", [1.0, 12.0, 30.0])
@pytest.mark.parametrize("gray", [True, False])
def test_gaussian_noise_has_its_sigma(sigma, gray):
    noisy = degradation_steps.apply(Noise("gaussian", sigma, gray, seed=1), flat(0.5)) - 0.5
    assert float(noisy.std() * 255) == pytest.approx(sigma, rel=0.03)
    assert abs(float(noisy.mean() * 255)) < 0.05 * sigma
    equal = bool((noisy[:, 0] == noisy[:, 1]).all() and (noisy[:, 0] == noisy[:, 2]).all())
    assert equal == gray


@pytest.mark.parametrize("gray", [True, False])
def test_poisson_noise_grows_with_the_light(gray):
    # 64 levels of gray: 64 photons at full white, so at level v the shot noise is sqrt(v / 64)
    x = (torch.arange(64).repeat_interleave(64).view(1, 1, 1, -1) * 4 / 255).expand(1, 3, 64, -1).contiguous()
    noise = degradation_steps._noise(x, Noise("poisson", 2.0, gray, seed=3))
    assert noise.shape[1] == (1 if gray else 3)
    for level in (4, 20, 50):
        v = level * 4 / 255
        part = noise[..., level * 64 : level * 64 + 64]
        assert float(part.std()) == pytest.approx(2 * math.sqrt(v / 64), rel=0.06)
    assert degradation_steps._noise(flat(0.0), Noise("poisson", 2.0, gray, seed=3)).abs().max() == 0


def test_poisson_noise_is_as_strong_as_basicsrs(official):
    from basicsr.data.degradations import generate_poisson_noise_pt

    x = to_tensor(photo(128, 128)[None])
    torch.manual_seed(0)
    for gray in (False, True):
        theirs = generate_poisson_noise_pt(x, scale=1.5, gray_noise=float(gray) * torch.ones(1))
        ours = degradation_steps._noise(x, Noise("poisson", 1.5, gray, seed=0))
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.03)


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_is_real_jpeg(quality):
    picture = photo(48, 64)
    ours = to_uint8(degradation_steps.apply(Jpeg(quality), to_tensor(picture[None])))[0]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    np.testing.assert_array_equal(ours, np.asarray(Image.open(buffer)))
    assert (ours != picture).any()


# ---- degrade and stages


@pytest.mark.parametrize("scale", degradations.SCALES)
@pytest.mark.parametrize("profile", degradations.PROFILES)
def test_a_crop_depends_on_its_seed_and_not_on_its_batch(profile, scale):
    hr = np.stack([photo(64, 48, i) for i in range(5)])
    seeds = [3, 1, 4, 1_000_000_007, 5]
    batch = degradations.degrade(hr, seeds, scale, profile)
    assert batch.shape == (5, 64 // scale, 48 // scale, 3) and batch.dtype == np.uint8
    for i in range(5):
        np.testing.assert_array_equal(
            degradations.degrade(hr[i : i + 1], seeds[i : i + 1], scale, profile)[0], batch[i]
        )
    np.testing.assert_array_equal(degradations.degrade(hr[::-1], seeds[::-1], scale, profile)[::-1], batch)
    other = degradations.degrade(hr, [s + 1 for s in seeds], scale, profile)
    assert (other != batch).any() == (profile != "bicubic")


@pytest.mark.parametrize("profile", ["light", "two_order"])
def test_the_number_of_threads_changes_nothing(profile):
    hr = photo(96, 96)[None].repeat(3, 0)
    before = torch.get_num_threads()
    try:
        out = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out.append(degradations.degrade(hr, range(3), 4, profile))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*out)


def test_bicubic_is_the_antialiased_resize_alone():
    hr = photo(64, 96)
    x = torch.from_numpy(hr).permute(2, 0, 1)[None].float()
    want = F.interpolate(x, size=(16, 24), mode="bicubic", antialias=True, align_corners=False).round().clamp(0, 255)
    got = degradations.degrade(hr[None], [0], 4, "bicubic")[0]
    assert np.abs(got.astype(int) - want[0].permute(1, 2, 0).numpy()).max() <= 1  # 1: a tie rounded the other way
    assert degradation_steps.bicubic(x, (16, 24)).shape == (1, 3, 16, 24)
    at_1 = degradations.degrade(hr[None], [0], 1, "bicubic")[0]
    assert 0.2 < np.diff(at_1.astype(float), axis=1).std() / np.diff(hr.astype(float), axis=1).std() < 0.8


def test_a_whole_photo_and_a_tiny_crop():
    for h, w in ((300, 508), (4, 8), (32, 32)):
        for seed in range(2 if h == 300 else 30):
            assert degradations.degrade(photo(h, w)[None], [seed], 4, "two_order").shape == (1, h // 4, w // 4, 3)


def test_stages_end_in_what_degrade_gives():
    hr = photo(64, 64)
    for scale in degradations.SCALES:
        for profile in degradations.PROFILES:
            shown = degradations.stages(hr, 7, scale, profile)
            assert shown[0][0] == "original" and shown[0][1] is hr
            np.testing.assert_array_equal(shown[-1][1], degradations.degrade(hr[None], [7], scale, profile)[0])
            assert [t for t, _ in shown[1:]] == [
                degradation_steps.title(s) for s in degradations.plan((64, 64), 7, scale, profile)
            ]


@pytest.mark.parametrize(
    ("hr", "seeds", "scale", "profile", "message"),
    [
        (photo(16, 16)[None], [0], 4, "heavy", "'heavy'.*two_order"),
        (photo(16, 16)[None], [0], 3, "light", "scale 3.*4, 2, 1"),
        (photo(16, 16)[None] / 255, [0], 4, "light", "uint8.*float64"),
        (photo(16, 16), [0], 4, "light", r"\(N, H, W, 3\).*\(16, 16, 3\)"),
        ([photo(16, 16)], [0], 4, "light", "not list"),
        (photo(18, 16)[None], [0], 4, "light", "16x18.*multiples of scale 4"),
        (photo(16, 16)[None], [0, 1], 4, "light", "1 pictures need as many seeds"),
        (photo(16, 16)[None], [-1], 4, "light", "integer from 0"),
        (photo(16, 16)[None], [0.5], 4, "light", "integer from 0"),
    ],
)
def test_bad_input_is_named(hr, seeds, scale, profile, message):
    with pytest.raises(ValueError, match=message):
        degradations.degrade(hr, seeds, scale, profile)
