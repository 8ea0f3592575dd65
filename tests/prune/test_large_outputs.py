"""What stages keep of large outputs has a bound, and tells the same as all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeres import api
from edgeres.core import distances
from edgeres.core.artifacts import Checkpoint
from edgeres.core.distances import kept_notes, split
from edgeres.data import dataset_from
from edgeres.export.stage import ExportConfig, export
from edgeres.models.weights import load_network
from edgeres.prune.choose import Chooser, choice_notes
from edgeres.prune.config import PruneConfig
from edgeres.prune.recover.losses import HeldOutScore
from edgeres.prune.sets import Goal
from edgeres.quantize.auto import fidelity_of, logits_of
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Options, placement_of
from edgeres.quantize.simulate import QuantizedNetwork, Simulation, batches_of

SHAPE, FEW = (3, 16, 16), 1200  # of 5,120 numbers an image


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 3, padding=1), nn.Sequential(*(Block(16) for _ in range(4)))
        self.down = nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return {"large": x, "small": self.down(x)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("large") / "net.safetensors"
    preprocess = api.Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)
    api.trace(Maps().eval(), torch.zeros(1, *SHAPE), path, preprocess=preprocess)
    return Checkpoint(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), np.uint8))
    return f"npy:{path}"


@pytest.fixture
def few(monkeypatch):
    """Less fits."""
    monkeypatch.setattr(distances, "MOST_KEPT", FEW)
    distances._places.cache_clear()
    yield
    distances._places.cache_clear()


def chosen(source, images, folder):
    config = PruneConfig(drop=1, data=images, choose_on=40, batch=20)
    chooser = Chooser(source, config, folder)
    found = chooser.choose(Goal(dict.fromkeys(chooser.candidates, 1.0), 1))
    return chooser, found, choice_notes(chooser, found, config)


def test_a_choice_on_a_part_of_the_outputs_is_that_on_all(source, images, tmp_path, request):
    _, exact, notes = chosen(source, images, tmp_path / "all")
    assert not [note for note in notes if "drawn by a seed" in note]
    request.getfixturevalue("few")
    chooser, found, notes = chosen(source, images, tmp_path / "few")
    assert [tuple(batch.reference.shape) for batch in chooser._batches] == [(20, FEW)] * 2
    assert all(logits.shape[1] == FEW for logits in chooser._evaluator._logits.values())
    assert found.best.dropped == exact.best.dropped
    assert found.singles == pytest.approx(exact.singles, rel=0.1)
    assert "outputs were compared by 1,200 of the 5,120 numbers that it gives" in notes[-1]


def test_the_held_out_score_is_nearly_the_one_of_all(source, images, request):
    split_of, network, changed = (
        dataset_from(images).train.subset(range(60)),
        load_network(source),
        load_network(source),
    )
    for parameter in changed.parameters():
        parameter.data += 0.01
    exact = HeldOutScore(split_of, source.spec, network, ("mimic", "distill"))(changed)
    request.getfixturevalue("few")
    score = HeldOutScore(split_of, source.spec, network, ("mimic", "distill"))
    assert all(goal.logits[0].numel() == goal.features[0].numel() == FEW for _, _, goal in score._batches)
    assert score(changed) == pytest.approx(exact, rel=0.1)


def test_what_is_quantized_learns_from_a_part_and_is_judged_by_it(source, tmp_path, request):
    model = export(source, ExportConfig(), tmp_path).output.proto
    pixels = np.random.default_rng(0).standard_normal((24, *SHAPE), np.float32)
    placement = placement_of(model, Options())
    simulation = Simulation(model, placement, Decision(dict.fromkeys(placement.observed, 4.0)))
    network = QuantizedNetwork(model, Options(), Decision(dict.fromkeys(placement.observed, 4.0)))

    def decibels():
        goal, found = logits_of(simulation.network, pixels), logits_of(simulation, pixels)
        assert goal.shape[1] <= distances.MOST_KEPT
        with torch.inference_mode():
            whole = torch.cat([network._float(x) for x in batches_of(pixels, 8)])
        batches = network.batches(pixels)
        assert batches[0][1].shape[1] <= distances.MOST_KEPT
        return (
            fidelity_of(distances.kept(whole, simulation.sizes), found, simulation.sizes).sqnr_db,
            network.fidelity(frozenset(), batches).sqnr_db,
        )

    exact = decibels()
    request.getfixturevalue("few")
    assert decibels() == pytest.approx(exact, abs=0.5)


def test_only_large_outputs_are_noted(source, few):
    assert len(kept_notes(source.spec)) == 1
    small = {"parts": (("large", 600), ("small", 600)), "num_classes": 1200}
    assert not kept_notes(source.spec.model_copy(update=small))
    assert [one.shape[1] for one in split(torch.zeros(2, FEW), source.spec.sizes)] == [600, 600]


def test_of_large_outputs_fewer_images_run_at_a_time(source):
    assert source.spec.at_once(250) == 250
    pyramid = source.spec.model_copy(update={"parts": (("p2", 6_553_600), ("p3", 1_638_400)), "num_classes": 8_192_000})
    assert pyramid.at_once(250) == 8


@pytest.mark.parametrize(("side", "count"), [(32, 250), (64, 250), (224, 41), (640, 5), (4096, 1)])
def test_of_large_images_fewer_run_at_a_time(source, side, count):
    large = source.spec.model_copy(update={"input_shape": (3, side, side)})
    assert large.at_once(250) == count
