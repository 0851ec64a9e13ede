"""One student made of another: its training form, a wider and deeper one, one of another scale."""

from __future__ import annotations

import torch
from torch import nn

from kd_utils.common.errors import StudentError
from kd_utils.models.student import CollapsibleConv, Convolution, Student


@torch.no_grad()
def widen(plain: Student, expand: int) -> Student:
    """The training form of a plain student, computing the same: training goes on from a shipped file."""
    net = Student(plain.feat, plain.convs, plain.scale, expand)

    for new, old in zip(net.convolutions, plain.convolutions, strict=True):
        if isinstance(new, CollapsibleConv):
            new.weight += old.weight - new.kernel()
            new.bias.copy_(old.bias)
        else:
            new.load_state_dict(old.state_dict())
    for new, old in zip(net.activations, plain.activations, strict=True):
        new.load_state_dict(old.state_dict())
    return net


@torch.no_grad()
def grow(small: Student, feat: int, convs: int) -> Student:
    """A wider and deeper student that computes the same as plain `small`, to go on training from (Net2Net, Chen et al.
    2016, arXiv:1511.05641): new channels start near the identity and lead nowhere yet, new layers are the identity with
    slope 1, spread evenly. New random weights come from torch's current seed. Raises StudentError for a smaller one.
    """
    if feat < small.feat or convs < small.convs:
        raise StudentError(f"{small.feat}x{small.convs} cannot grow to {feat}x{convs}: neither number may be smaller")
    net = Student(feat, convs, small.scale)
    new, old = net.convolutions, small.convolutions

    _grow_channels(new[0], old[0])
    _grow_channels(new[-1], old[-1])
    net.activations[0].weight[: small.feat] = small.activations[0].weight

    # which of the new inner layers take over the old ones
    kept = [round((k + 0.5) * convs / small.convs - 0.5) for k in range(small.convs)]
    for k in range(convs):
        conv, act = new[1 + k], net.activations[1 + k]
        if k in kept:
            source = 1 + kept.index(k)
            _grow_channels(conv, old[source])
            act.weight[: small.feat] = small.activations[source].weight
        else:
            nn.init.dirac_(conv.weight)
            conv.bias.zero_()
            nn.init.ones_(act.weight)
    return net


def _grow_channels(large: Convolution, small: Convolution) -> None:
    """Put `small` into the first channels of `large`, which do not listen to the new channels."""
    cout, cin = small.weight.shape[:2]
    large.weight[:cout, cin:] = 0
    large.weight[:cout, :cin] = small.weight
    large.bias[:cout] = small.bias


@torch.no_grad()
def rescale(plain: Student, scale: int) -> Student:
    """A student of scale 2 or 1 made of `plain`, of scale 4, to go on training from.

    It begins by computing what `plain` adds to the picture made smaller (each square of 4/scale pixels as its mean),
    and adds that to the picture itself. Raises StudentError where `plain` is of another scale.
    """
    if plain.scale != 4:
        raise StudentError(f"a student of scale {plain.scale} cannot become one of scale {scale}: begin with one of 4")
    net = Student(plain.feat, plain.convs, scale)
    for new, old in zip(net.layers, plain.layers, strict=True):
        state = old.state_dict()
        if new is net.layers[0]:
            pixels = net.down**2  # of an input channel, which pixel_unshuffle puts one after the other
            state["weight"] = state["weight"].repeat_interleave(pixels, 1) / pixels
        new.load_state_dict(state)
    return net
