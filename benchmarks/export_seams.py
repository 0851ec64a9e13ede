"""Seams of the exported ncnn students in Upscayl and realesrgan-ncnn-vulkan: python -m benchmarks.export_seams PHOTOS

Those programs cut a photo into tiles of 200 pixels with 10 pixels around each, and reflect the photo at its border.
This does the same with the files that `export --to ncnn` writes and the ncnn package on the CPU, on the central 440x440
pixels of each photo, and compares with PyTorch: over the same tiles, and over the whole. In levels of 255, clamped.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ncnn
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_utils.common.tensors import to_tensor
from kd_utils.export import export
from kd_utils.imaging import reading
from kd_utils.models import student, tiling

TILE, AROUND = 200, 10
CONTEXT = 50  # at least what any student sees, and where the tiles begin in steps of 4 pixels (PixelUnshuffle)


class NcnnNetwork:
    """An exported student as the ncnn package computes it: (1, 3, h, w) -> (1, 3, h*s, w*s)."""

    def __init__(self, param: Path):
        self.net = ncnn.Net()
        self.net.opt.num_threads = 1
        assert self.net.load_param(str(param)) == 0
        assert self.net.load_model(str(param.with_suffix(".bin"))) == 0

    def __call__(self, x: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(x[0].numpy())
        image = ncnn.Mat(pixels).clone()
        extractor = self.net.create_extractor()
        extractor.input("data", image)
        status, out = extractor.extract("output")
        assert status == 0
        return torch.from_numpy(np.array(out, copy=True))[None]


def in_tiles(run, x: Tensor, scale: int) -> Tensor:
    """Tile by tile, each cut off at its own border; `x` has AROUND reflected pixels on every side."""
    height, width = x.shape[2] - 2 * AROUND, x.shape[3] - 2 * AROUND
    out = torch.empty(1, 3, height * scale, width * scale)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            y = run(x[..., top : bottom + 2 * AROUND, left : right + 2 * AROUND])
            inner = slice(AROUND * scale, -AROUND * scale)
            out[..., top * scale : bottom * scale, left * scale : right * scale] = y[..., inner, inner]
    return out.clamp(0, 1)


@torch.inference_mode()
def compare(name: str, net: student.Student, param: Path, photos: list[np.ndarray]) -> str:
    exported = NcnnNetwork(param)
    parity, seam, mean = 0.0, 0.0, 0.0
    for photo in photos:
        x = to_tensor(photo[None])
        around = F.pad(x, (AROUND,) * 4, mode="reflect")
        got = in_tiles(exported, around, net.scale)

        wide = F.pad(x, (CONTEXT,) * 4, mode="reflect")
        inner = slice(CONTEXT * net.scale, -CONTEXT * net.scale)
        whole = net(wide)[..., inner, inner].clamp(0, 1)

        same_tiles = in_tiles(net, around, net.scale)
        parity = max(parity, (got - same_tiles).abs().max().item())
        seam = max(seam, (got - whole).abs().max().item())
        mean += (got - whole).abs().mean().item() / len(photos)
    reach = tiling.measure_receptive_field(net).radius
    return f"| {name} | {reach} | {parity * 255:.2f} | {seam * 255:.1f} | {mean * 255:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--limit", type=int, default=12, help="photos at most")
    parser.add_argument("--models", nargs="*", default=[], help="student files (default: those that ship)")
    args = parser.parse_args()
    photos = []
    for path in reading.list_images(args.photos)[: args.limit]:
        photo = reading.read_rgb(path)
        y, x = (photo.shape[0] - 440) // 2, (photo.shape[1] - 440) // 2
        photos.append(photo[y : y + 440, x : x + 440])

    found = student.find_student("s").parent.glob("student_*.pth")
    models = [Path(model) for model in args.models] or sorted(p for p in found if "no_teacher" not in p.name)
    print("| student | reach | ncnn - PyTorch, same tiles | tiled - whole, largest | mean |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in models:
            (param,) = export(path, folder, ["ncnn"])
            print(compare(path.stem, student.load(path), param, photos), flush=True)


if __name__ == "__main__":
    main()
