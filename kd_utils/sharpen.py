"""Step 5: sharpen photos of any size and kind with a student, from Python or from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from torch import Tensor
from tqdm.auto import tqdm

from kd_utils import export
from kd_utils.common import devices, files
from kd_utils.common.errors import CheckpointError, SharpenError
from kd_utils.common.tensors import bicubic, read_checkpoint
from kd_utils.imaging import colors, reading, writing
from kd_utils.imaging.file_pairs import check_writable, pair_files
from kd_utils.imaging.reading import Photo
from kd_utils.models import student, tiling

EVEN = 0.75  # the mean gradient of a blend by w grows like w ** 1.35: measured, docs/sharpen.md


@dataclass
class Tool:
    """A network ready to sharpen."""

    net: Callable[[Tensor], Tensor]  # (1, 3, h, w) in [0, 1] -> (1, 3, h*native, w*native), on `device`
    reach: tiling.ReceptiveField  # of the whole step, which ends at `scale`
    scale: int
    native: int  # the network's own scale
    device: torch.device
    path: Path

    def step(self, strength: float = 1.0) -> Callable[[Tensor], Tensor]:
        """The network, resized down if its scale is larger, blended with the plain upsampled input by `strength`.

        The blend is of the coded values, by strength ** EVEN: sharpness then grows evenly (docs/sharpen.md).
        """

        def run(x: Tensor) -> Tensor:
            size = (x.shape[2] * self.scale, x.shape[3] * self.scale)
            y = self.net(x).float()
            y = y if self.native == self.scale else bicubic(y, size)
            if strength == 1:
                return y
            plain = x if self.scale == 1 else bicubic(x, size)
            return plain.lerp(y, strength**EVEN)

        return run


def load(model: str | Path = "", scale: int = 4, device: str = "auto", engine: str = "torch") -> Tool:
    """A student (or any x4 Real-ESRGAN checkpoint) by path, or "s", "m" or "l": of that size, of those that ship.

    A model of a larger scale than wanted is resized down. `engine` is "torch", or "onnx" for onnxruntime on the CPU.
    Raises CheckpointError, ConfigError or SharpenError.
    """
    if scale not in export.DEFAULT:
        raise SharpenError(f"scale={scale}: choose 4, 2 or 1")
    path = export.find(model, scale)
    where = devices.resolve_device("cpu" if engine == "onnx" and device == "auto" else device)
    try:
        net = student.load(path)
    except CheckpointError as e:
        if engine == "onnx":
            raise
        read_checkpoint(path)  # what cannot be read at all is no other model either
        from kd_utils.models import teacher

        try:
            net = teacher.load_teacher(str(path)).net
        except teacher.TeacherError:
            raise e from None
    try:
        reach = tiling.measure_receptive_field(net)
    except tiling.UnknownReceptiveField as e:
        raise SharpenError(f"{path} cannot be tiled ({e}): choose a student, a Compact or an RRDBNet model") from e
    native = reach.scale
    if native < scale:
        raise SharpenError(f"{path} is a x{native} model, it cannot give --scale {scale}: choose --scale {native}")
    if native > scale:  # the resize down reads up to 2 input pixels beyond
        radius = math.ceil((reach.radius + 2) / reach.multiple) * reach.multiple
        reach = dataclasses.replace(reach, scale=scale, radius=radius)
    run = _onnx(net, where) if engine == "onnx" else _torch(net, where)
    return Tool(run, reach, scale, native, where, path)


def _torch(net: torch.nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    # channels_last is what oneDNN and cuDNN are fastest in: benchmarks/speed.py
    net = net.to(device, memory_format=torch.channels_last)
    half = devices.inference_dtype(device)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(device.type, half, enabled=half != torch.float32):
            return net(x.contiguous(memory_format=torch.channels_last))

    return run


def _onnx(net: student.Student, device: torch.device) -> Callable[[Tensor], Tensor]:
    if device.type != "cpu":
        raise SharpenError(
            f"engine onnx runs on the CPU, not on {device}: leave --device out, or choose --engine torch"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # the arena would keep the largest tile's memory
    data = export.graph(net).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def apply(
    tool: Tool,
    photo: Photo,
    strength: float = 1.0,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Callable[[int], None] = lambda pixels: None,
) -> Photo:
    """Sharpen one photo, of any size, depth and number of channels; the rest of it comes along.

    Alpha: what is fully clear first takes the colour of its nearest opaque neighbours, so that no unseen colour
    bleeds in as a halo; then the colours go through the network and alpha through a bicubic resize.
    """
    pixels = photo.pixels if photo.alpha is None else colors.fill_transparent(photo.pixels, photo.alpha)
    h, w, _ = pixels.shape
    canvas = tiling.to_canvas(tool.step(strength), tool.reach, pixels, tool.device, tile, overlap, progress)
    colors.match_low_frequencies(canvas, pixels, tool.scale)
    alpha = photo.alpha
    if alpha is not None and tool.scale > 1:
        alpha = cv2.resize(alpha, (w * tool.scale, h * tool.scale), interpolation=cv2.INTER_CUBIC)
    return dataclasses.replace(photo, pixels=canvas, alpha=alpha)


@dataclass
class Summary:
    """What `sharpen` did."""

    sources: list[Path] = field(default_factory=list)  # the inputs whose outputs are there now
    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)  # (input, why)
    left_out: Counter[str] = field(default_factory=Counter)  # the other files of the folders, by suffix
    megapixels: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        speed = f", {self.megapixels / self.seconds:.2f} MP/s" if self.written else ""
        there = f", {len(self.skipped)} skipped (already there; overwrite redoes them)" if self.skipped else ""
        first = f"{len(self.written)} sharpened ({self.megapixels:.1f} MP{speed}){there}, {len(self.failed)} failed"
        lines = [first, *(f"  {why if name in why else f'{name}: {why}'}" for name, why in self.failed)]
        if n := self.left_out.total():
            kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.left_out.most_common())
            lines.append(f"{n} other file{'s' if n > 1 else ''} left out ({kinds})")
        return "\n".join(lines)


def sharpen(
    inputs: list[str | Path] | str | Path,
    output: str | Path,
    *,
    model: str | Path = "",
    scale: int = 4,
    device: str = "auto",
    engine: str = "torch",
    strength: float = 1.0,
    tile: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Sharpen files, globs and folders into `output`: a folder, or a file where the input is one file.

    A folder's structure is kept. What exists in `output` is skipped unless `overwrite`. A file that fails is noted and
    the rest goes on; outputs are whole or absent. Raises CheckpointError, ConfigError, ImageError or SharpenError for
    a model, an option or an output that cannot be used.
    """
    if not 0 <= strength <= 1:
        raise SharpenError(f"strength={strength}: choose from 0 (only resized) to 1 (the model's full effect)")
    if (tile is not None and tile < 1) or (overlap is not None and overlap < 0):
        raise SharpenError(f"tile={tile}, overlap={overlap}: a tile has at least 1 pixel, an overlap at least 0")
    output, done = Path(output).expanduser(), Summary()
    inputs = [inputs] if isinstance(inputs, (str, Path)) else inputs
    jobs = list(pair_files([str(i) for i in inputs], output, done.failed, done.left_out))
    if todo := [target for _, target in jobs if overwrite or not os.path.exists(target)]:
        check_writable(output.parent if todo == [output] else output)
    tool, start = load(model, scale, device, engine), time.perf_counter()

    def progress(pixels: int) -> None:
        done.megapixels += pixels / 1e6
        speed = done.megapixels / (time.perf_counter() - start)
        bar.set_postfix_str(f"{done.megapixels:.1f} MP, {speed:.2f} MP/s", refresh=False)
        bar.update(0)

    with tqdm(total=len(jobs), unit="image", desc=f"x{scale}", miniters=0) as bar:
        for source, target in jobs:
            if os.path.exists(target) and not overwrite:
                done.skipped.append(target)
                done.sources.append(source)
            else:
                try:
                    photo = reading.read(source)
                    h, w, _ = photo.pixels.shape
                    writing.check(target.suffix, w * scale, h * scale)
                    pieces = writing.encode(apply(tool, photo, strength, tile, overlap, progress), target.suffix)
                    done.written.append(files.write_bytes(target, b"".join(pieces)))
                    done.sources.append(source)
                except Exception as e:  # noqa: BLE001 - whatever one file brings up, the rest goes on
                    done.failed.append((str(source), str(e) or type(e).__name__))
            bar.update(1)
    done.seconds = time.perf_counter() - start
    return done


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IN", help="image files, folders (their structure is kept) or globs")
    add(
        "output",
        metavar="OUT",
        help="a folder, or a file for one input; right behind the inputs, options before or after",
    )
    add("--scale", type=int, choices=(4, 2, 1), default=4, help="times larger (default: 4); 1: sharper, same size")
    text = "s, m or l of the students that ship (default: m; at scale 1, s), or a student or other x4 Real-ESRGAN .pth"
    add("--model", default="", help=text)
    add("--strength", type=float, default=1.0, help="0 (only resized) to 1 (the model's full effect, default)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--engine", choices=("torch", "onnx"), default="torch", help="onnx: onnxruntime, on the CPU")
    add("--tile", type=int, help="side of a tile in input pixels (default: by the memory there is)")
    add("--overlap", type=int, help="input pixels around a tile (default: the model's reach, without seams)")
    add("--overwrite", action="store_true", help="also redo what is already in OUT")


def main(args: argparse.Namespace) -> int:
    """Exit code 1 if any file failed."""
    names = ("model", "scale", "device", "engine", "strength", "tile", "overlap", "overwrite")
    done = sharpen(args.inputs, args.output, **{name: getattr(args, name) for name in names})
    print(done)
    return 1 if done.failed else 0
