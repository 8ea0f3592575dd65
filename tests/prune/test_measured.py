"""The evaluator measures what a rebuilt network gives, each set once, and goes on where it was interrupted."""

from __future__ import annotations

import json

import pytest
import torch

from edgeres.core.errors import StageError
from edgeres.evaluate.subsets import walk_subsets
from edgeres.evaluate.sums import Tally, reference_batches
from edgeres.models import network_from
from edgeres.models.weights import load_network, load_weights, weights_without
from edgeres.prune import measured
from edgeres.prune.measured import MeasuredEvaluator, journal_in
from edgeres.prune.search import search
from edgeres.prune.sets import Goal, SearchPlan

WHOLE = frozenset()


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet14", width=4))


@pytest.fixture
def network(checkpoint):
    return load_network(checkpoint)


@pytest.fixture
def batches(network):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(8, 1, 8, 8, generator=generator), torch.randint(0, 10, (8,), generator=generator))
        for _ in range(3)
    ]
    return reference_batches(network, pairs)


@pytest.fixture
def walked(monkeypatch):
    """How many (set, batch) pairs were run through the network."""
    counted: list[frozenset[str]] = []
    real = measured.walk_subsets

    def counting(network, images, subsets, *how):
        for subset, features in real(network, images, subsets, *how):
            counted.append(subset)
            yield subset, features

    monkeypatch.setattr(measured, "walk_subsets", counting)
    return counted


def by_rebuilding(checkpoint, dropped, batches):
    spec = checkpoint.spec.without(tuple(dropped))
    network = network_from(spec).eval()
    network.load_state_dict(weights_without(load_weights(checkpoint), spec))
    tally = Tally()
    with torch.inference_mode():
        for batch in batches:
            tally.add(network(batch.images), batch.labels, batch.reference)
    return tally.apart


def test_scores_are_those_of_rebuilt_networks(checkpoint, network, batches):
    evaluate = MeasuredEvaluator(network, batches, cache_mib=1)
    sets = [frozenset(s) for s in ((), ("layer1.1",), ("layer1.1", "layer3.0"), ("layer2.1", "layer3.0", "layer3.1"))]
    expected = [by_rebuilding(checkpoint, s, batches) for s in sets]
    assert evaluate(sets) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    expected = [by_rebuilding(checkpoint, s, batches[:1]) for s in sets]
    assert evaluate(sets, images=8) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_set_is_measured_once_and_more_images_add_to_what_is_known(network, batches, walked):
    evaluate = MeasuredEvaluator(network, batches)
    one, two = frozenset({"layer1.1"}), frozenset({"layer2.1"})
    evaluate([one, two], images=8)
    assert len(walked) == 2
    evaluate([one])
    assert len(walked) == 4
    evaluate([one, two], images=9)
    assert len(walked) == 5
    assert evaluate.tally(two).n == 24
    assert len(walked) == 6


def sorted_walk(network, batch, sets):
    found = dict(walk_subsets(network, batch.images, sets))
    return [(subset, found[subset]) for subset in sets]


def test_a_prediction_adds_the_difference_to_the_logits(network, batches):
    evaluate = MeasuredEvaluator(network, batches)
    base, smaller, larger = frozenset({"layer1.1"}), WHOLE, frozenset({"layer2.1"})
    evaluate([base, smaller, larger])
    found = evaluate.predict(base, [(larger, smaller)], images=None)
    tally = Tally()
    for batch in batches:
        with torch.inference_mode():
            logits = [network.classify(f) for _, f in sorted_walk(network, batch, (base, larger, smaller))]
        tally.add(logits[0] + logits[1] - logits[2], batch.labels, batch.reference)
    assert found == pytest.approx(tally.apart)


def test_a_prediction_from_what_is_to_be_predicted_is_the_measurement(network, batches):
    evaluate = MeasuredEvaluator(network, batches)
    base, target = frozenset({"layer1.1"}), frozenset({"layer1.1", "layer3.1"})
    evaluate([base, target], images=8)
    found = evaluate.predict(base, [(target, base)], images=8)
    assert found == pytest.approx(evaluate([target], images=8)[0], rel=1e-5)


def run(network, batches, path, key="k"):
    evaluate = MeasuredEvaluator(network, batches, journal=journal_in(path, key))
    names = [name for name, _ in network.units()]
    plan = SearchPlan(images=24, screen=8, width=1)
    return search(evaluate, names, Goal(dict.fromkeys(names, 1.0), 3), plan)


@pytest.mark.parametrize("after", [1, 9, 30])
def test_an_interrupted_search_goes_on_to_the_same_end_without_measuring_twice(
    network, batches, walked, tmp_path, monkeypatch, after
):
    whole = run(network, batches, tmp_path / "whole.json")
    total = len(walked)
    walked.clear()
    real = MeasuredEvaluator._record

    def interrupted(self, subset, number, features):
        if len(walked) > after:
            raise KeyboardInterrupt
        real(self, subset, number, features)

    with monkeypatch.context() as patch:
        patch.setattr(MeasuredEvaluator, "_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(network, batches, tmp_path / "search.json")
    walked.clear()
    resumed = run(network, batches, tmp_path / "search.json")
    assert resumed == whole
    again = len(walked) - (total - after)
    assert 0 <= again <= 1 + 6 + 2  # at most logits for predictions: whole, singles, a parent of two levels
    walked.clear()
    assert run(network, batches, tmp_path / "search.json") == whole
    assert not walked


def test_a_journal_of_something_else_or_damaged_is_replaced(network, batches, walked, tmp_path):
    path = tmp_path / "search.json"
    run(network, batches, path, key="one network")
    once = len(walked)
    run(network, batches, path, key="another")
    assert len(walked) == 2 * once
    assert json.loads(path.read_text())["key"] == "another"
    path.write_text(path.read_text()[:-20])
    run(network, batches, path, key="another")
    assert len(walked) == 3 * once


def test_progress_counts_pairs_done_and_those_found_in_the_journal(network, batches, tmp_path):
    for _ in range(2):
        evaluate = MeasuredEvaluator(network, batches, journal=journal_in(tmp_path / "search.json", "k"))
        done: list[int] = []
        evaluate.advance = done.append
        evaluate([WHOLE, frozenset({"layer1.0"})], images=8)
        evaluate([WHOLE, frozenset({"layer1.0"})])
        assert sum(done) == 2 * 24


def test_a_network_that_gives_no_number_is_a_failure(network, batches):
    with torch.no_grad():
        network.get_submodule("layer1.1.conv1").weight.fill_(float("nan"))
    with pytest.raises(StageError, match=r"without layer2\.1 the network gives a KL that is not finite"):
        MeasuredEvaluator(network, batches)([frozenset({"layer2.1"})])
