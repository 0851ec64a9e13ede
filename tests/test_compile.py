"""train.compile: the same student, by torch.compile's code."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.training import config, difference
from torch._dynamo.utils import counters

from kd_utils import train
from kd_utils.common import files


@pytest.mark.skipif(not shutil.which("g++"), reason="LEFT OUT: train.compile on a CPU wants a C++ compiler (g++)")
def test_compiled_learns_what_plain_does(labelled, tmp_path):
    # in double precision: in single, the last bits of a sum soon make two trainings of one
    more = "train.dtype=float64 train.optimizer=adam device=cpu"
    plain = train.train(config(labelled, tmp_path / "plain", more))
    counters["frames"].clear()
    out = train.train(config(labelled, tmp_path / "compiled", f"{more} train.compile=yes"))
    assert counters["frames"]["ok"] >= 1, "torch.compile was not used"
    np.testing.assert_allclose(*(files.read_json(r.history)["loss"] for r in (plain, out)), rtol=1e-5)
    for name in ("student", "baseline"):
        assert difference(getattr(plain, name), getattr(out, name)) < 1e-5  # 12 steps of .001
    # how the sums are run is no part of what was learnt: the same command without it takes this as done
    before = out.student.stat().st_mtime_ns
    assert train.train(config(labelled, tmp_path / "compiled", more)).student.stat().st_mtime_ns == before


@pytest.mark.slow
def test_no_compiler_is_told_with_the_remedy(labelled, tmp_path):
    config(labelled, tmp_path)
    sets = f"{labelled[1]} train.compile=yes device=cpu workdir={tmp_path}".split()
    env = os.environ | {"CXX": str(tmp_path / "no-such-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "kd_utils", "train", *(x for s in sets for x in ("--set", s))]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: train.compile=yes: torch.compile failed (") and "set train.compile=no" in last
    assert not (tmp_path / "student_model.pth").exists()
