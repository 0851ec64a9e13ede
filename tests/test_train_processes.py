"""Training by two processes: they learn what one learns, and stop where they cannot share the work."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.training import config, difference

from kd_utils import train
from kd_utils.common import files
from kd_utils.common.errors import TrainError


def torchrun(*command):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *start, *command], capture_output=True, text=True, env=env, timeout=300)


TWO = [("train.dtype=float64 train.baseline=no", 50, 1e-5), ("train.dtype=fp32 train.baseline=yes", 5, 1e-4)]


@pytest.mark.parametrize(("more", "steps", "off"), TWO)
def test_two_processes_learn_what_one_learns(labelled, tmp_path, more, steps, off):
    # SOAP's bases are arbitrary where there is no gradient yet: the last bits of a sum decide there
    more = f"{more} train.steps={steps} train.save_every=100 train.optimizer=adam"
    one = train.train(config(labelled, tmp_path / "one", more))
    config(labelled, tmp_path / "two", more)
    pairs = [p for key in f"{labelled[1]} {more} workdir={tmp_path / 'two'}".split() for p in ("--set", key)]
    done = torchrun("-m", "kd_utils", "train", *pairs)
    assert done.returncode == 0, done.stderr[-2000:]
    assert difference(one.student, tmp_path / "two" / "student_model.pth") < off  # of steps of .001
    loss = [files.read_json(tmp_path / n / "train/student/history.json")["loss"] for n in ("one", "two")]
    np.testing.assert_allclose(*loss, rtol=10 * off)  # in fp32 they part by rounding, on some CPUs soon
    if one.baseline:  # the second training of the same processes
        assert difference(one.baseline, tmp_path / "two" / "train/no_teacher/student_model.pth") < off


def test_processes_that_find_different_checkpoints_stop(labelled, tmp_path):
    config(labelled, tmp_path / "1")
    done = train.train(config(labelled, tmp_path / "0", "train.baseline=no"))
    done.student.unlink()
    (tmp_path / "0" / "train" / "student" / "student_model.pth").unlink()
    script = tmp_path / "run.py"  # each process with a disk of its own
    script.write_text(
        "import os, sys\nfrom kd_utils import config, train\n"
        "train.train(config.make('quick', sys.argv[1], workdir=f\"{sys.argv[2]}/{os.environ['RANK']}\"))"
    )
    got = torchrun(script, f"{labelled[1]} train.baseline=no", tmp_path)
    assert got.returncode and "different steps (12, 0 by rank)" in got.stderr and "--workdir" in got.stderr


def test_a_batch_that_ranks_cannot_share_is_refused(labelled, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainError, match="train.batch=4 cannot be shared by 3"):
        train.train(config(labelled, tmp_path))
