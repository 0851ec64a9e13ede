"""Step 5: sharpen photos of any size and kind with a student, from Python or from the command line.

Of a folder several photos are on their way at once: while one is read or written, others go through the network.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from kd_utils.common import files
from kd_utils.common.errors import KDError, SharpenError
from kd_utils.common.names import escape
from kd_utils.imaging import heif, writing
from kd_utils.imaging.file_pairs import Pairs, check_writable, pair_files, path_of
from kd_utils.imaging.records import Record
from kd_utils.models.engines import ENGINES, EVEN, Tool, load
from kd_utils.models.pipeline import STANDARD, Options, Outcome, Pipeline, apply
from kd_utils.models.shipped import shipped_names

__all__ = ["EVEN", "Options", "Outcome", "Summary", "Tool", "apply", "load", "sharpen"]


@dataclass
class Summary:
    """What `sharpen` did."""

    outcomes: list[Outcome] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # the other files of the folders, by suffix
    folder: str = ""  # where the outputs are
    engine: str = ""  # what computed them, in words
    seconds: float = 0.0

    def of(self, *states: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state in states]

    @property
    def written(self) -> list[Path]:
        return [Path(outcome.output) for outcome in self.of("written")]

    @property
    def skipped(self) -> list[Path]:
        return [Path(outcome.output) for outcome in self.of("skipped")]

    @property
    def sources(self) -> list[Path]:
        """The inputs whose outputs are there now."""
        return [Path(outcome.input) for outcome in self.of("written", "skipped")]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """(input, why)"""
        return [(outcome.input, outcome.why) for outcome in self.of("failed")]

    @property
    def failures(self) -> list[str]:
        """What failed and why, a line each."""
        return [why if name in why else f"{name}: {why}" for name, why in self.failed]

    @property
    def megapixels(self) -> float:
        return sum(outcome.megapixels for outcome in self.of("written"))

    def __str__(self) -> str:
        speed = f", {self.megapixels / self.seconds:.2f} MP/s" if self.written else ""
        first = f"{len(self.written)} sharpened ({self.megapixels:.1f} MP{speed})"
        if self.skipped:
            first += f", {len(self.skipped)} skipped (already there; --overwrite redoes them)"
        lines = [f"{first}, {len(self.failed)} failed"]
        lines += [f"  {line}" for line in self.failures]
        for outcome in self.of("written", "skipped"):
            if outcome.why:
                lines.append(f"  {outcome.output}: {outcome.why}")
            if outcome.not_kept:
                lines.append(f"  {outcome.input}: not kept: {', '.join(outcome.not_kept)}")
        if n := self.left_out.total():
            kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.left_out.most_common())
            lines.append(f"{n} other file{'s' if n > 1 else ''} left out ({kinds})")
        if any(self.left_out[suffix] for suffix in heif.HEIC_SUFFIXES):
            lines.append("HEIC is read with one more package: pip install pillow-heif")
        if self.written or self.skipped:
            lines.append(f"written to {self.folder}, computed by {self.engine}")
        return "\n".join(escape(line) for line in lines)  # a file's name may hold anything


def sharpen(
    inputs: list[str | Path] | str | Path,
    output: str | Path,
    *,
    report: Callable[[Outcome], None] = lambda outcome: None,
    quiet: bool = False,
    **options: Any,
) -> Summary:
    """Sharpen files, globs and folders into `output`: a folder, or a file where the input is one file.

    `options` are the fields of `Options`. A folder's structure is kept. A record in the output folder decides what is
    skipped: the same call is, another model, scale or strength makes it anew, and an edited file stays unless
    `overwrite`. A file that fails is noted and the rest goes on; outputs are whole or absent. `report` is told of every
    file, `quiet` shows no bar. Raises CheckpointError, ConfigError, ImageError or SharpenError for a model, an option
    or an output that cannot be used.
    """
    chosen = Options(**options)
    chosen.check()
    output = path_of(output)
    names = [str(item) for item in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]
    pairs = _standard_pair(names, output) if "-" in (*names, str(output)) else pair_files(names, output)
    folder = output.parent if pairs.single else output
    record = Record(folder)
    if pairs.single and pairs.jobs and output != STANDARD:
        _refuse_a_photo(output, record)
    if any(chosen.overwrite or not os.path.exists(target) for _, target in pairs.jobs) and output != STANDARD:
        check_writable(folder)
        for place in {target.parent for _, target in pairs.jobs}:
            files.sweep(place)

    done = Summary(left_out=pairs.left_out, folder=str(output))
    tool = load(chosen.model, chosen.scale, chosen.device, chosen.engine)
    done.engine = tool.engine
    start = time.perf_counter()
    for name, why in pairs.failed:
        done.outcomes.append(Outcome(name, why=why))
        report(done.outcomes[-1])
    with tqdm(total=len(pairs.jobs), unit="image", desc=f"x{tool.scale}", miniters=0, disable=quiet) as bar:
        pipeline = Pipeline(tool, chosen, record, bar)
        with contextlib.closing(pipeline.run(pairs.jobs)) as outcomes:
            for outcome in outcomes:
                done.outcomes.append(outcome)
                report(outcome)
                bar.update(1)
    done.seconds = time.perf_counter() - start
    return done


def _standard_pair(names: list[str], output: Path) -> Pairs:
    """One photo from standard input, or to standard output. Raises SharpenError for more than one."""
    if len(names) > 1 or (names == ["-"] and output != STANDARD and not output.suffix) or os.path.isdir(output):
        raise SharpenError("- is one photo: name one input, and one file or - as the output")
    if output != STANDARD:
        writing.check(output.suffix)
    return Pairs([(path_of(names[0]), output)], single=True)


def _refuse_a_photo(output: Path, record: Record) -> None:
    """Raises SharpenError for `sharpen a.jpg b.jpg`, where b.jpg is a photo and not an earlier output."""
    if os.path.lexists(output) and record.name(output) not in record.entries:
        raise SharpenError(
            f"{output} is there already, and no output of sharpen: name a folder for several photos, or a new file"
        )


# ---- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IN", help="image files, folders (their structure is kept), globs, or -")
    add(
        "output",
        metavar="OUT",
        help="a folder, or a file (or -) for one input; right behind the inputs, options before or after",
    )
    add("--scale", type=int, choices=(4, 2, 1), default=4, help="times larger (default: 4); 1: sharper, same size")
    text = (
        f"{', '.join(shipped_names())}: students that ship (default: photo-m; at scale 1 photo-s; m is short for "
        "photo-m); or a .pth, .safetensors or .param of a student or another x4 Real-ESRGAN network"
    )
    add("--model", default="", help=text)
    add("--strength", type=float, default=1.0, help="0 (only resized) to 1 (the model's full effect, default)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    text = "auto: the fastest here; onnx (onnxruntime) and openvino run students on the CPU (default: torch)"
    add("--engine", choices=ENGINES, default="torch", help=text)
    add("--tile", type=int, help="side of a tile in input pixels (default: by the memory there is)")
    add("--overlap", type=int, help="input pixels around a tile (default: the model's reach, without seams)")
    add("--overwrite", action="store_true", help="also redo what is already in OUT")
    add("--json", action="store_true", help="one line of JSON a file on standard output")
    add("--quiet", action="store_true", help="say only what failed")


def main(args: argparse.Namespace) -> int:
    """Exit code 0: all done, 1: some files failed, 2: the call cannot be carried out."""
    words = sys.stderr if args.json or args.output == "-" else sys.stdout
    lines = sys.stderr if args.output == "-" else sys.stdout

    def report(outcome: Outcome) -> None:
        if args.json:
            print(json.dumps(dataclasses.asdict(outcome)), file=lines, flush=True)

    options = {f.name: getattr(args, f.name) for f in dataclasses.fields(Options)}
    try:
        done = sharpen(args.inputs, args.output, report=report, quiet=args.quiet, **options)
    except KDError as e:
        raise e if e.exit_code == 2 else SharpenError(str(e)) from e
    if not args.quiet:
        print(done, file=words)
    else:
        for line in done.failures:
            print(escape(line), file=sys.stderr)
    return 1 if done.failed else 0
