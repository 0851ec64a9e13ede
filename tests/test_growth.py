"""What is kept for a hundred thousand crops costs ten times what it does for ten thousand, not more."""

import time

import numpy as np
import pytest

from kd_utils.common import files
from kd_utils.config import make
from kd_utils.data.crops import CropIndex, Crops, Shard, sample_batch
from kd_utils.label import label_meta, missing_labels
from kd_utils.workdir import Workdir

IN_A_SHARD = 250


def write_crops(work: Workdir, count: int) -> CropIndex:
    """Shards of 2x2 crops with labels, and the index of their 50 photos each."""
    rng = np.random.default_rng(0)
    want, shards = {"seed": 0}, []
    key = files.digest(want)
    for folder in (work.crops, work.labels):
        folder.mkdir(parents=True)
    for n in range(count // IN_A_SHARD):
        lr = rng.integers(0, 256, (IN_A_SHARD, 2, 2, 3), dtype=np.uint8)
        hr = rng.integers(0, 256, (IN_A_SHARD, 8, 8, 3), dtype=np.uint8)
        photos = tuple(f"photo-{n:05d}-{k}.png" for k in range(50))
        shard = Shard(f"train-{n:05d}.safetensors", "train", files.sha256(lr.tobytes()), key, IN_A_SHARD, photos)
        files.save_arrays(work.crops / shard.file, {"hr": hr, "lr": lr}, {"key": key})
        files.save_arrays(work.labels / shard.file, {"label": hr}, label_meta(want, shard))
        shards.append(shard)
    index = CropIndex(key, want, {}, shards, [])
    index.write(work.crop_index)
    return index


def use(work: Workdir) -> dict[str, float]:
    """Processor seconds of what steps 1 to 3 do with the index and the shards."""
    took: dict[str, float] = {}

    def timed(name, job):
        start = time.process_time()
        result = job()
        took[name] = time.process_time() - start
        return result

    index = timed("read the index", lambda: CropIndex.read(work.crop_index))
    timed("look for labels", lambda: missing_labels(work, index.shards, {"seed": 0}, quiet=True))
    crops = timed("open all shards", lambda: Crops(work, index, "train"))
    timed("the first batch", lambda: crops.batch(sample_batch(7, 0, 16, len(crops))))
    timed("a hundred batches", lambda: [crops.batch(sample_batch(7, n, 16, len(crops))) for n in range(100)])
    return took


@pytest.mark.slow
def test_nothing_grows_worse_than_linearly(tmp_path):
    took = {}
    for count in (10_000, 100_000):
        work = Workdir.of(make("quick", workdir=str(tmp_path / str(count))))
        index = write_crops(work, count)
        assert not missing_labels(work, index.shards, {"seed": 0}, quiet=True)
        # the least of three, as other work on the machine can only add to it
        runs = [use(work) for _ in range(3)]
        took[count] = {name: min(run[name] for run in runs) for name in runs[0]}

    for name, seconds in took[10_000].items():
        # a quadratic step would take 100 times as long; the 5 ms are for what a small one is measured with
        assert took[100_000][name] < 25 * (seconds + 0.005), name
    # once the order of a pass is drawn, a batch does not ask how many crops there are
    assert took[100_000]["a hundred batches"] < 4 * took[10_000]["a hundred batches"] + 0.05
