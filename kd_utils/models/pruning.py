"""A student cut out of its teacher: fewer channels, fewer layers, refitted by least squares before any training.

Some teachers are of the plain Compact kind that the student is too (general-x4v3, animevideov3), so such a teacher need
not be learnt from nothing. Layers that the next one can do without are left out one by one; of each kept layer those
channels go that the next layer's input misses least (backward elimination), and each kernel is fitted to what the
teacher computes there from what the student has (channel pruning by reconstruction: He et al. 2017, arXiv:1707.06168).
No label and no gradient is needed; training then starts where it would otherwise arrive after thousands of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from kd_utils.common.errors import StudentError
from kd_utils.models.student import Convolution, Student

TAPS = 9  # of a 3x3 kernel


def holds(big: Student, feat: int, convs: int) -> bool:
    """Whether a student of that size can be cut out of `big`."""
    return big.scale == 4 and feat <= big.feat and convs <= big.convs


def check(big: Student, feat: int, convs: int) -> None:
    """Raises StudentError for a size that `big` does not hold."""
    if not holds(big, feat, convs):
        raise StudentError(
            f"student.size={feat}x{convs} cannot be cut out of a x{big.scale} network of {big.feat}x{big.convs}: "
            "neither number may be larger, and its scale must be 4"
        )


@torch.no_grad()
def prune(big: Student, feat: int, convs: int, lr: Tensor) -> Student:
    """A student of `feat` channels and `convs` inner convolutions that does nearly what plain x4 `big` does.

    `lr` (N, 3, h, w) in [0, 1] is what the fit is made on, on its device: 32 crops of 64x64 take two minutes of a CPU
    core, and 1 GB, for a teacher of 64x32. Raises StudentError for a size that `big` does not hold.
    """
    check(big, feat, convs)
    seen = _compute(big, lr)

    with tqdm(total=big.convs + convs + 3, desc=f"cut {feat}x{convs} out of {big.feat}x{big.convs}") as bar:
        kept = _choose_layers(seen, convs + 2, bar.update)
        rows = _choose_channels(seen, kept, feat, bar.update)
        net = Student(feat, convs).to(lr.device)
        _fit_kernels(net, seen, kept, rows, lr, bar.update)
    return net


@dataclass
class _Computed:
    """A teacher's layers, and what each of its convolutions gives for the crops of the fit."""

    convolutions: list[Convolution]
    activations: list[nn.PReLU]
    before: list[Tensor]  # in front of the PReLU, (N, C, h, w) each

    def after(self, k: int) -> Tensor:
        """What the convolution after `k` sees: behind the PReLU."""
        return self.activations[k](self.before[k])


def _compute(big: Student, lr: Tensor) -> _Computed:
    first, *others = big.convolutions
    seen = _Computed(big.convolutions, big.activations, [first(lr)])
    for k, conv in enumerate(others):
        seen.before.append(conv(seen.after(k)))
    return seen


def _choose_layers(seen: _Computed, count: int, tick: Callable[[], object]) -> list[int]:
    """The `count` convolutions that stay, in order; the first and the last are among them."""
    crops = len(seen.before[0])
    few = slice(max(1, crops // 4))  # enough to compare layers by

    def cost(a: int, b: int) -> float:
        return _unexplained(seen.after(a)[few], seen.before[b][few])

    kept = list(range(len(seen.before)))
    _shorten(kept, count, cost, tick)
    return kept


def _choose_channels(seen: _Computed, kept: list[int], feat: int, tick: Callable[[], object]) -> dict[int, list[int]]:
    """The `feat` channels that stay of each kept convolution, and all of the last one.

    They are chosen from the end, so that only what the kept channels of the next convolution need counts.
    """
    last = kept[-1]
    rows = {last: list(range(seen.before[last].shape[1]))}
    for k, following in zip(kept[-2::-1], kept[:0:-1], strict=True):
        wanted = seen.before[following][:, rows[following]]
        rows[k] = _channels(seen.after(k), wanted, feat)
        tick()
    return rows


def _fit_kernels(
    net: Student, seen: _Computed, kept: list[int], rows: dict[int, list[int]], lr: Tensor, tick: Callable[[], object]
) -> None:
    """Give each convolution of `net` the kernel that comes nearest to the teacher's, from what `net` has by then."""
    x = lr
    for n, k in enumerate(kept):
        if n == 0:
            first = seen.convolutions[0]
            weight, bias = first.weight[rows[0]], first.bias[rows[0]]
        else:
            weight, bias = _fit(x, seen.before[k][:, rows[k]])
        conv = net.convolutions[n]
        conv.load_state_dict({"weight": weight, "bias": bias})
        x = conv(x)

        if k != kept[-1]:
            act = net.activations[n]
            act.load_state_dict({"weight": seen.activations[k].weight[rows[k]]})
            x = act(x)
        tick()


def _shorten(kept: list[int], length: int, cost: Callable[[int, int], float], tick: Callable[[], object]) -> None:
    """Leave out, one by one, the layer whose neighbours can do without it best; the first and last stay."""
    costs: dict[tuple[int, int], float] = {}  # of what stands between two layers
    while len(kept) > length:
        gaps = list(zip(kept, kept[2:], strict=False))
        for gap in gaps:
            if gap not in costs:
                costs[gap] = cost(*gap)

        cheapest = min(range(len(gaps)), key=lambda i: costs[gaps[i]])
        kept.pop(cheapest + 1)
        tick()


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means of the 3x3 patches of `x` (C*9) and of `y` (D), their covariances (C*9, C*9) and (C*9, D), in float64."""
    n, c, d = 0, x.shape[1] * TAPS, y.shape[1]
    total = torch.zeros(c + d, c + d, dtype=torch.float64, device=x.device)
    mean = torch.zeros(c + d, dtype=torch.float64, device=x.device)

    for a, b in zip(x.split(4), y.split(4), strict=True):  # a few crops at a time, for the memory
        patches = F.unfold(a, 3, padding=1)  # (4, C*9, h w)
        rows = torch.cat([patches, b.flatten(2)], 1).transpose(1, 2).flatten(0, 1)  # (4 h w, C*9 + D)
        total += rows.T @ rows
        mean += rows.sum(0, dtype=torch.float64)
        n += len(rows)

    mean /= n
    cov = total / n - mean.outer(mean)
    return mean[:c], mean[c:], cov[:c, :c], cov[:c, c:]


def _solve(cov: Tensor, cross: Tensor) -> Tensor:
    """Least squares with a ridge so small that it only keeps channels which never change from dividing by zero."""
    ridge = 1e-6 * cov.diagonal().mean() + 1e-12
    return torch.linalg.solve(cov + ridge * torch.eye(len(cov), dtype=cov.dtype, device=cov.device), cross)


def _fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The 3x3 kernel (D, C, 3, 3) and bias (D) that take `x` (N, C, h, w) nearest to `y` (N, D, h, w)."""
    mx, my, cov, cross = _moments(x, y)
    w = _solve(cov, cross)
    return w.T.reshape(y.shape[1], x.shape[1], 3, 3).float(), (my - mx @ w).float()


def _unexplained(x: Tensor, y: Tensor) -> float:
    """The part of the variance of `y` that no 3x3 convolution of `x` explains."""
    _, _, cov, cross = _moments(x, y)
    explained = (cross * _solve(cov, cross)).sum() / (y.var((0, 2, 3), unbiased=False).sum() + 1e-12)
    return 1 - explained.item()


def _channels(x: Tensor, y: Tensor, count: int) -> list[int]:
    """Those `count` channels of `x` whose 3x3 convolution explains `y`: of all, the least missed goes, then the next.

    Without channel c the squared error of the best fit W grows by tr(W_c^T (K_cc)^-1 W_c), K the inverse covariance
    (the optimal brain surgeon for groups: Hassibi and Stork 1993).
    """
    _, _, cov, cross = _moments(x, y)
    inverse = _solve(cov, torch.eye(len(cov), dtype=cov.dtype, device=cov.device))
    fit = inverse @ cross  # (C*9, D)
    left = list(range(x.shape[1]))
    blocks = [slice(TAPS * c, TAPS * (c + 1)) for c in left]  # the rows of each channel

    while len(left) > count:
        own = torch.stack([inverse[blocks[c], blocks[c]] for c in left])  # (left, 9, 9)
        weights = torch.stack([fit[blocks[c]] for c in left])  # (left, 9, D)
        growth = (weights * torch.linalg.solve(own, weights)).sum((1, 2))
        gone = blocks[left.pop(int(growth.argmin()))]

        # the best fit and the inverse covariance without that channel
        columns = inverse[:, gone].clone()
        step = torch.linalg.solve(inverse[gone, gone], torch.cat([inverse[gone], fit[gone]], 1))
        inverse = inverse - columns @ step[:, : len(cov)]
        fit = fit - columns @ step[:, len(cov) :]
    return left
