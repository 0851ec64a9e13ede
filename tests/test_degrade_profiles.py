"""What the profiles of the degradation draw: the published ranges, light, blurred, and the two that choose."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.images import photo

from kd_utils.config import make
from kd_utils.data import degradations
from kd_utils.data.degradation_steps import Blur, Jpeg, Noise, Resize
from kd_utils.evaluation import protocol
from kd_utils.own_files import ROOT


def test_two_order_has_the_published_probabilities_and_ranges():
    n, base = 1500, (1000, 1000)
    seen = {"gaussian": 0, "gray": 0, "sinc1": 0, "iso1": 0, "blur2": 0, "final": 0, "jpeg last": 0}
    factors: tuple[list[float], list[float]] = ([], [])
    for seed in range(n):
        steps = degradations.plan(base, seed, 4, "two_order")
        first, second = steps[:4], steps[4:]
        assert [type(s) for s in first] == [Blur, Resize, Noise, Jpeg]
        seen["sinc1"] += first[0].name.startswith("sinc")
        seen["iso1"] += first[0].name.startswith("round, ")
        if isinstance(second[0], Blur):
            seen["blur2"] += 1
            second = second[1:]
        assert [type(s) for s in second[:2]] == [Resize, Noise]
        factors[0].append(first[1].size[0] / 1000)
        factors[1].append(second[0].size[0] / 250)
        for noise, sigma, poisson in ((first[2], (1, 30), (0.05, 3)), (second[1], (1, 25), (0.05, 2.5))):
            low, high = sigma if noise.kind == "gaussian" else poisson
            assert low <= noise.strength <= high
            seen["gaussian"] += noise.kind == "gaussian"
            seen["gray"] += noise.gray
        last = second[2:]
        seen["final"] += any(isinstance(s, Blur) for s in last)
        seen["jpeg last"] += isinstance(last[-1], Jpeg)
        assert [s.size for s in last if isinstance(s, Resize)] == [(250, 250)]
        assert all(30 <= s.quality <= 95 for s in steps if isinstance(s, Jpeg))
    rates = {k: v / n for k, v in seen.items()}
    wanted = {"gaussian": 1.0, "gray": 0.8, "sinc1": 0.1, "iso1": 0.405, "blur2": 0.8, "final": 0.8, "jpeg last": 0.5}
    assert rates == pytest.approx(wanted, abs=0.06)
    for f, low, high, down in ((factors[0], 0.15, 1.5, 0.7), (factors[1], 0.3, 1.2, 0.4)):
        f = np.array(f)
        assert low - 0.005 <= f.min() < low + 0.03 and high - 0.03 < f.max() <= high
        assert (f < 1).mean() == pytest.approx(down, abs=0.05)
    assert np.mean(np.array(factors[0]) == 1) == pytest.approx(0.1, abs=0.03)


def test_scale_1_stays_near_the_size_of_the_photo():
    for seed in range(200):
        steps = degradations.plan((200, 200), seed, 1, "two_order")
        assert all(100 <= s.size[0] <= 300 for s in steps if isinstance(s, Resize))


def test_light_is_mild():
    for scale in degradations.SCALES:
        for seed in range(100):
            steps = degradations.plan((64, 64), seed, scale, "light")
            kinds = [Blur, Resize, Noise, Jpeg] if scale > 1 else [Blur, Noise, Jpeg]
            assert [type(s) for s in steps] == kinds
            assert steps[-2].strength <= 5 and 60 <= steps[-1].quality <= 95


def test_blurred_is_one_order_with_a_strong_blur():
    for scale, weakest, strongest in ((4, 1.5, 5), (2, 1, 3), (1, 1, 3)):
        plans = [degradations.plan((64, 64), seed, scale, "blurred") for seed in range(300)]
        kinds = [Blur, Resize, Noise, Jpeg] if scale > 1 else [Blur, Noise, Jpeg]
        assert all([type(s) for s in steps] == kinds for steps in plans)
        for steps in plans:
            assert steps[-2].strength <= (5 if steps[-2].kind == "gaussian" else 0.5) and 60 <= steps[-1].quality <= 95
        if scale > 1:
            assert {steps[1].mode for steps in plans} == {"area", "bilinear", "bicubic"}

        names = [steps[0].name for steps in plans]
        assert {name.split(",")[0] for name in names} == {"sinc", *degradations.KERNELS.values()}
        sigmas = [float(found[1]) for found in (re.search(r"sigma ([\d.]+)", name) for name in names) if found]
        assert weakest <= min(sigmas) < 1.2 * weakest and 0.9 * strongest < max(sigmas) <= strongest


def test_blurred_is_softer_than_light():
    hr = np.stack([photo(128, 128, i) for i in range(40)])
    soft, light = (degradations.degrade(hr, range(40), 4, p).astype(float) for p in ("blurred", "light"))
    steep = [np.abs(np.diff(x, axis=2)).mean() for x in (soft, light)]
    assert steep[0] < 0.8 * steep[1]


def test_a_profile_is_known_everywhere():
    known = set(degradations.PROFILES)
    assert set(protocol.DEGRADATIONS) == known
    for name in known:
        assert make("quick", f"degrade.profile={name}").degrade.profile == name
        assert f"| `{name}` |" in (ROOT / "docs/method.md").read_text(encoding="utf-8")


def test_mixed_is_half_light_and_half_two_order_of_the_same_seed():
    hr = photo(32, 32)[None]
    light = 0
    for seed in range(100):
        mixed = degradations.degrade(hr, [seed], 4, "mixed")
        chosen = "light" if len(degradations.plan((32, 32), seed, 4, "mixed")) == 4 else "two_order"
        light += chosen == "light"
        np.testing.assert_array_equal(mixed, degradations.degrade(hr, [seed], 4, chosen))
    assert 35 <= light <= 65


def test_wide_is_a_third_each_of_the_same_seed():
    hr = photo(32, 32)[None]
    thirds = dict.fromkeys(("light", "blurred", "two_order"), 0)
    for seed in range(150):
        wide = degradations.degrade(hr, [seed], 4, "wide")
        equal = [name for name in thirds if np.array_equal(wide, degradations.degrade(hr, [seed], 4, name))]
        assert len(equal) == 1
        thirds[equal[0]] += 1
    assert min(thirds.values()) >= 35


def test_two_order_is_harder_than_light_and_light_harder_than_bicubic():
    hr = np.stack([photo(96, 96, i) for i in range(6)])
    exact = degradations.degrade(hr, range(6), 4, "bicubic").astype(float)
    error = {p: np.abs(degradations.degrade(hr, range(6), 4, p) - exact).mean() for p in ("light", "two_order")}
    assert 1 < error["light"] < 0.7 * error["two_order"]
