"""A minute of `make torture`: kills, damage, two runs, a lost Drive, full disks, mutated inputs, evil
pickles and servers."""

import subprocess
import sys

import pytest

from kd_utils.own_files import ROOT


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_wrong_is_silent():
    command = [sys.executable, "-m", "benchmarks.torture", "--kills", "12", "--inputs", "1500", "--no-notebooks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)  # with what was left out
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "mutated inputs" in done.stdout and "servers that break" in done.stdout
