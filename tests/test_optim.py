import copy

import pytest
import torch

from kd_utils.training import optimizers


def descend(opt, params, loss, steps):
    for _ in range(steps):
        opt.zero_grad()
        loss(*params).backward()
        opt.step()
    return loss(*params).item()


def test_vectors_get_plain_adam():
    target = torch.linspace(-1, 1, 7)
    ours, theirs = (torch.nn.Parameter(torch.zeros(7)) for _ in range(2))
    descend(optimizers.SOAP([ours], 0.01), [ours], lambda p: (p - target).pow(4).sum(), 25)
    adam = torch.optim.Adam([theirs], 0.01, (0.95, 0.95), eps=1e-8)
    descend(adam, [theirs], lambda p: (p - target).pow(4).sum(), 25)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def badly_conditioned():
    """A least-squares problem whose axes lie across the weights, where Adam is slow."""
    torch.manual_seed(0)
    rotate = torch.linalg.qr(torch.randn(18, 18)).Q
    inputs = torch.randn(400, 18) * torch.logspace(0, -3, 18) @ rotate
    wanted = inputs @ torch.randn(18, 5)
    return torch.nn.Parameter(torch.zeros(5, 2, 3, 3)), lambda w: (inputs @ w.flatten(1).T - wanted).square().mean()


def test_soap_is_ahead_of_adam_where_the_axes_are_not_the_weights():
    ends = {}
    for name in ("adam", "soap"):
        w, loss = badly_conditioned()
        start = loss(w).item()
        ends[name] = descend(optimizers.make_optimizer(name, [w], 0.02, [0.9, 0.99]), [w], loss, 400) / start
    assert ends["soap"] < ends["adam"] / 100 < 1e-4, ends


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_goes_on_from_its_saved_state_to_the_same_bits(dtype):
    w, loss = badly_conditioned()
    w.data = w.data.to(dtype)
    whole, part = torch.nn.Parameter(w.detach().clone()), torch.nn.Parameter(w.detach().clone())

    def f(p):
        return loss(p.float())

    descend(optimizers.SOAP([whole], 0.01), [whole], f, 25)
    first = optimizers.SOAP([part], 0.01)
    descend(first, [part], f, 13)
    again = optimizers.SOAP([part], 0.01)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    descend(again, [part], f, 12)
    assert torch.equal(whole, part)


def test_its_bases_stay_orthonormal():
    w, loss = badly_conditioned()
    opt = optimizers.SOAP([w], 0.01)
    descend(opt, [w], loss, 60)
    for side, n in (("QL", 5), ("QR", 18)):
        q = opt.state[w][side]
        torch.testing.assert_close(q.T @ q, torch.eye(n), atol=1e-5, rtol=0)


def test_bases_are_found_in_float64_where_the_solver_fails_in_float32(monkeypatch):
    eigh, matrix = torch.linalg.eigh, torch.eye(4)
    matrix[0, 1] = matrix[1, 0] = 0.5

    def fails(m):  # as CUDA's can, for a matrix of many equal eigenvalues
        if m.dtype == torch.float32:
            raise torch.linalg.LinAlgError("too many repeated eigenvalues")
        return eigh(m)

    want = optimizers._eigenvectors(matrix)
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    got = optimizers._eigenvectors(matrix)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.T @ matrix @ got, want.T @ matrix @ want)
