"""What exported students lose: python -m benchmarks.exports [PHOTOS]

The first table is the size of each format, and its output beside PyTorch's on a photo of scikit-image. The second,
for which PHOTOS is a folder, is about the seams in Upscayl and realesrgan-ncnn-vulkan: they cut a photo into tiles of
200 pixels with 10 pixels around each, and reflect the photo at its border. The same is done here with the files that
`export --to ncnn` writes and the ncnn package on the CPU, on the central 440x440 pixels of each photo, and compared
with PyTorch: over the same tiles, and over the whole. All in levels of 255, clamped.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import ncnn
import numpy as np
import onnxruntime
import skimage.data
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from kd_utils.common.tensors import to_tensor
from kd_utils.export import export
from kd_utils.imaging import folders, reading
from kd_utils.models import receptive_field, shipped, student

TILE, AROUND = 200, 10
CONTEXT = 50  # at least what any student sees, and where the tiles begin in steps of 4 pixels (PixelUnshuffle)
EXPORTS = {"pth": False, "safetensors": False, "onnx": False, "onnx fp16": True, "ncnn": False}


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


def in_tiles(run: Callable[[Tensor], Tensor], x: Tensor, scale: int) -> Tensor:
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


def opened(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of an exported file, as another program would compute it."""
    if path.suffix == ".pth":
        return student.load(path)
    if path.suffix == ".safetensors":
        return student.from_state_dict(load_file(path))
    if path.suffix == ".param":
        return NcnnNetwork(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


@torch.inference_mode()
def formats(models: list[Path], folder: str) -> None:
    print("| student | format | bytes | largest difference to PyTorch | mean |\n|---|---|---|---|---|")
    x = to_tensor(skimage.data.chelsea()[None, :120, 100:260])
    for model in models:
        want = student.load(model)(x).clamp(0, 1)
        for name, fp16 in EXPORTS.items():
            (path,) = export(model, folder, [name.split()[0]], fp16)
            off = (opened(path)(x).clamp(0, 1) - want).abs() * 255
            size = path.stat().st_size
            if path.suffix == ".param":
                size += path.with_suffix(".bin").stat().st_size
            print(f"| {model.stem} | {name} | {size:,} | {off.max():.4f} | {off.mean():.5f} |", flush=True)


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
    reach = receptive_field.measure_receptive_field(net).radius
    return f"| {name} | {reach} | {parity * 255:.2f} | {seam * 255:.1f} | {mean * 255:.4f} |"


def seams(models: list[Path], folder: str, photos: list[Path]) -> None:
    print("| student | reach | ncnn - PyTorch, same tiles | tiled - whole, largest | mean |\n|---|---|---|---|---|")
    crops = []
    for path in photos:
        photo = reading.read_rgb(path)
        y, x = (photo.shape[0] - 440) // 2, (photo.shape[1] - 440) // 2
        crops.append(photo[y : y + 440, x : x + 440])
    for model in models:
        (param,) = export(model, folder, ["ncnn"])
        print(compare(model.stem, student.load(model), param, crops), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="?")
    parser.add_argument("--limit", type=int, default=12, help="photos at most")
    parser.add_argument("--models", nargs="*", default=[], help="student files (default: those that ship)")
    args = parser.parse_args()
    found = shipped.find_student("s").parent.glob("student_*.pth")
    models = [Path(model) for model in args.models] or sorted(found)

    with tempfile.TemporaryDirectory() as folder:
        formats(models, folder)
        if args.photos:
            print()
            seams(models, folder, folders.list_images(args.photos)[: args.limit])


if __name__ == "__main__":
    main()
