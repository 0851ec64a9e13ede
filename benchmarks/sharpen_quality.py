"""What docs/sharpen.md says of tiles, colours and strength: python -m benchmarks.sharpen_quality PHOTOS [--model PATH]

The central 512 x 512 of each photo is the original; a quarter of it (antialiased bicubic) is the input, at --scale 1 a
Gaussian blur of sigma 1.5. Scores are on Y without the outer 4 pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from kd_utils import sharpen
from kd_utils.common.tensors import bicubic, to_tensor, to_uint8
from kd_utils.evaluation import metrics
from kd_utils.imaging import colors, folders, reading
from kd_utils.models import receptive_field, teacher, tiling


def seams(models: list[str], pixels: np.ndarray) -> None:
    """Largest difference between tiles (overlap: the radius) and the whole, floats in [0, 1]."""
    print("| model | radius | tiled - untiled | with --overlap 10 |\n|---|---|---|---|")
    x = to_tensor(pixels[None])
    for path in models:
        net = teacher.load_network(Path(path)).net
        radius = receptive_field.measure_receptive_field(net).radius
        whole = tiling.run(net, x, tile=4096)
        off = [(tiling.run(net, x, 48, overlap) - whole).abs().max().item() for overlap in (None, 10)]
        print(f"| {Path(path).stem} | {radius} | {off[0]:.1e} | {off[1]:.1e} |", flush=True)


def gradient(rgb: np.ndarray) -> float:
    """Mean gradient magnitude of Y."""
    dy, dx = np.gradient(rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))
    return float(np.hypot(dx, dy).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--model", default="", help="default: the student that ships")
    parser.add_argument("--scale", type=int, choices=(4, 1), default=4)
    parser.add_argument("--seams", nargs="*", default=[], metavar="PATH", help="models to tile (slow for RRDBNet)")
    args = parser.parse_args()
    tool = sharpen.load(args.model, args.scale, "cpu")
    rows: dict[str, list[tuple]] = {}
    for path in folders.list_images(args.photos):
        photo = reading.read_rgb(path)
        y, x = (photo.shape[0] - 512) // 2, (photo.shape[1] - 512) // 2
        hr = photo[y : y + 512, x : x + 512]
        small = to_uint8(bicubic(to_tensor(hr[None]), (128, 128)))[0]
        lr = small if args.scale == 4 else cv2.GaussianBlur(hr, (0, 0), 1.5)

        def note(row: str, out: np.ndarray, hr: np.ndarray = hr, lr: np.ndarray = lr) -> None:
            drift = np.abs(out.mean((0, 1)) - lr.mean((0, 1))).max()
            score = metrics.psnr(out, hr, 4, True), metrics.ssim(out, hr, 4, True)
            rows.setdefault(row, []).append((*score, drift, gradient(out)))

        raw = tiling.to_canvas(tool.step(), tool.reach, lr)
        note("colours as the model gives them", raw)
        fixed = raw.copy()
        colors.match_low_frequencies(fixed, lr, args.scale)
        note("colours restored", fixed)
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
            note(f"strength {strength}", sharpen.apply(tool, reading.Photo(lr), strength).pixels)
    print(f"{len(rows['strength 0.0'])} photos, {tool.path.name}")
    print("| | PSNR-Y | SSIM-Y | mean colour moves: mean | worst | mean gradient |\n|---|---|---|---|---|---|")
    for row, values in rows.items():
        v = np.array(values)
        p, s, d, g = v.mean(0)
        print(f"| {row} | {p:.2f} | {s:.4f} | {d:.2f} | {v[:, 2].max():.2f} | {g:.2f} |")
    if args.seams:
        seams(args.seams, lr[:97, :101])


if __name__ == "__main__":
    main()
