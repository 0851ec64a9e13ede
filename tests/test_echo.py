"""What a run prints, and its progress bars: on a terminal and in a log file."""

from __future__ import annotations

import io
import re
import sys

import torch

from kd_utils.common import progress
from kd_utils.common.echo import Echo, plain


def test_bars_and_prints_in_a_log_file():
    out = io.StringIO()
    echo = Echo(out)
    prints, bars = echo.stream(), echo.stream()
    bars.write("\rsteps:   0%|    | 0/9")
    bars.write("\rsteps:  10%|    | 1/9")
    bars.write("\rsteps: 100%|####| 9/9")
    bars.write("\rsteps: 100%|####| 9/9")
    prints.write("done\nsecond")
    bars.write("\n")
    prints.write(" line\n\n")
    echo.end_line()
    assert out.getvalue() == "  steps:   0%|    | 0/9\n  steps: 100%|####| 9/9\n  done\n  second\n   line\n"


def test_a_bar_in_a_log_file_is_a_plain_line():
    states = {
        "train student (s):  45%|████▌     | 9/20 [00:10<00:12,  1.20step/s, loss=0.1, images/s=9.6, memory=1.2 GB]":
            "train student (s): 9 of 20, 00:12 left, 1.20step/s, loss 0.1, images/s 9.6, memory 1.2 GB",
        "crops: 100%|##########| 5/5 [01:02<00:00, 12.4s/photo]": "crops: 5 of 5, took 01:02, 12.4s/photo",
        "crops:   0%|          | 0/5 [00:00<?, ?photo/s]": "crops: 0 of 5, ? left",
        "a.pth:  50%|#####     | 9.0M/18.0M [00:01<00:01, 9.00MB/s]": "a.pth: 9.0M of 18.0M, 00:01 left, 9.00MB/s",
        "x4: 12image [00:10]": "x4: 12image [00:10]",
    }  # fmt: skip
    for bar, line in states.items():
        assert plain(bar) == line


def test_real_bars_are_read(capsys):
    from tqdm import tqdm

    bar = tqdm(total=20, desc="train student (s)", unit="step", ncols=200, file=sys.stdout, mininterval=0)
    bar.update(5)
    bar.set_postfix({"loss": "0.1"} | progress.beside(bar, torch.device("cpu"), 8))
    bar.close()
    last = capsys.readouterr().out.split("\r")[-1].strip("\n")
    assert re.fullmatch(
        r"train student \(s\): 5 of 20, .* left, .*step/s, loss 0.1, .*memory [\d.]+ GB", plain(last)
    ), last


def test_bars_move_on_a_terminal():
    out = io.StringIO()
    out.isatty = lambda: True
    echo = Echo(out)
    bars, prints = echo.stream(), echo.stream()
    bars.write("\rsteps:  10%")
    bars.write("\rsteps:  20%")
    prints.write("done\n")
    assert out.getvalue() == "\r  steps:  10%\r  steps:  20%\n  done\n"
