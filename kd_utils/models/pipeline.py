"""Photos through a network: one, or many of which some are on their way at the same time."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from tqdm.auto import tqdm

from kd_utils.common import files
from kd_utils.common.errors import SharpenError
from kd_utils.imaging import colors, reading, writing
from kd_utils.imaging.reading import Photo
from kd_utils.imaging.records import Decision, Entry, Record
from kd_utils.models import tiling
from kd_utils.models.engines import Tool

IN_FLIGHT = 3  # photos in memory at most, where the network takes one at a time: one is read, one in it, one written
AT_ONCE = 4  # photos in memory at most, where the network takes several at a time
STANDARD = Path("-")  # standard input or output


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
    pixels = _visible(photo)
    canvas = tiling.to_canvas(tool.step(strength), tool.reach, pixels, tool.device, tile, overlap, progress)
    return _finish(photo, pixels, canvas, tool.scale)


def _visible(photo: Photo) -> np.ndarray:
    """The colours that the network is to see."""
    if photo.alpha is None:
        return photo.pixels
    return colors.fill_transparent(photo.pixels, photo.alpha)


def _finish(photo: Photo, pixels: np.ndarray, canvas: np.ndarray, scale: int) -> Photo:
    """What the network made of `pixels`, with their low frequencies and the photo's alpha, enlarged."""
    colors.match_low_frequencies(canvas, pixels, scale)
    alpha = photo.alpha
    if alpha is not None and scale > 1:
        height, width = alpha.shape
        alpha = cv2.resize(alpha, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    return dataclasses.replace(photo, pixels=canvas, alpha=alpha)


# ---- many files


@dataclass(frozen=True)
class Options:
    """How photos are sharpened: the model and the scale, the strength of the effect, tiles, and what is redone."""

    model: str | Path = ""
    scale: int = 4
    device: str = "auto"
    engine: str = "torch"
    strength: float = 1.0
    tile: int | None = None
    overlap: int | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Raises SharpenError."""
        if not 0 <= self.strength <= 1:
            raise SharpenError(f"strength={self.strength}: choose from 0 (only resized) to 1 (the model's full effect)")
        if (self.tile is not None and self.tile < 1) or (self.overlap is not None and self.overlap < 0):
            raise SharpenError(
                f"tile={self.tile}, overlap={self.overlap}: a tile has at least 1 pixel, an overlap at least 0"
            )


@dataclass
class Outcome:
    """What became of one input."""

    input: str
    output: str = ""
    state: str = "failed"  # written, skipped or failed
    why: str = ""  # it was skipped or failed
    model: str = ""
    megapixels: float = 0.0  # of the output
    seconds: float = 0.0  # from its reading to its writing
    not_kept: list[str] = field(default_factory=list)  # what the input held and the output does not, in words


@dataclass
class Job:
    """One photo on its way through the pipeline."""

    source: Path
    target: Path
    outcome: Outcome
    started: float = 0.0
    photo: Photo | None = None  # None: it goes no further
    pixels: np.ndarray | None = None  # what the network sees
    canvas: np.ndarray | None = None  # what it makes
    entry: Entry | None = None


def networks_at_once(tool: Tool, tile: int | None = None) -> int:
    """How many photos go through the network side by side.

    On a CPU a photo for each core, up to `AT_ONCE`, is faster than all cores on one photo: no core waits for another. A
    network whose tiles are large takes one after the other, and so do a GPU and engines with threads of their own.
    """
    smallest_tile = (tiling.SMALLEST + 2 * tool.reach.radius) ** 2 * tool.reach.pixel_bytes
    if tool.device.type != "cpu" or not tool.engine.startswith("PyTorch") or tile or smallest_tile > tiling.CPU_BUDGET:
        return 1
    threads = torch.get_num_threads()
    return max(n for n in range(1, min(AT_ONCE, threads) + 1) if threads % n <= 1)  # at most one core is idle


class Pipeline:
    """Reads, sharpens and writes photos: while one waits for its file or for the network, others go on."""

    def __init__(self, tool: Tool, options: Options, record: Record, bar: tqdm):
        self.tool, self.options, self.record, self.bar = tool, options, record, bar
        self.model_sha256 = files.sha256(tool.path)
        self.start = time.perf_counter()
        self.megapixels = 0.0
        self.stopped = False
        self.network = threading.Semaphore(1)

    def run(self, pairs: list[tuple[Path, Path]]) -> Generator[Outcome, None, None]:
        """The outcomes, in the order of the photos."""
        at_once = networks_at_once(self.tool, self.options.tile)
        last = len(pairs) % at_once  # they share all cores
        yield from self._run(pairs[: len(pairs) - last], at_once)
        yield from self._run(pairs[len(pairs) - last :], last)

    def _run(self, pairs: list[tuple[Path, Path]], at_once: int) -> Generator[Outcome, None, None]:
        if not pairs:
            return
        self.network = threading.Semaphore(at_once)  # where it takes one at a time, others are read and written
        watch = register_module_forward_pre_hook(self._stop_network)
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(
            at_once if at_once > 1 else IN_FLIGHT,
            initializer=torch.set_num_threads,  # each thread has a number of its own
            initargs=(max(1, threads // at_once),),
        )
        try:
            yield from pool.map(self.make, pairs)
        except BaseException:  # Ctrl-C, or the caller wants no more
            self.stopped = True
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            watch.remove()
            torch.set_num_threads(threads)

    def _stop_network(self, *_: object) -> None:
        """End a network that nobody waits for any more: called before each of its layers, and after each tile."""
        if self.stopped:
            raise KeyboardInterrupt  # not an error of the photo, which would only be noted

    def make(self, pair: tuple[Path, Path]) -> Outcome:
        """One photo from its file to its output."""
        job = self.read(*pair)
        with self.network:
            self.sharpen(job)
        return self.write(job)

    def read(self, source: Path, target: Path) -> Job:
        """A job with its photo, or without one where there is nothing to make of it."""
        job = Job(source, target, Outcome(str(source), str(target), model=self.tool.path.stem), time.perf_counter())
        try:
            data = sys.stdin.buffer.read() if source == STANDARD else reading.read_bytes(source)
            if self._is_wanted(job, files.sha256(data)):
                photo = reading.read(data, str(source))
                height, width, _ = photo.pixels.shape
                if target == STANDARD:
                    job.target = Path(f"-{photo.kind if photo.kind in writing.SUFFIXES else '.png'}")
                writing.check(job.target.suffix, width * self.tool.scale, height * self.tool.scale)
                job.pixels = _visible(photo)
                job.photo = photo
        except Exception as e:  # noqa: BLE001 - whatever one file brings up, the rest goes on
            job.outcome.why = str(e) or type(e).__name__
        return job

    def _is_wanted(self, job: Job, sha256: str) -> bool:
        """Whether the record says that the output is to be made; if not, the outcome says why."""
        if job.target == STANDARD:
            return True
        options = self.options
        job.entry = Entry(
            self.record.name(job.target),
            os.path.abspath(job.source),
            sha256,
            self.model_sha256,
            self.tool.scale,
            options.strength,
        )
        decision = self.record.decide(job.target, job.entry, options.overwrite)
        if decision is Decision.SKIP:
            job.outcome.state = "skipped"
        elif decision is Decision.EDITED:
            job.outcome.state = "skipped"
            job.outcome.why = "left as it is: not as sharpen wrote it (--overwrite replaces it)"
        elif decision is Decision.FOREIGN:
            known = self.record.find(job.target)
            job.outcome.why = f"{job.target} is the output of {known.source}: choose another folder"
        return decision is Decision.MAKE

    def sharpen(self, job: Job) -> None:
        """Run the network; the canvas is finished by `write`, while the network is free for the next photo."""
        if job.photo is None:
            return
        tool, options = self.tool, self.options
        try:
            step = tool.step(options.strength)
            job.canvas = tiling.to_canvas(
                step, tool.reach, job.pixels, tool.device, options.tile, options.overlap, self._progress
            )
        except Exception as e:  # noqa: BLE001
            job.outcome.why = str(e) or type(e).__name__
            job.photo = None

    def _progress(self, pixels: int) -> None:
        self._stop_network()
        self.megapixels += pixels / 1e6
        speed = self.megapixels / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"{self.megapixels:.1f} MP, {speed:.2f} MP/s", refresh=False)
        self.bar.update(0)

    def write(self, job: Job) -> Outcome:
        outcome = job.outcome
        if job.photo is not None:
            try:
                photo = _finish(job.photo, job.pixels, job.canvas, self.tool.scale)
                outcome.not_kept = photo.meta.lost + self._store(photo, job)
                outcome.megapixels = photo.pixels.shape[0] * photo.pixels.shape[1] / 1e6
                outcome.state = "written"
            except Exception as e:  # noqa: BLE001
                outcome.why = str(e) or type(e).__name__
            job.photo = job.pixels = job.canvas = None
        outcome.seconds = time.perf_counter() - job.started
        return outcome

    def _store(self, photo: Photo, job: Job) -> list[str]:
        """Write the output, then its line in the record; returns what could not be kept."""
        if job.entry is None:
            sys.stdout.buffer.write(writing.encode(photo, job.target.suffix))
            sys.stdout.buffer.flush()
            return []
        lost = writing.save(photo, job.target)
        self.record.add(dataclasses.replace(job.entry, output_sha256=files.sha256(job.target)))
        return lost
