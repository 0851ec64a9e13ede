"""The student: a light CNN with PixelShuffle upscaling, over-parameterised while it trains, plain when it ships.

The fused x4 student is exactly Real-ESRGAN's SRVGGNetCompact (conv + PReLU stack, PixelShuffle, nearest residual), so
`student_model.pth` opens in every tool that reads "RealESRGAN Compact". While training, each 3x3 kernel is a sum,
    W = W0 + P * E + I            (P: 1x1 projection of `expand` times the width, E: 3x3 expansion, I: identity)
as in SESR's collapsible blocks (Bhardwaj et al., 2022, arXiv:2103.09404). The sum is formed on the kernels, which are
tiny, not on the feature maps, so that training wide costs what training plain costs, and zero padding stays exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_utils.common import files
from kd_utils.common.errors import StudentError
from kd_utils.common.tensors import checksum, read_checkpoint

# width and number of inner convolutions; GMAC for a 1024x1024 output: 3.4, 9.4, 19.7
SIZES = {"s": (24, 8), "m": (32, 14), "l": (32, 31)}
UP = 4  # the body always runs on the output/4 grid


class Convolution(nn.Conv2d):
    """A 3x3 convolution that keeps the size, with a bias."""

    bias: Tensor  # pyright: ignore (torch says that it may be None)

    def __init__(self, cin: int, cout: int):
        super().__init__(cin, cout, 3, padding=1)


class CollapsibleConv(nn.Module):
    """A 3x3 convolution whose kernel is composed of several while training; `kernel()` is the plain one."""

    def __init__(self, cin: int, cout: int, expand: int):
        super().__init__()
        plain = Convolution(cin, cout)
        self.weight, self.bias = plain.weight, plain.bias
        self.identity = cin == cout

        # P starts at small random values, so that the sum starts near the plain kernel
        mid = expand * max(cin, cout)
        self.expand = nn.Parameter(torch.empty(mid, cin, 3, 3))
        self.project = nn.Parameter(torch.empty(cout, mid))
        nn.init.kaiming_normal_(self.expand, nonlinearity="linear")
        nn.init.normal_(self.project, std=0.1 * mid**-0.5)

    def kernel(self) -> Tensor:
        """The equivalent plain kernel, (cout, cin, 3, 3)."""
        w = self.weight + (self.project @ self.expand.flatten(1)).view_as(self.weight)
        if self.identity:
            eye = torch.eye(w.shape[0], dtype=w.dtype, device=w.device)
            w = w + F.pad(eye[:, :, None, None], (1, 1, 1, 1))
        return w

    def forward(self, x: Tensor) -> Tensor:  # (N, cin, h, w) -> (N, cout, h, w)
        return F.conv2d(x, self.kernel(), self.bias, padding=1)


class Student(nn.Module):
    """(N, 3, h, w) RGB in [0, 1] -> (N, 3, h*scale, w*scale), not clamped. For scale 2 and 1, h and w must be
    multiples of 4/scale. `expand` > 0 builds the training form. Raises StudentError for another scale.
    """

    meta: dict[str, Any]  # what the file that it was loaded from says of it

    def __init__(self, feat: int, convs: int, scale: int = 4, expand: int = 0):
        super().__init__()
        if scale not in (4, 2, 1):
            raise StudentError(f"scale={scale}: a student is of scale 4, 2 or 1")
        self.feat, self.convs, self.scale, self.expand = feat, convs, scale, expand
        self.down = UP // scale

        layers: list[nn.Module] = [self._conv(3 * self.down**2, feat), nn.PReLU(feat)]
        for _ in range(convs):
            inner = self._conv(feat, feat)
            layers += [inner, nn.PReLU(feat)]
            if not expand:  # the training form starts there anyway
                _start_near_identity(inner)

        # the residual starts small, so the student starts as the upsampled input
        last = self._conv(feat, 3 * UP**2)
        with torch.no_grad():
            last.weight *= 0.1
            last.bias.zero_()
        layers.append(last)

        # Compact readers go by the name "body"; a scale 2 or 1 student must not be taken for a Compact.
        self.trunk = "body" if scale == 4 else f"x{scale}_body"
        self.add_module(self.trunk, nn.Sequential(*layers))

    def _conv(self, cin: int, cout: int) -> Convolution | CollapsibleConv:
        if self.expand:
            return CollapsibleConv(cin, cout, self.expand)
        return Convolution(cin, cout)

    @property
    def layers(self) -> nn.Sequential:
        """Convolutions at even places, the PReLU of each but the last one behind it."""
        return getattr(self, self.trunk)

    @property
    def convolutions(self) -> list[Convolution]:
        """First to last; those of the training form are `CollapsibleConv`."""
        return list(self.layers[::2])  # pyright: ignore (a Sequential does not say what is in it)

    @property
    def activations(self) -> list[nn.PReLU]:
        """First to last: one fewer than convolutions."""
        return list(self.layers[1::2])  # pyright: ignore

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_unshuffle(x, self.down) if self.down > 1 else x  # (N, 3 d^2, h/d, w/d)
        y = self.layers(y)  # (N, 48, h s/4, w s/4)
        y = F.pixel_shuffle(y, UP)  # (N, 3, h s, w s)

        if self.scale == 1:
            return y + x
        return y + F.interpolate(x, scale_factor=self.scale, mode="nearest")


@torch.no_grad()
def _start_near_identity(conv: Convolution | CollapsibleConv) -> None:
    """Set a convolution to the identity and a little noise: from torch's own start size m learnt nothing."""
    nn.init.dirac_(conv.weight)
    fan_in = conv.weight[0].numel()
    conv.weight += 0.3 * fan_in**-0.5 * torch.randn_like(conv.weight)
    conv.bias.zero_()


def shape(size: str) -> tuple[int, int]:
    """Width and number of inner convolutions of a size: one of `SIZES`, or such as "32x4". Raises StudentError."""
    if size in SIZES:
        return SIZES[size]
    try:
        feat, convs = map(int, size.split("x"))
    except ValueError:
        raise StudentError(f"student size {size!r}: choose one of {', '.join(SIZES)}, or such as 32x4") from None
    return feat, convs


def size_of(shape: str) -> str:
    """The name in `SIZES` of a shape such as "32x14"; a shape without a name stays as it is."""
    return next((name for name, (feat, convs) in SIZES.items() if shape == f"{feat}x{convs}"), shape)


def build(size: str, scale: int = 4, expand: int = 0) -> Student:
    """A new student of a size (see `shape`); its random weights come from torch's current seed."""
    return Student(*shape(size), scale=scale, expand=expand)


@torch.no_grad()
def fuse(net: Student) -> Student:
    """The plain network that computes the same as `net` (to rounding)."""
    plain = Student(net.feat, net.convs, net.scale)
    plain = plain.to(next(net.parameters()))

    for new, old in zip(plain.layers, net.layers, strict=True):
        if isinstance(old, CollapsibleConv):
            new.load_state_dict({"weight": old.kernel(), "bias": old.bias})
        else:
            new.load_state_dict(old.state_dict())
    return plain.eval()


def save(net: Student, path: str | Path, meta: dict[str, Any] | None = None) -> Path:
    """Write `net` fused, in fp32, as ``{"params": state_dict, "meta": {...}}``, which Compact readers open.

    `meta` gets the checksum of the weights, as torch does not notice a flipped bit.
    """
    plain = fuse(net).float().cpu()
    state = {name: value.contiguous() for name, value in plain.state_dict().items()}
    about = {"scale": net.scale} | (meta or {}) | {"sha256": checksum(state)}
    return files.write_torch(path, {"params": state, "meta": about})


def load(path: str | Path) -> Student:
    """A student of any scale, or any plain x4 Compact model, fused, fp32, in eval mode, on the CPU.

    Raises CheckpointError for a file that cannot be read or is damaged, StudentError for another network.
    """
    data = read_checkpoint(path)
    try:
        net = from_state_dict(state_dict_of(data))
    except StudentError as e:
        raise StudentError(f"{path} is not a student or a x4 Compact model: choose a file that `train` wrote") from e
    meta = data.get("meta") if isinstance(data, dict) else None
    net.meta = dict(meta) if isinstance(meta, dict) else {}
    net.meta.pop("sha256", None)  # it belongs to the file, and was verified
    return net


def from_state_dict(state: dict[str, Tensor]) -> Student:
    """The plain student, or x4 Compact model, that these weights are of; fp32, in eval mode. Raises StudentError."""
    try:
        trunk = next(name for name in state if name.endswith("body.0.weight")).removesuffix(".0.weight")
        scale = {"body": 4, "x2_body": 2, "x1_body": 1}[trunk]
        feat = state[f"{trunk}.0.weight"].shape[0]
        last = max(int(name.split(".")[1]) for name in state)  # convolutions and PReLUs are numbered through
        convs = last // 2 - 1
        if len(state) != 3 * convs + 5:  # before a network of any size that a damaged name asks for is made
            raise ValueError(f"{len(state)} tensors are not those of {convs} inner convolutions")
        net = Student(feat, convs, scale)
        net.load_state_dict({name: value.float() for name, value in state.items()})
    except (StopIteration, KeyError, IndexError, RuntimeError, AttributeError, ValueError, TypeError) as e:
        raise StudentError("these weights are not those of a student or a x4 Compact model") from e
    return net.eval()


def state_dict_of(data: Any) -> Any:
    """The weights within a checkpoint, under their plain names.

    Real-ESRGAN keeps the averaged ones in `params_ema`, others in `params`; training tools put a prefix before names.
    """
    if isinstance(data, dict):
        for key in ("params_ema", "params"):
            if isinstance(data.get(key), dict):
                data = data[key]
                break
    for prefix in ("module.", "net_g."):
        if isinstance(data, dict) and data and all(isinstance(k, str) and k.startswith(prefix) for k in data):
            data = {name.removeprefix(prefix): value for name, value in data.items()}
    return data


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def gmac(net: nn.Module, scale: int = 4, side: int = 1024) -> float:
    """10^9 multiply-adds of all convolutions for a `side` x `side` output; exact, by running a small input."""
    from torch.utils.flop_counter import FlopCounterMode  # 100 MB, which sharpening has no use for

    if isinstance(net, Student):
        net = fuse(net)
    like = next(net.parameters())
    x = torch.zeros(1, 3, 64 // scale, 64 // scale, dtype=like.dtype, device=like.device)
    with FlopCounterMode(display=False) as count:
        net(x)
    return count.get_total_flops() / 2 * (side / 64) ** 2 / 1e9
