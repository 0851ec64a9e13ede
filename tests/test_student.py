import zipfile

import pytest
import torch
import torch.nn.functional as F

from kd_utils import own_files
from kd_utils.common import sources
from kd_utils.common.errors import CheckpointError, ConfigError
from kd_utils.models import growing, student
from kd_utils.models.shipped import find_student
from kd_utils.models.student import StudentError


def random_student(size, scale, expand=4):
    torch.manual_seed(1)
    net = student.build(size, scale, expand)
    for p in net.parameters():  # away from the initial values, slopes too
        p.data += 0.05 * torch.randn_like(p)
    return net


@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize("size", ["s", "m"])
def test_fused_computes_the_same_as_the_training_form(size, scale):
    net = random_student(size, scale).double()
    x = torch.rand(2, 3, 24, 16, dtype=torch.float64)
    y = net(x)
    assert y.shape == (2, 3, 24 * scale, 16 * scale)
    plain = student.fuse(net)
    assert not any(isinstance(m, student.CollapsibleConv) for m in plain.modules())
    torch.testing.assert_close(plain(x), y, atol=1e-12, rtol=1e-12)


def test_the_summed_kernel_is_its_branches_one_after_the_other():
    torch.manual_seed(0)
    for cin, cout in ((8, 8), (3, 8)):  # with and without the identity branch
        conv = student.CollapsibleConv(cin, cout, 4).double()
        conv.project.data.normal_()
        x = torch.rand(1, cin, 9, 7, dtype=torch.float64)
        y = F.conv2d(x, conv.weight, conv.bias, padding=1)
        y = y + F.conv2d(F.conv2d(x, conv.expand, padding=1), conv.project[:, :, None, None])
        torch.testing.assert_close(conv(x), y + x if cin == cout else y, atol=1e-11, rtol=1e-11)


def test_every_branch_learns():
    net = student.build("s", 4, 4)
    net(torch.rand(1, 3, 8, 8)).abs().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("size", ["s", "m", "l"])
def test_x4_opens_in_spandrel_as_compact_with_the_same_pixels(size, tmp_path):
    from spandrel import ModelLoader

    net = random_student(size, 4)
    path = student.save(net, tmp_path / "student_model.pth", {"teacher": "t"})
    found = ModelLoader(device="cpu").load_from_file(path)
    assert (found.architecture.name, found.scale) == ("RealESRGAN Compact", 4)
    x = torch.rand(1, 3, 17, 23)
    assert torch.equal(found(x), student.load(path)(x).clamp(0, 1))


@pytest.mark.parametrize("scale", [2, 1])
def test_other_scales_are_not_taken_for_compact(scale, tmp_path):
    from spandrel import ModelLoader
    from spandrel import UnsupportedModelError as Unsupported

    path = student.save(random_student("s", scale), tmp_path / "s.pth")
    with pytest.raises(Unsupported):
        ModelLoader().load_from_file(path)
    assert student.load(path).scale == scale


def test_save_load_keeps_meta_and_bytes_repeat(tmp_path):
    net = random_student("s", 4)
    a, b = (student.save(net, tmp_path / n, {"teacher": "t"}) for n in ("a.pth", "b.pth"))
    assert a.read_bytes() == b.read_bytes()
    back = student.load(a)
    assert back.meta == {"scale": 4, "teacher": "t"} and not back.training
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(back(x), net(x), atol=1e-5, rtol=1e-5)


def test_half_precision_files_and_bare_state_dicts_open(tmp_path):
    state = student.fuse(random_student("s", 4)).state_dict()
    for name, obj in (("half", {"params_ema": {k: v.half() for k, v in state.items()}}), ("bare", state)):
        torch.save(obj, tmp_path / name)
        assert student.load(tmp_path / name).body[0].weight.dtype == torch.float32


def test_widen_is_the_inverse_of_fuse():
    plain = student.fuse(random_student("s", 4, expand=0))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(growing.widen(plain, 4)(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("scale", "size"), [(4, (48, 13)), (4, (24, 9)), (4, (30, 8)), (1, (32, 14))])
def test_a_grown_student_computes_the_same_and_all_of_it_learns(scale, size):
    small = student.fuse(random_student("s", scale)).double()
    torch.manual_seed(2)
    big = growing.grow(small.float(), *size).double()
    assert (big.feat, big.convs) == size
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(big(x), small.double()(x), atol=1e-6, rtol=1e-6)
    opt = torch.optim.SGD(big.parameters(), 1e-3)
    for _ in range(2):  # what leads nowhere at first has a gradient from the second step on
        opt.zero_grad()
        big(x).square().mean().backward()
        opt.step()
    assert all((p.grad.flatten(1) if p.dim() > 1 else p.grad).abs().sum() > 0 for p in big.parameters())
    with pytest.raises(StudentError, match="neither number may be smaller"):
        growing.grow(small, 16, 8)


@pytest.mark.parametrize("scale", [2, 1])
def test_a_student_of_a_smaller_scale_begins_with_what_one_of_4_draws(scale):
    four = student.fuse(random_student("s", 4, expand=0))
    other = growing.rescale(four, scale)
    assert (other.scale, other.feat, other.convs) == (scale, 24, 8)

    x = torch.rand(1, 3, 16, 16)
    small = F.avg_pool2d(x, 4 // scale)
    drawn = four(small) - F.interpolate(small, scale_factor=4)  # what the body adds
    torch.testing.assert_close(other(x), drawn + F.interpolate(x, scale_factor=scale), atol=1e-5, rtol=1e-5)
    with pytest.raises(StudentError, match=f"of scale {scale} cannot become one of scale 2: begin with one of 4"):
        growing.rescale(other, 2)


def test_sizes_keep_their_promised_cost():
    for size, limit in (("s", 3.5), ("m", 10), ("l", 20)):
        assert student.gmac(student.build(size)) <= limit
        assert student.gmac(student.build(size, 4, 4)) == student.gmac(student.build(size))
    assert student.gmac(student.build("s", 1), scale=1) <= 4.2


def test_gmac_is_the_sum_over_layers():
    net = student.build("s")
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, torch.nn.Conv2d))
    assert student.gmac(net) == weights * 256**2 / 1e9


def test_bad_files_are_named(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    cases = {
        "page.pth": b"<!DOCTYPE html><html>404</html>",
        "empty.pth": b"",
        "text.pth": b"hello",
        "cut.pth": student.save(student.build("s"), tmp_path / "ok.pth").read_bytes()[:5000],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            student.load(tmp_path / name)
    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil.pth cannot be loaded safely"):
        student.load(tmp_path / "evil.pth")
    torch.save({"params": {"conv.weight": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(StudentError, match="other.pth is not a student"):
        student.load(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        student.load(tmp_path / "none.pth")


def test_wrong_size_and_scale():
    with pytest.raises(StudentError, match="s, m, l"):
        student.build("xl")
    with pytest.raises(StudentError, match="4, 2 or 1"):
        student.build("s", 3)


def test_shipped_names_the_remedy():
    with pytest.raises(ConfigError, match="no student_x9.pth .*student_x4_photo_m.pth.*git checkout"):
        own_files.shipped("student_x9.pth")


def test_a_flipped_bit_in_the_weights_is_named_and_old_files_still_load(tmp_path):
    path = student.save(student.build("s"), tmp_path / "s.pth")
    data = bytearray(path.read_bytes())
    weight = next(iter(student.load(path).state_dict().values())).numpy().tobytes()
    data[data.index(weight) + 3] ^= 64  # the exponent of one weight
    (tmp_path / "bad.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="bad.pth is damaged .the checksum of its weights differs"):
        student.load(tmp_path / "bad.pth")

    old = torch.load(path, weights_only=True)
    del old["meta"]["sha256"]
    torch.save(old, tmp_path / "old.pth")
    assert student.load(tmp_path / "old.pth").scale == 4


def test_bombs_are_refused(tmp_path):
    path = student.save(student.build("s"), tmp_path / "s.pth")
    with zipfile.ZipFile(path) as z, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as out:
        for name in z.namelist():
            out.writestr(name, z.read(name))
        out.writestr("archive/data/bomb", bytes(100 << 20))
    with pytest.raises(CheckpointError, match="it would unpack to 10"):
        student.load(tmp_path / "bomb.pth")
    torch.save({"body.0.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match="repeats few values"):
        student.load(tmp_path / "wide.pth")


def test_models_that_ship_go_by_family_and_size():
    for name in ("", "m", "photo-m"):
        assert find_student(name).name == "student_x4_photo_m.pth"
    assert find_student("anime-m").name == "student_x4_anime_m.pth"
    made = student.load(find_student("anime-m")).meta
    assert made["teacher"] == "anime_6B" and made["teacher_sha256"] == sources.ROUNDED["anime_6B"][1].sha256
    with pytest.raises(ConfigError, match="model photo-l: none ships for scale 1: choose one of photo-s, or a file"):
        find_student("l", scale=1)


def test_a_flipped_bit_in_a_name_is_found_too(tmp_path):
    path = student.save(student.Student(8, 2), tmp_path / "s.pth", {"run": "student"})
    data = path.read_bytes()
    for name in (b"meta", b"sha256"):
        at = data.index(name)
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match="s.pth cannot be loaded safely .* it is damaged"):
            student.load(path)
