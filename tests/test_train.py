"""The real training loop on a tiny problem: what it learns and leaves, and what it refuses."""

import shutil

import numpy as np
import pytest
import torch
from helpers.training import config, difference, weights

from kd_utils import label, prepare, provenance, train
from kd_utils.common import devices, files
from kd_utils.common.errors import TrainError
from kd_utils.config import make
from kd_utils.data import crops
from kd_utils.models import student
from kd_utils.models.vgg import load_vgg
from kd_utils.training import checkpoints, losses, optimizers

# ---- what it learns and leaves


def test_it_learns_and_leaves_what_it_promises(trained):
    cfg, out, seen = trained
    history = files.read_json(out.history)
    assert history["step"][-1] == 12 and len(history["valid"]) == 2
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(history["valid"][-1]["psnr_y_teacher"])
    assert [w.name for w in seen] == ["student"] * 2 + ["no_teacher"] * 2 and len(seen[0].pictures) >= 8
    assert out.curve.read_bytes()[:4] == b"\x89PNG"
    meta = student.load(out.student).meta
    assert meta["provenance"]["labels.teacher"] == "teacher" and meta["versions"]["torch"]
    assert student.load(out.baseline).meta["provenance"]["loss.teacher"] == 0
    assert difference(out.student, out.baseline) > 1e-4
    assert len(checkpoints.found(cfg.path("train", "student"))) == cfg.train.keep


def test_bf16_on_a_cpu_repeats_to_the_bit_and_follows_fp32(labelled, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(devices, "bf16_warning", lambda device, key, dtype: f"slow {key} {dtype}")
    more = "train.dtype=bf16 train.baseline=no device=cpu"
    runs = [train.train(config(labelled, tmp_path / n, more)) for n in "ab"]
    assert capsys.readouterr().out.count("slow train.dtype bf16\n") == 2
    assert difference(runs[0].student, runs[1].student) == 0
    assert weights(runs[0].student)["body.0.weight"].dtype == torch.float32
    loss = [np.array(files.read_json(r.history)["loss"]) for r in (runs[0], trained[1])]
    off = np.abs(loss[0] / loss[1] - 1)
    assert 0 < off[0] < 0.01 and off.max() < 0.2  # the first is the same network's; then small differences grow


def test_another_training_seed_is_another_start_on_the_same_crops(labelled, tmp_path):
    short = "train.steps=2 train.baseline=no"
    one, two, same = (
        train.train(config(labelled, tmp_path / str(seed), f"train.seed={seed} {short}")).student for seed in (-1, 7, 0)
    )
    assert difference(one, two) > 1e-3 and difference(one, same) == 0


@pytest.mark.parametrize("scale", [2, 1])
def test_other_scales_train(labelled, tmp_path, scale):
    sets = f"{labelled[1]} scale={scale} train.steps=2 train.baseline=no student.expand=0 loss.gt=0.5 loss.fft=0.01"
    cfg = make("quick", sets, workdir=str(tmp_path))
    prepare.prepare(cfg)
    label.label(cfg)
    assert student.load(train.train(cfg).student).scale == scale


def test_what_a_step_sees_depends_on_seed_and_step_alone():
    plan, again = (crops.sample_batch(3, 7, 8, 20) for _ in range(2))
    for name in ("ids", "symmetries", "positions"):
        np.testing.assert_array_equal(getattr(plan, name), getattr(again, name))
    epoch = np.concatenate([crops.sample_batch(3, s, 4, 20).ids for s in range(5)])
    assert sorted(epoch) == list(range(20))
    assert (crops.sample_batch(4, 7, 8, 20).ids != plan.ids).any()


def test_schedules():
    cfg = make("quick", "train.steps=100 train.warmup=10 train.lr=1 train.lr_end=0.1 loss.gt=0.2 loss.gt_end=1")
    rates = [optimizers.learning_rate(cfg.train, s) for s in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[10] == 1 and rates[9] == 1 and 0.1 <= rates[-1] < 0.102
    assert losses.original_weight(cfg, 0) == 0.2 and abs(losses.original_weight(cfg, 99) - 1) < 1e-9


def test_the_loss_is_the_sum_of_its_terms():
    pred, label, hr = torch.rand(3, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    batch, vgg = crops.Batch(None, label, hr, np.full((4, 2), 0.5)), load_vgg("random")
    off = "loss.teacher=1 loss.perceptual=0 loss.crop=32 loss.fraction=0.5"

    def of(sets: str) -> float:
        return losses.distillation_loss(make("quick", f"{off} {sets}"), pred, batch, vgg, 0).item()

    base, cut = of(""), (..., slice(16, 48), slice(16, 48))  # 0.5 of the 33 places lies at 16; samples 0 and 2
    assert base == pytest.approx((pred - label).abs().mean().item())
    assert of("loss.gt=0.5") - base == pytest.approx(0.5 * (pred - hr).abs().mean().item(), rel=1e-5)
    assert of("loss.charbonnier=0.1") == pytest.approx(losses.l1(pred, label, 0.1).item())
    for key, target in (("perceptual", label), ("perceptual_gt", hr)):
        want = losses.perceptual(pred[::2][cut], target[::2][cut], vgg).item()
        assert of(f"loss.{key}=0.1") - base == pytest.approx(0.1 * want, rel=1e-4)


# ---- what it refuses


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(labelled, tmp_path):
    cfg = config(labelled, tmp_path, "train.baseline=no")
    train.train(cfg)
    folder = tmp_path / "train" / "student"
    (tmp_path / "student_model.pth").unlink()
    (folder / "student_model.pth").unlink()
    good = checkpoints.found(folder)[2]
    step, state = checkpoints.latest(folder)
    for newer in checkpoints.found(folder)[:2]:
        newer.unlink()
    state["net"]["body.2.weight"] += 1e38
    checkpoints.save(folder, 9, state, keep=3)
    with pytest.raises(TrainError, match="not finite at step 10; the last good checkpoint is kept.*Lower train.lr"):
        train.train(cfg)
    assert good.exists() and [p.name[:13] for p in checkpoints.found(folder)] == ["step-00000009", "step-00000008"]
    assert not (tmp_path / "student_model.pth").exists()


def test_a_last_update_that_diverges_leaves_no_student(labelled, tmp_path):
    more = "train.steps=1 train.lr=1e30 train.warmup=0 train.optimizer=adam train.clip=0 train.baseline=no"
    with pytest.raises(TrainError, match="output is not finite after step 1: .* Lower train.lr"):
        train.train(config(labelled, tmp_path, more))
    assert not list(tmp_path.rglob("*.pth")) and not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("part", ["crops", "labels"])
def test_a_damaged_shard_is_named_before_it_teaches(labelled, tmp_path, part):
    for folder in ("crops", "labels"):
        shutil.copytree(labelled[0] / folder, tmp_path / folder)
    path = tmp_path / part / "train-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-500] ^= 1  # one bit of one pixel
    path.write_bytes(data)
    with pytest.raises(files.StoreError, match=f"{part}/train-00000.safetensors is damaged .its checksum differs"):
        train.train(make("quick", labelled[1], workdir=str(tmp_path)))


def test_inputs_of_another_configuration_are_refused(labelled, tmp_path):
    with pytest.raises(files.StoreError, match="data.crop was 32, now 64"):
        train.train(config(labelled, tmp_path, "data.crop=64"))
    torch.manual_seed(9)
    other = student.save(student.build("s"), tmp_path / "other.pth")
    with pytest.raises(files.StoreError, match="teacher was"):
        train.train(config(labelled, tmp_path, f"teacher={other}"))
    folder = (tmp_path / "labels").resolve()
    (tmp_path / "labels").unlink()
    shutil.copytree(folder, tmp_path / "labels")
    shard = next((tmp_path / "labels").glob("train-*"))
    arrays, meta = files.load_arrays(shard)
    files.save_arrays(shard, {k: v.copy() for k, v in arrays.items()}, meta | {"teacher": "another"})
    with pytest.raises(files.StoreError, match=f"{shard.name} was made under.*teacher was .another.*Run step 2 again"):
        train.train(make("quick", labelled[1], workdir=str(tmp_path)))
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(files.StoreError, match="run step 2 first"):
        train.train(make("quick", labelled[1], workdir=str(tmp_path)))


def test_vgg_weights_count_by_what_they_are_and_only_where_they_are_used(labelled, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "vgg.pth").write_bytes(name.encode())

    def fields(more):
        return provenance.training_provenance(config(labelled, tmp_path, more), {})

    plain = fields("loss.perceptual=0")
    assert "loss.vgg" not in plain and plain == fields(f"loss.perceptual=0 loss.vgg={tmp_path}/a/vgg.pth")
    a, b = (fields(f"loss.perceptual=0.1 loss.vgg={tmp_path}/{name}/vgg.pth") for name in "ab")
    assert a["loss.vgg"] == b["loss.vgg"] == "vgg.pth" and a["loss.vgg_sha256"] != b["loss.vgg_sha256"]
    shutil.move(tmp_path / "a" / "vgg.pth", tmp_path / "vgg.pth")
    assert fields(f"loss.perceptual=0.1 loss.vgg={tmp_path}/vgg.pth") == a
