"""Walking sets of modules as a tree gives what running each network by itself gives, whatever is kept."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.core.errors import InputError
from edgeres.evaluate.subsets import BatchCache, add_batch, walk_subsets
from edgeres.evaluate.sums import Tally, reference_batches, tally_from_sums
from edgeres.models import network_from, spec_from_arch
from edgeres.models.weights import fold_batch_norms

WHOLE = frozenset()


KINDS = {
    "original": ("resnet14", {}),
    "full-preact": ("resnet14", {"ordering": "full-preact"}),
    "projections": ("resnet14", {"shortcut": "B"}),
    "vgg": ("vgg11", {}),
}


@cache
def tiny(kind="original"):
    arch, options = KINDS[kind]
    torch.manual_seed(0)
    spec = spec_from_arch(arch, num_classes=10, input_shape=(3, 8, 8), options=options)
    network = network_from(spec).eval().requires_grad_(False)
    fold_batch_norms(network)
    return network


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def alone(network, subset, images=IMAGES):
    x = network.stem(images)
    for name, unit in network.units():
        x = unit.bypass(x) if name in subset else unit(x)
    return network.tail(x)


def sets_of(network):
    names = [name for name, _ in network.units()]
    return st.lists(st.frozensets(st.sampled_from(names)), max_size=8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_random_sets_equal_the_plain_way_with_any_cache(kind, data):
    network = tiny(kind)
    stored = BatchCache(data.draw(st.sampled_from([0, 5_000, 30_000, 10**9])))
    for _ in range(3):
        sets = data.draw(sets_of(network))
        found = dict(walk_subsets(network, IMAGES, sets, stored))
        assert found.keys() == set(sets)
        assert stored.size <= stored.limit
        for subset, features in found.items():
            assert torch.equal(features, alone(network, subset)), sorted(subset)


class Counting(torch.nn.Module):
    """A unit that counts its calls."""

    def __init__(self, unit, calls, name):
        super().__init__()
        self.unit, self.calls, self.name, self.dropped = unit, calls, name, False

    def forward(self, x):
        self.calls.append(self.name)
        return self.unit(x)

    def bypass(self, x):
        return self.unit.bypass(x)


def calls_for(network, sets, stored):
    calls: list[str] = []
    real = network.units()
    network.units = lambda: [(name, Counting(unit, calls, name)) for name, unit in real]
    try:
        list(walk_subsets(network, IMAGES, sets, stored))
    finally:
        del network.units
    return len(calls)


def test_all_single_lesions_cost_one_pass_and_the_suffixes():
    network = tiny()
    names = [name for name, _ in network.units()]
    n = len(names)
    sets = [WHOLE, *(frozenset({name}) for name in names)]
    assert calls_for(network, sets, BatchCache(0)) == n + n * (n - 1) // 2


def test_children_of_one_set_start_where_they_differ_from_what_was_walked_before():
    network = tiny()
    names = [name for name, _ in network.units()]
    stored = BatchCache(10**9)
    singles = [frozenset({name}) for name in names]
    calls_for(network, [*singles, WHOLE], stored)
    assert calls_for(network, [frozenset(names[4:])], stored) == 0
    assert calls_for(network, [frozenset({names[-1]})], stored) == 0
    assert calls_for(network, [frozenset({names[3]})], stored) == len(names) - 4
    assert calls_for(network, [frozenset({names[3]})], BatchCache(0)) == len(names) - 1


def test_a_cache_stays_within_its_limit_and_forgets_what_is_no_longer_used():
    stored = BatchCache(4 * 100)
    for position in (1, 2, 3, 4):
        stored.offer(((), position), torch.zeros(25))
    assert stored.size == 400
    assert stored.find(((), 1)) is not None
    stored.offer(((2,), 5), torch.zeros(50))
    stored.offer(((2,), 6), torch.zeros(101))
    assert stored.size == 400
    offered = [*(((), position) for position in (1, 2, 3, 4)), ((2,), 5), ((2,), 6)]
    kept = [((), 1), ((), 4), ((2,), 5)]
    assert [key for key in offered if stored.find(key) is not None] == kept


def test_tallies_are_those_of_the_plain_way_over_batches():
    network = tiny()
    generator = torch.Generator().manual_seed(1)
    pairs = [
        (torch.randn(n, 3, 8, 8, generator=generator), torch.randint(0, 10, (n,), generator=generator)) for n in (4, 3)
    ]
    batches = reference_batches(network, pairs)
    sets = [frozenset({"layer1.0"}), frozenset({"layer1.0", "layer3.1"}), WHOLE]
    found = {subset: Tally() for subset in sets}
    for batch in batches:
        add_batch(found, network, batch)
    for subset, tally in found.items():
        plain = Tally()
        for batch in batches:
            features = alone(network, subset, batch.images)
            plain.add(network.classify(features), batch.labels, batch.reference)
        assert tally.sums == pytest.approx(plain.sums, rel=1e-5)
    assert found[WHOLE].apart == pytest.approx(0, abs=1e-9)


def test_sums_of_parts_are_the_sums_of_all():
    logits, reference = torch.randn(2, 9, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9)
    whole, parts = Tally(), []
    whole.add(logits, labels, reference)
    for part in (slice(0, 2), slice(2, 9)):
        tally = Tally()
        tally.add(logits[part], labels[part], reference[part])
        parts.append(tally.sums)
    merged = tally_from_sums(parts)
    assert (merged.n, merged.correct_top1, merged.correct_top5) == (9, whole.correct_top1, whole.correct_top5)
    assert merged.apart == pytest.approx(whole.apart)
    assert merged.loss == pytest.approx(whole.loss)


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"cannot leave out layer9\.9: not in the network"):
        list(walk_subsets(tiny(), IMAGES, [frozenset({"layer9.9"})]))
