"""A repair brings the network back towards the whole one, and depends on what is dropped before it only."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgeres.data import dataset_for
from edgeres.evaluate.subsets import BatchCache, walk_subsets
from edgeres.models.weights import load_folded, load_weights, save_checkpoint
from edgeres.prune.config import PruneConfig, RecoverConfig
from edgeres.prune.measured import name_of
from edgeres.prune.recover import stage as recover_stage
from edgeres.prune.recover.stage import recovered
from edgeres.prune.stage import prune
from edgeres.refit import repairs as repairs_module
from edgeres.refit.repairs import Repairs

SETS = [frozenset(names) for names in ({"layer1.1"}, {"layer1.1", "layer2.1"}, {"layer1.1", "layer1.2", "layer3.0"})]


@pytest.fixture
def checkpoint(checkpoint_of, spec_of, tmp_path):
    """Random weights with the batch norms' statistics of digits."""
    raw = checkpoint_of(spec_of("resnet20", width=4), "raw.safetensors")
    config = RecoverConfig(data="digits", images=120, method=("bn",), threads=1)
    weights = recovered(raw, None, config, tmp_path / "raw").weights
    return save_checkpoint(weights, raw.spec, tmp_path / "whole.safetensors", stage="test")


@pytest.fixture
def network(checkpoint):
    return load_folded(checkpoint)


@pytest.fixture
def digits(checkpoint):
    train = dataset_for(checkpoint.spec, "digits").train.sample(300, 0)
    return [torch.from_numpy(x) for x, _ in train.batches(checkpoint.spec, 50)]


@pytest.fixture
def fitted_on(digits):
    return digits[1:]


def test_a_repaired_set_is_nearer_to_the_whole_network(network, digits, fitted_on):
    x = digits[0]
    with torch.inference_mode():
        goal = F.log_softmax(network(x), 1)
        bare, repaired = (
            {
                name_of(gone): float(
                    F.kl_div(F.log_softmax(network.classify(y), 1), goal, reduction="sum", log_target=True)
                )
                for gone, y in walk_subsets(network, x, SETS, None, unit_of)
            }
            for unit_of in (None, Repairs(network, fitted_on))
        )
    assert {name: repaired[name] < 0.8 * bare[name] for name in bare} == dict.fromkeys(bare, True)


def test_only_what_stands_behind_a_gap_is_another_module(network, fitted_on):
    found, units = Repairs(network, fitted_on), [unit for _, unit in network.units()]
    assert found((), 2) is units[1]
    assert found((1,), 3) is units[2]
    assert found((2,), 3) is not units[2]
    assert found((2,), 3) is found((2,), 3)


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_sets_have_the_same_figures_alone_and_together(network, digits, fitted_on, cache_mib):
    x = digits[0][:7]
    together = dict(walk_subsets(network, x, SETS, None, Repairs(network, fitted_on, cache_mib=cache_mib)))
    for gone in reversed(SETS):
        ((_, alone),) = walk_subsets(network, x, [gone], None, Repairs(network, fitted_on))
        assert torch.equal(alone, together[gone])


def test_single_gaps_are_made_up_for_ahead_of_time(network, digits, fitted_on, monkeypatch):
    alone = [frozenset({name}) for name, _ in network.units()]
    found = dict(walk_subsets(network, digits[0], alone, None, Repairs(network, fitted_on)))
    ahead = Repairs(network, fitted_on)
    ahead.behind_each([name for name, _ in network.units()])
    monkeypatch.setattr(Repairs, "_repaired", lambda *_: pytest.fail("made only now"))
    for gone, y in walk_subsets(network, digits[0], alone, None, ahead):
        assert torch.equal(y, found[gone])


@pytest.mark.parametrize(("cache_mib", "most"), [(64, 2), (0, 99)])
def test_what_stands_before_a_gap_is_computed_once(network, fitted_on, cache_mib, most):
    ran = []
    network.units()[0][1].register_forward_hook(lambda *_: ran.append(1))
    Repairs(network, fitted_on, cache_mib=cache_mib).behind_each([name for name, _ in network.units()])
    assert len(ran) <= most * len(fitted_on)
    assert (len(ran) > 2 * len(fitted_on)) == (cache_mib == 0)


def test_what_is_kept_is_bounded_and_made_again(network, fitted_on, monkeypatch):
    monkeypatch.setattr(repairs_module, "_KEPT_BYTES", 1)
    found = Repairs(network, fitted_on)
    first = found((2,), 3)
    found((3,), 4)
    again = found((2,), 3)
    assert again is not first
    x = torch.randn(3, 4, 8, 8)
    with torch.inference_mode():
        assert torch.equal(first(x), again(x))


def test_a_choice_gives_back_the_memory_of_activations_before_the_recovery(checkpoint, tmp_path, monkeypatch):
    known, left = [], []
    offer, prepared = BatchCache.offer, recover_stage.prepared
    monkeypatch.setattr(BatchCache, "offer", lambda self, key, x: (known.append(self), offer(self, key, x))[1])

    def begun(job, out_dir):
        left.extend(cache.size for cache in known)
        return prepared(job, out_dir)

    monkeypatch.setattr(recover_stage, "prepared", begun)
    prune(checkpoint, PruneConfig(drop=2, data="digits", images=100, recover=("solve",)), tmp_path / "out")
    assert len({id(cache) for cache in known}) > 2  # of what is judged, and of what is repaired
    assert left
    assert not any(left)


def test_choosing_with_it_judges_on_other_images_than_it_repairs_on(checkpoint, tmp_path, monkeypatch):
    seen = []
    original = Repairs.__init__

    def noted(self, network, images, *, cache_mib):
        seen.extend(images)
        assert cache_mib == 30  # and as much for the images judged on
        original(self, network, images, cache_mib=cache_mib)

    monkeypatch.setattr(Repairs, "__init__", noted)
    config = PruneConfig(drop=2, data="digits", images=100, score="solved", recover=("solve",), cache_mib=60)
    result = prune(checkpoint, config, tmp_path / "out")
    results = result.report.results
    assert len(result.output.spec.dropped) == 2
    assert results["images_chosen_on"] == sum(map(len, seen)) == 50
    assert results["points_are"] == "after repairs"
    assert any("points lost after repairs, on the 50 train images" in note for note in result.report.notes)


def test_a_set_is_chosen_for_a_recovery_that_comes_later(checkpoint, tmp_path):
    asked = PruneConfig(drop=2, data="digits", images=100, score="solved")
    alone = prune(checkpoint, asked, tmp_path / "alone")
    at_once = prune(checkpoint, asked.model_copy(update={"recover": ("solve",)}), tmp_path / "at once")
    assert alone.output.spec.dropped == at_once.output.spec.dropped
    assert alone.report.results["points_are"] == "after repairs"
    assert any(
        "points lost after repairs (edgeres recover makes them), on the 50 train" in note for note in alone.report.notes
    )
    left, whole = load_weights(alone.output), load_weights(checkpoint)
    assert all(torch.equal(value, whole[key]) for key, value in left.items())  # it stays as it was
