import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import cv2
import numpy as np
import pytest

from kd_utils import prepare
from kd_utils.common import files
from kd_utils.common.errors import ImageError
from kd_utils.config import make
from kd_utils.data import crops, cutting, photos
from kd_utils.data.photos import DataError

SMALL = "data.crop=64 data.crops_per_photo=4 data.valid_crops_per_photo=2 data.test_side=96 loss.crop=16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve photos cut from one, in sub-folders, with a file beside them that is no photo."""
    from skimage import data as samples

    root = tmp_path_factory.mktemp("photos")
    whole = np.concatenate([samples.astronaut(), samples.coffee()[:, :512][:400]], 0)
    for i in range(12):
        part = whole[i * 60 : i * 60 + 128, (i * 29) % 300 :][:, :160]
        path = root / f"set{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), part[..., ::-1])
    (root / "notes.txt").write_text("no photo")
    return root


def config(tmp_path, where="samples", more=""):
    return make("quick", f"{SMALL} {more}", workdir=str(tmp_path), **{"data.photos": str(where)})


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def test_samples_are_whole_scenes_apart(tmp_path):
    cfg = config(tmp_path)
    made = prepare.prepare(cfg)
    assert made.photos == {"train": 6, "valid": 1, "test": 2}
    assert made.crops == {"train": 24, "valid": 2, "test": 2}
    sides = [n for names in photos.SAMPLES.values() for n in names if n.startswith("motorcycle")]
    assert len(sides) == 2 and set(sides) <= set(photos.SAMPLES["train"])
    pair = crops.load_photo_pairs(cfg)[0]
    assert pair.hr.shape == (96, 96, 3) and pair.lr.shape == (24, 24, 3)
    arrays, _ = files.load_arrays(tmp_path / "crops" / "train-00000.safetensors")
    assert arrays["hr"].shape == (24, 64, 64, 3) and arrays["lr"].shape == (24, 16, 16, 3)
    small = cv2.resize(arrays["hr"][0], (16, 16), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - arrays["lr"][0]).mean() < 16  # the LR crop is of the same place


def test_a_folder_and_its_zip_give_the_same_crops(tmp_path, folder):
    more = "data.valid_count=2 data.test_count=2"
    a = prepare.prepare(config(tmp_path / "a", folder, more))
    assert a.photos == {"train": 8, "valid": 2, "test": 2}
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
        for p in sorted(folder.rglob("*.png")):
            z.write(p, p.relative_to(folder))
        for hidden in ("__MACOSX/00.png", "._01.png", ".thumbs/02.png", "deep/@eaDir/03.png/SYNOPHOTO_THUMB_M.png"):
            z.writestr(hidden, b"junk")
    prepare.prepare(config(tmp_path / "b", tmp_path / "photos.zip", more))
    assert contents(tmp_path / "a" / "crops") == contents(tmp_path / "b" / "crops")
    index = files.read_json(tmp_path / "a" / "crops" / "index.json")
    seen = [set(v.values()) for v in index["provenance"]["photos"].values()]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 12


def test_a_shard_whose_photos_are_too_small_is_none_to_label(tmp_path, folder, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for n, p in enumerate(sorted(folder.rglob("*.png"))[:9]):
        whole = cv2.imread(str(p))
        cv2.imwrite(str(mixed / p.name), whole[:20, :20] if n < 3 else whole[:100])
    # of 256 crops a photo, a shard is one photo
    cfg = config(tmp_path / "w", mixed, f"data.valid_count=1 data.crops_per_photo=256 data.test_photos={folder} seed=2")
    made = prepare.prepare(cfg)
    assert capsys.readouterr().out.count("is 20x20, smaller than data.crop=64") == 3
    index = crops.read_index(cfg)
    assert all(shard.count for shard in index.shards) and made.crops["train"] == index.count("train")
    assert len(index.of_split("train")) == made.photos["train"] - 3
    assert prepare.prepare(cfg).made == 0


def test_adding_a_photo_moves_no_other_between_splits(tmp_path, folder):
    more = "data.valid_count=2 data.test_count=2"
    before = photos.split_photos(config(tmp_path, folder, more))
    last = before["train"][-1]
    with zipfile.ZipFile(tmp_path / "fewer.zip", "w") as z:
        for p in sorted(folder.rglob("*.png")):
            if p.relative_to(folder).as_posix() != last.name:
                z.write(p, p.relative_to(folder))
    after = photos.split_photos(config(tmp_path, tmp_path / "fewer.zip", more))
    for part in ("valid", "test"):
        assert [p.sha256 for p in before[part]] == [p.sha256 for p in after[part]]


def test_a_test_photo_that_is_also_a_training_photo_leaves_training(tmp_path, folder, capsys):
    test = tmp_path / "test"
    test.mkdir()
    (test / "renamed.png").write_bytes((folder / "set0" / "00.png").read_bytes())
    parts = photos.split_photos(config(tmp_path, folder, f"data.valid_count=2 data.test_photos={test}"))
    assert len(parts["train"]) == 9 and len(parts["test"]) == 1
    assert "1 training photos are also test" in capsys.readouterr().out


def test_a_damaged_member_of_a_zip_is_named(tmp_path, folder):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as z:
        for p in sorted(folder.rglob("*.png")):
            z.write(p, p.name)
        inside = z.getinfo("03.png").header_offset + 1000
    whole = bytearray(path.read_bytes())
    whole[inside] ^= 255
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"03.png of .*photos.zip cannot be read \(Bad CRC.*take it out, or copy it"):
        photos.split_photos(config(tmp_path, path))


def test_flat_and_dark_crops_are_left_out():
    rng = np.random.default_rng(0)
    photo = np.full((256, 256, 3), 128, np.uint8)
    photo[:, 128:] = rng.integers(256, size=(256, 128, 3))
    cfg = make("quick")
    kept, refused = cutting.choose_corners(photo, 64, 10, np.random.default_rng(1), cfg.data)
    assert len(kept) == 10 and refused > 0 and all(x > 64 for _, x in kept)
    dark = rng.integers(40, size=(256, 256, 3), dtype=np.uint8)  # Y is 16 more than .86 of the mean, 33
    for mean, count in ((32, 10), (34, 0)):
        cfg.data.min_mean = mean
        assert len(cutting.choose_corners(dark, 64, 10, np.random.default_rng(1), cfg.data)[0]) == count


def test_killed_and_called_again_gives_the_same_bytes(tmp_path, folder):
    more = "data.valid_count=2 data.test_count=4 data.crops_per_photo=64"
    prepare.prepare(config(tmp_path / "whole", folder, more))
    cfg = f"{SMALL} {more} workdir={tmp_path / 'cut'} data.photos={folder}"
    code = "import sys; from kd_utils import config, prepare; prepare.prepare(config.make('quick', sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, cfg], stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list((tmp_path / "cut" / "crops").glob("*.safetensors")) and time.time() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(contents(tmp_path / "cut" / "crops"))
    again = prepare.prepare(config(tmp_path / "cut", folder, more))
    assert 0 < done and again.made <= 7 - done + 1
    assert contents(tmp_path / "cut" / "crops") == contents(tmp_path / "whole" / "crops")
    assert prepare.prepare(config(tmp_path / "cut", folder, more)).made == 0


def test_ranks_share_the_work_and_the_last_one_ends_it(tmp_path, folder, monkeypatch):
    more = "data.valid_count=2 data.test_count=2"
    prepare.prepare(config(tmp_path / "one", folder, more))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        assert not (tmp_path / "two" / "crops" / "index.json").exists()
        prepare.prepare(config(tmp_path / "two", folder, more))
    assert contents(tmp_path / "two" / "crops") == contents(tmp_path / "one" / "crops")
    assert (tmp_path / "two/crops/index.json").read_bytes() == (tmp_path / "one/crops/index.json").read_bytes()


def test_another_configuration_is_refused_and_nothing_is_lost(tmp_path):
    prepare.prepare(config(tmp_path))
    before = contents(tmp_path / "crops")
    with pytest.raises(files.StoreError, match="data.crop was 64, now 96.*Choose another --workdir"):
        prepare.prepare(config(tmp_path, more="data.crop=96"))
    with pytest.raises(files.StoreError, match="degrade.profile was"):
        crops.read_index(config(tmp_path, more="degrade.profile=two_order"))
    assert contents(tmp_path / "crops") == before


@pytest.mark.parametrize("scale", [2, 1])
def test_other_scales(tmp_path, scale):
    cfg = config(tmp_path, more=f"scale={scale} train.init=")
    prepare.prepare(cfg)
    pair = crops.load_photo_pairs(cfg)[0]
    assert pair.lr.shape == (96 // scale, 96 // scale, 3)


def test_errors_name_the_remedy(tmp_path, folder, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "fake.zip").write_text("no zip")
    for where, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "empty", "holds no photos"),
        (tmp_path / "fake.zip", "neither a folder nor a zip"),
    ):
        with pytest.raises(DataError, match=message):
            prepare.prepare(config(tmp_path, where))
    with pytest.raises(DataError, match="no train photos.*lower these or add photos"):
        prepare.prepare(config(tmp_path, folder, "data.valid_count=6 data.test_count=6"))
    with pytest.raises(DataError, match="data.test_count=0 holds out none; raise it, or give data.test_photos"):
        prepare.prepare(config(tmp_path, folder, "data.valid_count=1 data.test_count=0"))
    with pytest.raises(DataError, match="smaller than data.crop=512"):
        prepare.prepare(config(tmp_path / "big", folder, "data.crop=512 data.valid_count=2 data.test_count=2"))
    bad = tmp_path / "bad"
    bad.mkdir()
    for p in folder.rglob("*.png"):
        (bad / p.name).write_bytes(p.read_bytes())
    (bad / "07.png").write_bytes((bad / "07.png").read_bytes()[:2000])
    made = prepare.prepare(config(tmp_path / "w", bad, "data.valid_count=2 data.test_count=2"))
    assert "LEFT OUT: 07.png" in capsys.readouterr().out and made.crops["train"] == 4 * (made.photos["train"] - 1)
    with pytest.raises(ImageError, match="07.png"):  # a photo to be tested on ends it, before any crop is cut
        prepare.prepare(config(tmp_path / "v", "samples", f"data.test_photos={bad}"))
    assert not list((tmp_path / "v").rglob("train-*"))
    with pytest.raises(DataError, match="data.test_photos='none' does not exist"):
        prepare.prepare(config(tmp_path / "v", "samples", "data.test_photos=none"))
    cv2.imwrite(str(bad / "07.png"), np.full((128, 160, 3), 200, np.uint8))
    for seed in range(200):
        cfg = config(tmp_path / "u", bad, f"data.valid_count=1 data.test_count=1 seed={seed}")
        if photos.split_photos(cfg)["valid"][0].name == "07.png":
            break
    with pytest.raises(DataError, match=r"no validation crops: each of its 1 photos \(07.png\) .* or flat or dark"):
        prepare.prepare(cfg)


def test_a_lost_shard_is_not_made_by_another_reader(tmp_path, folder):
    cfg = config(tmp_path, folder, "data.valid_count=2 data.test_count=2")
    prepare.prepare(cfg)
    index = files.read_json(tmp_path / "crops" / "index.json")
    assert index["versions"].pop("reader").startswith("libvips") and index.pop("checksum")
    files.write_json(tmp_path / "crops" / "index.json", index)  # as an older version left it
    assert prepare.prepare(cfg).made == 0, "its work folder goes on"
    assert "reader" not in files.read_json(tmp_path / "crops" / "index.json")["versions"]
    (tmp_path / "crops" / "train-00000.safetensors").unlink()
    with pytest.raises(
        files.StoreError, match="were read by Pillow and OpenCV, here it is libvips .* restore the file"
    ):
        prepare.prepare(cfg)


def test_later_steps_refuse_other_photos(tmp_path, folder):
    more = "data.valid_count=2 data.test_count=2"
    prepare.prepare(config(tmp_path / "w", folder, more))
    crops.read_index(config(tmp_path / "w", folder, more))
    crops.read_index(config(tmp_path / "w", more=more))  # what the preset says need not be said again
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    gone = next(other.rglob("*.png"))
    gone.unlink()
    with pytest.raises(
        files.StoreError, match=f"other photos than data.photos={other} holds now: .*{gone.name} is not"
    ):
        crops.read_index(config(tmp_path / "w", other, more))
    with pytest.raises(files.StoreError, match="other photos than data.test_photos="):
        crops.read_index(config(tmp_path / "w", folder, f"{more} data.test_photos={other}"))
    with pytest.raises(DataError, match="data.photos='/nope' does not exist"):
        crops.read_index(config(tmp_path / "w", "/nope", more))


def test_the_photo_that_came_is_named(tmp_path, folder):
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    more = "data.valid_count=2 data.test_count=2"
    prepare.prepare(config(tmp_path / "w", mine, more))
    cv2.imwrite(str(mine / "zz.png"), np.random.default_rng(5).integers(256, size=(96, 96, 3), dtype=np.uint8))
    with pytest.raises(files.StoreError, match=r"photos \w+ zz.png was null, now"):
        prepare.prepare(config(tmp_path / "w", mine, more))


def test_pictures_of_our_own_are_no_photos(tmp_path, folder):
    project = tmp_path / "project"
    shutil.copytree(folder, project / "photos")
    photo = next(folder.rglob("*.png"))
    names = [p.name for p in photos.find_photos(str(project))]
    for work in (project / "workdir", project):  # in a folder of its own, or beside the photos
        for part in ("crops", "eval/panels"):
            (work / part).mkdir(parents=True)
        (work / "crops" / "index.json").write_text("{}")
        shutil.copy(photo, work / "eval" / "panels" / "00.png")
        assert [p.name for p in photos.find_photos(str(project))] == names


def test_photos_that_are_all_test_photos_too(tmp_path, folder):
    with pytest.raises(DataError, match="are all test or validation photos too; give other data.photos"):
        photos.split_photos(config(tmp_path, folder, f"data.valid_count=2 data.test_photos={folder}"))
