"""What zero padding at a crop's border costs: labels of a 64x64 crop against the whole photo's, by distance.

    python benchmarks/border_cost.py TEACHER PHOTOS

Prints the mean absolute difference (of 255) over the photos' centres at each distance, in LR pixels, and what part of
it is left inside each margin. It is what `loss.margin` was chosen by (docs/LOG.md).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_utils.common.tensors import to_tensor
from kd_utils.data.degradations import degrade
from kd_utils.imaging import folders, reading
from kd_utils.models.teacher import find_teacher, load_teacher


def border_cost(net: nn.Module, lr: Tensor, crop: int = 64) -> list[float]:
    """How far the label of a crop is from the whole image's label, by the distance from the crop's border.

    The mean absolute difference, on 0..255, between the label of the central `crop` x `crop` of `lr` (1, 3, h, w) and
    the same place in the label of all of it, at each distance 0, 1, 2, ... in LR pixels.
    """
    h, w = lr.shape[-2:]
    y, x = (h - crop) // 2, (w - crop) // 2
    with torch.inference_mode():
        whole = net(lr)[..., y * 4 : (y + crop) * 4, x * 4 : (x + crop) * 4]
        alone = net(lr[..., y : y + crop, x : x + crop])
    diff = F.avg_pool2d((whole - alone).abs().mean(1, keepdim=True), 4)[0, 0] * 255  # (crop, crop)

    i = torch.arange(crop, device=diff.device)
    edge = torch.minimum(i, crop - 1 - i)
    ring = torch.minimum(edge[:, None], edge[None, :])  # (crop, crop): the distance of each pixel from the border
    return [diff[ring == d].mean().item() for d in range(crop // 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("teacher")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--side", type=int, default=640, help="of the photo's centre that is degraded, HR pixels")
    args = parser.parse_args()
    teach = load_teacher(find_teacher(args.teacher))
    rows = []
    for n, path in enumerate(folders.list_images(args.photos)):
        photo = reading.read_rgb(path)
        sides = [min(side, args.side) // 4 * 4 for side in photo.shape[:2]]
        top, left = ((have - side) // 2 for have, side in zip(photo.shape[:2], sides))
        hr = np.ascontiguousarray(photo[top : top + sides[0], left : left + sides[1]])
        lr = degrade(hr[None], [n], 4, "light")
        rows.append(border_cost(teach.net, to_tensor(lr), crop=64))
        print(f"{path.name}: {rows[-1][0]:.2f} at the border", flush=True)
    cost = np.mean(rows, 0)
    pixels = np.array([4 * (64 - 2 * d - 1) for d in range(32)])  # in the ring at each distance
    for d, c in enumerate(cost[:20]):
        left = (cost * pixels)[d:].sum() / (cost * pixels).sum()
        kept = (64 - 2 * d) ** 2 / 64**2
        print(f"{d:3} px {c:7.3f} of 255   a margin of {d} leaves {left:5.1%} of the error, {kept:.0%} of the crop")


if __name__ == "__main__":
    main()
