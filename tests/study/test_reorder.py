"""Only modules of one shape change places, and tau says how far the order has moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.models.weights import load_network
from edgeres.study.reorder import (
    ReorderConfig,
    classes_of,
    kendall_tau,
    levels_of,
    random_orders,
    reorder,
    reordered,
)
from edgeres.study.result import Study


def test_kendall_tau_in_closed_form():
    assert kendall_tau([0, 1, 2, 3]) == 1
    assert kendall_tau([3, 2, 1, 0]) == -1
    assert kendall_tau([1, 0, 2, 3]) == pytest.approx(1 - 2 / 6)
    assert kendall_tau([3, 1, 2, 0]) == pytest.approx(1 - 2 * 5 / 6)
    assert kendall_tau([0]) == 1


def test_kendall_tau_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(15)
        assert kendall_tau(order) == pytest.approx(stats.kendalltau(np.arange(15), order).statistic)


@pytest.mark.parametrize(
    ("arch", "options", "expected"),
    [
        ("resnet20", {}, ((0, 1, 2), (4, 5), (7, 8))),
        ("resnet20", {"ordering": "full-preact"}, ((1, 2), (4, 5), (7, 8))),
        ("resnet20", {"shortcut": "C"}, ((0, 1, 2), (4, 5), (7, 8))),
        ("plain20", {}, ((0, 1, 2), (4, 5), (7, 8))),
        ("resnet8", {}, ()),
    ],
)
def test_modules_of_equal_shapes_may_stand_in_for_each_other(checkpoint_of, spec_of, arch, options, expected):
    checkpoint = checkpoint_of(spec_of(arch, **options))
    assert classes_of(load_network(checkpoint), checkpoint.spec) == expected


def test_a_dropped_module_is_not_swapped(checkpoint_of, spec_of):
    spec = spec_of("resnet20", ordering="bn-after-add").without(("layer1.1",))
    assert classes_of(load_network(checkpoint_of(spec)), spec)[0] == (0, 2)


def test_an_order_only_moves_modules_inside_their_class():
    classes = ((0, 1, 2), (4, 5))
    for order in random_orders(classes, 7, swaps=5, draws=4, seed=0):
        assert sorted(order) == list(range(7))
        assert all({order[place] for place in places} == set(places) for places in classes)
        assert (order[3], order[6]) == (3, 6)


def test_the_trained_order_comes_first_and_only_once():
    (trained, *others), swaps = zip(*random_orders(((0, 1, 2),), 3, swaps=4, draws=6, seed=0).items(), strict=True)
    assert (trained, swaps[0]) == ((0, 1, 2), 0)
    assert len(others) == 5  # 3! - 1
    assert all(kendall_tau(order) < 1 for order in others)
    assert {*swaps[1:]} == {1, 2}


def test_equal_sizes_are_of_one_level_and_levels_have_no_gaps():
    assert levels_of([0.3, 0.1, 0.1, 0.2]) == [3, 1, 1, 2]
    levels = levels_of(np.random.default_rng(0).random(80).tolist())
    assert sorted(set(levels)) == list(range(1, 9))
    assert min(map(levels.count, set(levels))) >= 9


def test_reordering_equals_applying_the_modules_in_that_order(checkpoint_of, spec_of):
    network = load_network(checkpoint_of(spec_of("resnet20")))
    x = torch.randn(2, 1, 8, 8)
    orders = [tuple(range(9)), (0, 1, 2, 3, 5, 4, 6, 7, 8), (2, 1, 0, 3, 4, 5, 6, 8, 7)]
    with torch.inference_mode():
        found = dict(reordered(network, x, orders))
        assert torch.equal(found[orders[0]], network(x))
        for order in orders:
            y = network.stem(x)
            for place in order:
                y = network.units()[place][1](y)
            assert torch.equal(found[order], network.classify(network.tail(y)))


def test_the_study_has_one_row_an_order_and_a_verdict(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet20"))
    config = ReorderConfig(data="digits", images=40, swaps=2, draws=2)
    result = reorder(checkpoint, config, tmp_path / "out")
    study = record_from_json(Study, result.output.path)
    assert [row["swaps"] for row in study.rows] == [0, 1, 1, 2, 2]
    assert study.rows[0]["kendall_tau"] == 1
    assert study.n == 40
    assert study.verdict == "undecided"
    assert study.summary["trend"]["n"] == 40
    assert result.report.results["because"] == study.because
    assert "guessing 90 %" in study.because
    assert "<svg" in (tmp_path / "out/study.svg").read_text()


def test_nothing_to_swap_is_said(checkpoint_of, spec_of, tmp_path):
    with pytest.raises(InputError, match="no two modules of resnet8 have the same shape"):
        reorder(checkpoint_of(spec_of("resnet8")), ReorderConfig(data="digits"), tmp_path / "out")
