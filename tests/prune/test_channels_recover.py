"""tools/channels_recover.py: a network with fewer channels is refitted to the whole one and learns its features."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeres.data import split_from_arrays
from edgeres.models import network_from
from edgeres.models.weights import fold_batch_norms
from edgeres.prune.config import RecoverConfig

_SPEC = importlib.util.spec_from_file_location(
    "channels_recover", Path(__file__).parents[2] / "tools" / "channels_recover.py"
)
assert _SPEC
assert _SPEC.loader
channels_recover = importlib.util.module_from_spec(_SPEC)
sys.modules["channels_recover"] = channels_recover
_SPEC.loader.exec_module(channels_recover)

LEFT = [3, 0, 2]  # of four


@pytest.fixture
def spec(spec_of):
    return spec_of("resnet8", width=4)


@pytest.fixture
def whole(spec):
    torch.manual_seed(0)
    network = network_from(spec)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    return network.eval()


@pytest.fixture
def thin(whole):
    """The first module has three of its four inner channels."""
    network = copy.deepcopy(whole)
    unit = network.units()[0][1]
    norm = nn.BatchNorm2d(len(LEFT))
    norm.load_state_dict({key: one[LEFT] if one.ndim else one for key, one in unit.bn1.state_dict().items()})
    first, second = nn.Conv2d(4, len(LEFT), 3, padding=1, bias=False), nn.Conv2d(len(LEFT), 4, 3, padding=1, bias=False)
    with torch.no_grad():
        first.weight.copy_(unit.conv1.weight[LEFT])
        second.weight.copy_(unit.conv2.weight[:, LEFT])
    unit.conv1, unit.bn1, unit.conv2 = first, norm, second
    return network.eval()


@pytest.fixture
def lesson_for(whole, spec):
    channels, height, width = spec.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (60, height, width, channels), np.uint8)
    folded = copy.deepcopy(whole)
    fold_batch_norms(folded)
    images = split_from_arrays("train", pixels, np.zeros(60, np.int64))
    return lambda network: channels_recover.lesson_of(network, whole, folded, spec, images)


def test_the_channels_that_are_left_are_told_by_their_batch_norms(thin, whole):
    (_, mine), (_, theirs) = thin.units()[0], whole.units()[0]
    assert channels_recover.channels_left(mine.bn1, theirs.bn1).tolist() == LEFT
    assert channels_recover.channels_left(mine.bn2, theirs.bn2).tolist() == [0, 1, 2, 3]


def test_a_refit_and_some_steps_each_bring_a_thin_network_nearer(thin, lesson_for, tmp_path):
    lesson = lesson_for(thin)
    score = channels_recover.score_of(lesson)
    before = score(thin)
    channels_recover.refit(thin, lesson)
    refitted = score(thin)
    assert refitted < before
    config = RecoverConfig(data="noise", epochs=1, batch=18, threads=1)
    assert 0 < channels_recover.recovered(thin, lesson, config, tmp_path) <= 3
    assert score(thin) <= refitted


def test_by_gradients_alone_nothing_is_refitted_and_batch_norms_learn(thin, lesson_for, tmp_path, monkeypatch):
    lesson, config = lesson_for(thin), RecoverConfig(data="noise", epochs=1, batch=18, threads=1)
    before = channels_recover.score_of(lesson)(thin)
    monkeypatch.setattr(channels_recover, "refit", lambda *_: pytest.fail("it was refitted"))
    assert channels_recover.recovered(thin, lesson, config, tmp_path, refits=False) > 0
    assert all(one.requires_grad for name, one in thin.named_parameters() if "bn" in name)
    assert channels_recover.score_of(lesson)(thin) <= before


def test_a_network_that_lacks_nothing_stays_as_it_was(whole, lesson_for, spec):
    same = copy.deepcopy(whole)
    channels_recover.refit(same, lesson_for(same))
    x = torch.zeros(2, *spec.input_shape)
    assert torch.allclose(same(x), whole(x), atol=1e-4)
