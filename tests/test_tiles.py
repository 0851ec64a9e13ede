"""Tiled equals untiled, whatever the network, the size and the memory."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_utils.models import receptive_field, student, tiling


def rrdbnet(feat: int = 8, blocks: int = 1) -> nn.Module:
    from spandrel import ModelLoader
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    state = RRDBNet(in_nc=3, out_nc=3, num_filters=feat, num_blocks=blocks, scale=4).state_dict()
    return ModelLoader(device="cpu").load_from_state_dict(state).model


def compact(feat: int = 12, convs: int = 4) -> nn.Module:
    from spandrel import ModelLoader

    return ModelLoader(device="cpu").load_from_state_dict(student.Student(feat, convs).state_dict()).model


NETS = {
    "student x4": lambda: student.build("s"),
    "student x4 in training": lambda: student.build("s", expand=2),
    "student x2": lambda: student.build("s", 2),
    "student x1": lambda: student.build("s", 1),
    "Compact": compact,
    "RRDBNet": rrdbnet,
}
RADIUS = {
    "student x4": 10,
    "student x4 in training": 10,
    "student x2": 20,
    "student x1": 40,
    "Compact": 6,
    "RRDBNet": 19,
}


@pytest.fixture(params=NETS)
def named(request) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, NETS[request.param]().eval()


def untiled(net: nn.Module, x: Tensor) -> Tensor:
    reach = receptive_field.measure_receptive_field(net)
    h, w = x.shape[2:]
    padded = F.pad(x, (0, -w % reach.multiple, 0, -h % reach.multiple), mode="replicate")
    with torch.inference_mode():
        return net(padded)[..., : h * reach.scale, : w * reach.scale]


def test_tiled_equals_untiled(named):
    _, net = named
    radius = receptive_field.measure_receptive_field(net).radius
    for h, w in ((2 * radius + 37, 2 * radius + 21), (1, 70), (70, 1), (5, 3)):
        x = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(h))
        want = untiled(net, x)
        for tile in (16, 33, 1000):
            assert (tiling.run(net, x, tile) - want).abs().max() <= 1e-5, (h, w, tile)


def test_the_radius_is_exact(named):
    """With positive weights nothing cancels: a changed pixel changes all that it can reach, and no more."""
    name, net = named
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    net.double()
    reach = receptive_field.measure_receptive_field(net)
    assert reach.radius == RADIUS[name]
    side, m = 2 * reach.radius + 3 * reach.multiple, reach.multiple
    x = torch.rand(1, 3, side, side, dtype=torch.float64)
    at = (side // 2) // m * m
    other = x.clone()
    other[..., at : at + m, at : at + m] += 1
    with torch.inference_mode():
        changed = (net(other) != net(x))[0].any(0).nonzero()
    first, last = changed.min().item() / reach.scale, (changed.max().item() + 1) / reach.scale
    assert at - first <= reach.radius and last - (at + m) <= reach.radius
    assert at - first > reach.radius - m and last - (at + m) > reach.radius - m


def test_less_overlap_leaves_seams():
    torch.manual_seed(0)
    net = student.build("s").eval()
    x = torch.rand(1, 3, 40, 40)
    assert (tiling.run(net, x, 20, overlap=0) - untiled(net, x)).abs().max() > 1e-4


def test_the_real_compact_model(shared):
    net = student.load(shared / "weights" / "realesr-animevideov3.pth")
    assert receptive_field.measure_receptive_field(net).radius == 18
    x = torch.rand(1, 3, 61, 47)
    assert (tiling.run(net, x, 24) - untiled(net, x)).abs().max() <= 1e-5


def test_a_layer_of_unknown_reach_is_refused():
    with pytest.raises(ValueError, match="AdaptiveAvgPool2d is in it"):
        receptive_field.measure_receptive_field(nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(8)))
    with pytest.raises(ValueError, match="strided Conv2d"):
        receptive_field.measure_receptive_field(nn.Conv2d(3, 3, 3, stride=2))


class Tight(nn.Module):
    """A network that runs out of memory for inputs above `most` pixels, as a GPU does."""

    def __init__(self, most: int, error: Exception):
        super().__init__()
        self.net, self.most, self.error, self.calls = student.build("s").eval(), most, error, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x.shape[2:].numel())
        if self.calls[-1] > self.most:
            raise self.error
        return self.net(x)


ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
SAID = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.96 GB)"),
    RuntimeError(ALLOCATOR),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not execute a primitive"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SAID, ids=str)
def test_out_of_memory_halves_the_tile_and_loses_nothing(error):
    torch.manual_seed(0)
    net = Tight(45 * 45, error)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8)
    told = []
    canvas = tiling.to_canvas(
        net, receptive_field.measure_receptive_field(net.net), pixels, tile=200, progress=told.append
    )
    whole = tiling.to_canvas(net.net, receptive_field.measure_receptive_field(net.net), pixels, tile=200)
    assert np.abs(canvas.astype(int) - whole).max() <= 1 and (canvas != whole).mean() < 1e-3
    assert sum(told) == canvas.shape[0] * canvas.shape[1]  # each pixel written once
    assert sum(n > net.most for n in net.calls) == 3  # 200, then 66, then 33: three failures in all, not one a tile
    assert sum(n <= net.most for n in net.calls) == len(told)


def test_out_of_memory_without_end_is_one_clear_error():
    net = Tight(10, SAID[0])
    with pytest.raises(MemoryError, match="smaller overlap"):
        tiling.to_canvas(net, receptive_field.measure_receptive_field(net.net), np.zeros((50, 50, 3), np.uint8))


def test_other_errors_are_not_taken_for_memory():
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        tiling.to_canvas(broken, receptive_field.ReceptiveField(1, 4, 1, 1), np.zeros((9, 9, 3), np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit on address space")
def test_real_memory_runs_out():
    """A process that may take 80 MB more than it has: a tile of 400 x 400 pixels needs more."""
    code = """
import resource, sys, torch, numpy as np
from kd_utils.models import receptive_field, student, tiling as tiles
torch.manual_seed(0); torch.set_num_threads(1)
net = student.build("s").eval(); reach = receptive_field.measure_receptive_field(net)
pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
small = tiles.to_canvas(net, reach, pixels, tile=130)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (80 << 20), -1))
told = []
canvas = tiles.to_canvas(net, reach, pixels, tile=400, progress=told.append)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(len(told), sum(told), int(np.abs(canvas.astype(int) - small).max()))
"""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    count, pixels, difference = map(int, run.stdout.split())
    assert count >= 4 and pixels == 1600 * 1600 and difference <= 1


def test_canvas_depth_and_gray():
    torch.manual_seed(0)
    net = student.build("s").eval()
    reach = receptive_field.measure_receptive_field(net)
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), np.uint16)
    canvas = tiling.to_canvas(net, reach, deep, tile=16)
    want = untiled(net, torch.from_numpy(deep.astype(np.float32) / 65535).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    assert canvas.dtype == np.uint16
    np.testing.assert_allclose(canvas, want.clamp(0, 1) * 65535, atol=1)
    assert len(np.unique(canvas)) > 2000  # not 8 bits in 16
    assert tiling.to_canvas(net, reach, deep[..., :1], tile=16).shape == (160, 120, 1)


def test_tiles_come_from_the_memory_there_is(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(tiling, "_free_memory", lambda: 64 << 30)
    light, heavy = receptive_field.ReceptiveField(10, 4, 1, 500), receptive_field.ReceptiveField(10, 4, 1, 20_000)
    assert tiling.choose_tile(light, 10, cpu) > tiling.choose_tile(heavy, 10, cpu) >= 64
    far = receptive_field.ReceptiveField(348, 4, 4, 14_000)
    assert tiling.choose_tile(far, 348, cpu) == 348  # or it would be all overlap

    monkeypatch.setattr(tiling, "_free_memory", lambda: 20 << 30)
    side = tiling.choose_tile(far, 348, cpu)
    assert 64 <= side < 348 and (side + 2 * 348) ** 2 * 14_000 < 11 << 30  # about half of what is free

    monkeypatch.setattr(tiling, "_free_memory", lambda: 4 << 30)
    with pytest.raises(MemoryError, match=r"about 7\.5 GiB with 348 pixels around it, and 4\.0 are free: .*--overlap"):
        tiling.choose_tile(far, 348, cpu)
    assert tiling.choose_tile(far, 32, cpu) == 64


def test_an_output_that_is_not_finite_is_refused():
    def broken(x):
        return F.interpolate(x, scale_factor=4) * torch.nan

    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="output is not finite on cpu: its file is damaged"):
        tiling.to_canvas(broken, receptive_field.measure_receptive_field(student.build("8x1")), pixels)
