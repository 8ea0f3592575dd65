"""The walk that shares the common part gives what deleting each module by itself gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgeres.evaluate.subsets import walk_subsets
from edgeres.evaluate.sums import Tally
from edgeres.models import network_from
from edgeres.models.weights import load_network, load_weights, weights_without


@pytest.mark.covering(1)
@pytest.mark.parametrize("arch", ["resnet14", "vgg11", "plain8"])
@pytest.mark.parametrize("dropped", [(), ("layer2.0",)])
def test_walking_equals_rebuilding_without_each_module(checkpoint_of, spec_of, arch, dropped):
    checkpoint = checkpoint_of(spec_of(arch))
    network, images = load_network(checkpoint), torch.randn(4, 1, 8, 8)
    sets = {frozenset({*dropped, name}) for name, _ in network.units()} | {frozenset(dropped)}
    for gone, features in walk_subsets(network, images, sets):
        spec = checkpoint.spec.without(tuple(sorted(gone)))
        alone = network_from(spec).eval()
        alone.load_state_dict(weights_without(load_weights(checkpoint), spec))
        with torch.inference_mode():
            assert torch.equal(network.classify(features), alone(images)), sorted(gone)


def test_tally_agrees_with_torch_over_batches():
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 30, 10, generator=generator)
    labels = torch.randint(0, 10, (30,), generator=generator)
    tally = Tally()
    for part in (slice(0, 7), slice(7, 30)):
        tally.add(logits[part], labels[part], reference[part])
    p, q = logits.double().log_softmax(1), reference.double().softmax(1)
    assert tally.n == 30
    assert tally.loss == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
    assert tally.apart == pytest.approx(float((q * (q.log() - p)).sum(1).mean()))
    assert tally.correct_top1 == int((logits.argmax(1) == labels).sum())


def test_kl_of_a_network_with_itself_is_zero():
    logits = torch.randn(5, 10)
    tally = Tally()
    tally.add(logits, torch.zeros(5, dtype=torch.long), logits)
    assert tally.apart == pytest.approx(0, abs=1e-12)
