import pytest
import torch

from kd_utils.common.tensors import bicubic
from kd_utils.models import growing, pruning, student
from kd_utils.models.student import StudentError
from kd_utils.own_files import shipped


def distinct(feat, convs):
    """A student away from its start: every layer matters."""
    torch.manual_seed(3)
    net = student.build(f"{feat}x{convs}").eval()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net


@pytest.fixture
def crops():
    torch.manual_seed(0)
    return torch.rand(8, 3, 24, 24)


def error(a, b):
    with torch.no_grad():
        x = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(9))  # not what the fit was made on
        return ((a(x) - b(x)).square().mean() / b(x).var()).sqrt().item()


def test_nothing_cut_is_the_same_network(crops):
    big = distinct(8, 3)
    assert error(pruning.prune(big, 8, 3, crops), big) < 1e-3


def test_what_grew_is_cut_back(crops):
    """Channels that lead nowhere and layers that do nothing are the ones to go, and nothing is lost."""
    small = distinct(8, 3)
    big = growing.grow(small, 16, 7)
    assert error(big, small) < 1e-5
    cut = pruning.prune(big, 8, 3, crops)
    assert (cut.feat, cut.convs) == (8, 3)
    assert error(cut, small) < 1e-3


def test_of_a_trained_student_more_is_left_than_bicubic(crops):
    big = student.load(shipped("student_x4_photo_m.pth"))
    x = bicubic(torch.rand(8, 3, 8, 8), (24, 24)).clamp(0, 1)  # smooth, as photos are
    new = bicubic(torch.rand(4, 3, 8, 8), (24, 24)).clamp(0, 1)
    with torch.no_grad():
        taught = big(new)
        cut = [pruning.prune(big, *size, x)(new) for size in ((24, 8), (16, 8))]
        off = [(out - taught).square().mean().item() for out in cut]
        plain = (bicubic(new, (96, 96)) - taught).square().mean().item()
    assert off[0] < off[1] < plain


def test_channels_that_predict_are_chosen():
    x = torch.rand(4, 6, 16, 16, generator=torch.Generator().manual_seed(1))
    conv = torch.nn.Conv2d(6, 5, 3, padding=1)
    with torch.no_grad():
        conv.weight[:, [0, 2, 3, 5]] = 0
        assert pruning._channels(x, conv(x), 2) == [1, 4]


def test_layers_that_do_without_are_left_out():
    kept = list(range(6))
    pruning._shorten(kept, 4, lambda a, b: {(1, 3): 0.1, (1, 4): 0.9, (3, 5): 0.2}.get((a, b), 0.5), lambda: None)
    assert kept == [0, 1, 3, 5]


@pytest.mark.parametrize("size, scale", [((16, 3), 4), ((8, 4), 4), ((8, 3), 1)])
def test_a_size_that_the_network_does_not_hold_is_refused(size, scale, crops):
    with pytest.raises(StudentError, match=r"cannot be cut out of a x\d network of 8x3: neither number"):
        pruning.prune(student.build("8x3", scale), *size, crops)
