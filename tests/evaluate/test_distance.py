"""Distances without labels: each by its formula, and the choice among them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeres.core.distances import MOST_KEPT, kept, split
from edgeres.evaluate.distance import Distance, distance_for, evened
from edgeres.evaluate.sums import Tally
from edgeres.train.objectives import relative_error

GENERATOR = torch.Generator().manual_seed(0)
GOAL = torch.randn(40, 6, generator=GENERATOR)
FOUND = GOAL + 0.3 * torch.randn(40, 6, generator=GENERATOR)


def test_of_an_embedding_only_the_direction_counts() -> None:
    distance = distance_for("embedding", [])
    assert distance.each(3 * GOAL, GOAL) == pytest.approx(0, abs=1e-12)
    turned = torch.tensor([[0.0, 2.0]])
    assert float(distance.each(turned, torch.tensor([[1.0, 1.0]]))) == pytest.approx(1 - 1 / math.sqrt(2))


def test_of_tensors_it_is_the_squared_error_over_the_power_of_the_whole() -> None:
    goal, found = GOAL.reshape(40, 2, 3), FOUND.reshape(40, 2, 3)
    distance = distance_for("tensors", [goal[:10], goal[10:]])
    expected = float((found - goal).double().square().sum() / goal.double().square().sum())
    assert float(distance.each(found, goal).mean()) == pytest.approx(expected)


def test_of_several_outputs_each_counts_alike_however_large_it_is() -> None:
    distance = distance_for("tensors", [GOAL[:10], GOAL[10:]], (1, 2, 3))
    pairs = zip(FOUND.double().split((1, 2, 3), 1), GOAL.double().split((1, 2, 3), 1), strict=True)
    expected = [float((b - a).square().sum() / a.square().sum()) for b, a in pairs]
    assert float(distance.each(FOUND, GOAL).mean()) == pytest.approx(sum(expected) / 3)
    scale = torch.tensor([1e-3, 1.0, 1.0, 1e3, 1e3, 1e3])
    same = distance_for("tensors", [scale * GOAL], (1, 2, 3)).each(scale * FOUND, scale * GOAL)
    assert torch.allclose(same, distance.each(FOUND, GOAL))
    errors = ((FOUND - GOAL).square() / evened(GOAL, (1, 2, 3))).sum() / (GOAL.square() / evened(GOAL, (1, 2, 3))).sum()
    assert float(errors) == pytest.approx(sum(expected) / 3)
    assert float(relative_error(FOUND, GOAL, (1, 2, 3))) == pytest.approx(sum(expected) / 3)


def test_scores_with_many_first_guesses_are_told_apart_by_the_divergence() -> None:
    assert distance_for("classes", [GOAL]) == Distance("kl")


def one_sided(margins: torch.Tensor) -> torch.Tensor:
    """Scores of two classes, the first of which is always the guess."""
    return torch.stack([12 + margins, torch.zeros_like(margins)], 1)


def test_one_sided_scores_are_judged_by_their_order_not_by_a_divergence_that_is_nothing() -> None:
    margins = torch.linspace(-2, 2, 100)
    whole, lost, kept = one_sided(margins), one_sided(margins.flip(0)), one_sided(1.05 * margins)
    distance = distance_for("classes", [whole])
    assert distance.measure == "centred"
    assert "100.0% of the images have the same first guess" in distance.why
    divergence = Distance("kl")
    assert float(divergence.each(lost, whole).mean()) < 1e-4  # "harmless", though the order is turned round
    assert float(distance.each(lost, whole).mean()) == pytest.approx(4, rel=1e-3)
    assert float(distance.each(kept, whole).mean()) == pytest.approx(0.05**2, rel=1e-3)


def test_what_a_softmax_does_not_see_is_no_error_of_the_scores() -> None:
    whole = one_sided(torch.linspace(-2, 2, 100))
    assert float(distance_for("classes", [whole]).each(whole + 5, whole).mean()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("guesses", "measure"), [(94, "kl"), (95, "centred")])
def test_nineteen_in_twenty_with_one_guess_are_one_sided(guesses: int, measure: str) -> None:
    scores = torch.zeros(100, 3)
    scores[:guesses, 1] = 1
    scores[guesses:, 2] = 1
    assert distance_for("classes", [scores]).measure == measure


def test_a_tally_of_an_embedding_counts_nothing_right() -> None:
    tally = Tally(distance=Distance("cosine"))
    tally.add(FOUND, torch.full((40,), -1), GOAL)
    expected = 1 - torch.cosine_similarity(FOUND.double(), GOAL.double()).mean()
    assert tally.apart == pytest.approx(float(expected))
    assert (tally.n, tally.correct_top1, tally.loss_sum) == (40, 0, 0.0)


def maps_of(random: np.random.Generator, images: int) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Two networks' outputs, three maps whose channels differ in size and error: both, and how many numbers each is."""
    whole, changed = [], []
    for channels, side, size in ((24, 64, 1.0), (24, 32, 1e-3), (24, 4, 50.0)):
        scale = size * random.lognormal(0, 1, (1, channels, 1, 1))
        goal = scale * random.standard_normal((images, channels, side, side))
        noise = scale * random.lognormal(-2, 1, (1, channels, 1, 1)) * random.standard_normal(goal.shape)
        whole.append(goal.reshape(images, -1))
        changed.append((goal + noise).reshape(images, -1))
    sizes = tuple(one.shape[1] for one in whole)
    return *(torch.from_numpy(np.concatenate(one, 1)).float() for one in (changed, whole)), sizes  # type: ignore[return-value]


def test_what_is_kept_of_large_outputs_says_nearly_what_all_of_them_do() -> None:
    found, goal, sizes = maps_of(np.random.default_rng(0), 12)
    few, whole = (kept(one, sizes) for one in (found, goal))
    assert few.shape == whole.shape == (12, 2 * (MOST_KEPT // 3) + sizes[-1])
    assert torch.equal(kept(few, sizes), few)
    assert torch.equal(split(few, sizes)[-1], split(found, sizes)[-1])
    exact = distance_for("tensors", [goal], sizes).each(found, goal).mean()
    estimate = distance_for("tensors", [whole], sizes).each(few, whole).mean()
    assert float(estimate) == pytest.approx(float(exact), rel=0.05)
    assert float(relative_error(few, whole, sizes)) == pytest.approx(float(estimate))


def test_a_large_map_alone_is_kept_in_part_too_and_is_no_row_of_scores() -> None:
    found, goal = (one[:, : 24 * 64 * 64].reshape(12, 24, 64, 64) for one in maps_of(np.random.default_rng(1), 12)[:2])
    few, whole = kept(found), kept(goal)
    assert few.shape == (12, 1, MOST_KEPT)
    exact, estimate = (distance_for("tensors", [a]).each(b, a).mean() for a, b in ((goal, found), (whole, few)))
    assert float(estimate) == pytest.approx(float(exact), rel=0.05)


def test_outputs_that_fit_and_scores_are_kept_as_they_are() -> None:
    maps, scores = torch.randn(2, 1, 128, 128), torch.randn(2, 4 * MOST_KEPT)
    assert kept(maps) is maps
    assert kept(scores) is scores
    assert kept(maps.flatten(1), (MOST_KEPT - 1, 1)).shape == (2, MOST_KEPT)
