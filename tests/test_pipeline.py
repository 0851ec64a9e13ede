"""Several photos on their way through `sharpen` at once: the same files, in order, each counted once, and Ctrl-C."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import picture
from helpers.sharpening import outputs, run, save

from kd_utils import sharpen
from kd_utils.common import interrupts
from kd_utils.imaging import reading, records
from kd_utils.models import pipeline
from kd_utils.own_files import ROOT


@pytest.mark.parametrize("at_once", [1, 3])
def test_photos_at_once_make_the_files_that_each_makes_alone(tmp_path, models, monkeypatch, at_once):
    monkeypatch.setattr(pipeline, "networks_at_once", lambda tool, tile: at_once)
    threads = torch.get_num_threads()
    for n in range(7):
        save(tmp_path / "in" / f"{n}.png", picture(40 + n, 30))
    (tmp_path / "in" / "3.png").write_bytes(b"no photo")

    done = sharpen.sharpen(tmp_path / "in", tmp_path / "out", model=models[4])
    assert [Path(outcome.input).name for outcome in done.outcomes] == [f"{n}.png" for n in range(7)]
    assert [outcome.state for outcome in done.outcomes] == ["written"] * 3 + ["failed"] + ["written"] * 3
    assert torch.get_num_threads() == threads
    assert len(records.Record(tmp_path / "out").entries) == 6

    tool = sharpen.load(models[4])
    for n in (0, 6):
        alone = sharpen.apply(tool, reading.read(tmp_path / "in" / f"{n}.png"))
        made = reading.read(tmp_path / "out" / f"{n}.png")
        assert np.array_equal(made.pixels, alone.pixels)


def test_large_networks_and_other_engines_take_one_photo_at_a_time(models):
    tool = sharpen.load(models[4], device="cpu")
    assert pipeline.networks_at_once(tool) == min(pipeline.AT_ONCE, torch.get_num_threads())
    tool.engine = "OpenVINO 2026.0 in fp32"
    assert pipeline.networks_at_once(tool) == 1
    tool.engine = "PyTorch 2.15 in fp32"
    tool.reach = replace(tool.reach, pixel_bytes=1 << 20)
    assert pipeline.networks_at_once(tool) == 1


def test_the_progress_bar_counts_every_photo_once(tmp_path, models, capsys, monkeypatch):
    monkeypatch.setattr(sharpen, "tqdm", functools.partial(sharpen.tqdm, mininterval=0))
    for i in range(6):
        save(tmp_path / "in" / f"{i}.png", picture())
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    assert run(tmp_path / "in" / "0.png", tmp_path / "out", model=models[4], tile=8) == 0
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", model=models[4], tile=8) == 1  # one skipped, one failed
    counts = [(int(n), int(total)) for n, total in re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err)]
    assert counts[-1] == (7, 7) and {total for _, total in counts} == {7}
    shown = [n for n, _ in counts]
    assert shown == sorted(shown) and len(shown) > 20  # tiles are shown in between
    assert shown.count(7) <= 2  # none of them before the last photo is done


def test_ctrl_c_ends_after_a_tile_and_the_same_call_goes_on(tmp_path):
    for n in range(6):
        save(tmp_path / "in" / f"{n}.png", picture(420, 420))
    command = [sys.executable, "-m", "kd_utils", "sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", "l"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out/*.png")):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == interrupts.STOPPED and "Traceback" not in said

    made = outputs(tmp_path / "out")
    assert 0 < len(made) < 6 and set(made) <= {f"{n}.png" for n in range(6)}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert len(outputs(tmp_path / "out")) == 6
