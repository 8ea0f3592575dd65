"""The search over a table of scores: no network is needed to say whether it searches well."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.prune.search import search
from edgeres.prune.sets import Goal, SearchPlan

WHOLE = frozenset()


class Table:
    """score(S) = sum of a_i + sum of b_ij over S; screening adds an error per set that is the same every time."""

    def __init__(self, n=9, *, coupling=1.0, noise=0.0, seed=0):
        generator = np.random.default_rng(seed)
        self.names = [f"layer{1 + i // 3}.{i % 3}" for i in range(n)]
        self.alone = dict(zip(self.names, generator.uniform(0.1, 1.0, n), strict=True))
        pairs = list(combinations(self.names, 2))
        self.pair = {
            frozenset(p): b for p, b in zip(pairs, coupling * generator.uniform(0, 1, len(pairs)), strict=True)
        }
        self.noise, self.asked, self.predicted = noise, [], 0

    def score(self, subset):
        return sum(self.alone[name] for name in subset) + sum(self.pair[frozenset(p)] for p in combinations(subset, 2))

    def __call__(self, sets, *, images=None):
        self.asked += [(subset, images) for subset in sets]
        return [self.score(s) + (self._error(s) if images else 0.0) for s in sets]

    def predict(self, base, differences, *, images):
        self.predicted += 1
        known = {subset for subset, _ in self.asked}
        assert base in known
        assert all(larger in known and smaller in known for larger, smaller in differences)
        rises = fmean(self.score(larger) - self.score(smaller) for larger, smaller in differences)
        return self.score(base) + rises

    def _error(self, subset):
        return self.noise * np.random.default_rng([self.names.index(name) for name in sorted(subset)]).normal()

    def optimum(self, goal):
        sizes = range(1, len(self.names) + 1) if set(goal.gain.values()) != {1.0} else [goal.needed]
        sets = [frozenset(s) for k in sizes for s in combinations(self.names, k)]
        return min(self.score(s) for s in sets if goal.is_reached(s))

    def drop(self, count):
        return Goal(dict.fromkeys(self.names, 1.0), count)

    def ranked(self, count):
        return sorted(self.names, key=self.alone.__getitem__)[:count]

    def greedy(self, count):
        gone: list[str] = []
        while len(gone) < count:
            left = (name for name in self.names if name not in gone)
            gone.append(min(left, key=lambda name: self.score([*gone, name])))
        return gone


def plan(**changes):
    return SearchPlan(images=1000, **changes)


def test_beside_it_stand_the_mildest_single_lesions():
    table = Table()
    found = search(table, table.names, table.drop(3), plan()).independent
    assert list(found.dropped) == table.ranked(3)
    assert found.score == pytest.approx(table.score(found.dropped))


@pytest.mark.parametrize("seed", range(8))
def test_beam_is_at_least_as_good_as_greedy_and_ranking_and_looks_at_few(seed):
    table = Table(15, coupling=0.6, noise=0.02, seed=seed)
    goal = table.drop(4)
    beam = search(table, table.names, goal, plan())
    assert beam.best.score <= table.score(table.greedy(4)) + 1e-9
    assert beam.best.score <= beam.independent.score + 1e-9
    assert beam.best.score <= 1.05 * table.optimum(goal)
    assert beam.evaluated <= 0.05 * 1365


def test_swaps_leave_a_trap_that_growing_walks_into():
    table = Table(6, coupling=0.0)
    trap, *others = table.names
    table.alone = dict.fromkeys(table.names, 0.3) | {trap: 0.1}
    table.pair |= {frozenset((trap, other)): 2.0 for other in others}
    goal = table.drop(3)
    found = search(table, table.names, goal, plan(width=1))
    assert [trap in level.dropped for level in found.levels] == [True, True, False]
    assert found.best.score == pytest.approx(table.optimum(goal))


@pytest.mark.parametrize("seed", range(4))
def test_a_goal_of_unequal_gains_is_reached(seed):
    table = Table(10, coupling=0.5, seed=seed)
    gains = np.random.default_rng(seed).uniform(0.02, 0.2, 10)
    goal = Goal(dict(zip(table.names, gains, strict=True)), 0.5 * gains.sum())
    found = search(table, table.names, goal, plan())
    assert found.best.gain >= goal.needed
    assert found.best.gain == pytest.approx(goal.of(frozenset(found.best.dropped)))
    assert found.independent.gain >= goal.needed
    assert found.best.score <= 1.05 * table.optimum(goal)


def test_equal_scores_let_the_later_module_go_first():
    table = Table(6, coupling=0.0)
    table.alone = dict.fromkeys(table.names, 0.5)
    found = search(table, table.names, table.drop(2), plan())
    assert set(found.best.dropped) == set(found.independent.dropped) == set(table.names[-2:])


def test_a_module_that_does_nothing_goes_first_whatever_it_saves():
    table = Table(6, coupling=0.0)
    table.alone[table.names[2]] = 0.0
    goal = Goal(dict.fromkeys(table.names, 5.0) | {table.names[2]: 1.0}, 5.5)
    found = search(table, table.names, goal, plan())
    assert found.best.dropped[0] == table.names[2]
    assert len(found.best.dropped) == 2


def test_levels_hold_the_best_of_every_size_and_the_order_of_choice():
    table = Table(12, coupling=0.3, seed=2)
    found = search(table, table.names, table.drop(5), plan())
    assert [len(level.dropped) for level in found.levels] == [1, 2, 3, 4, 5]
    seen = {subset: table.score(subset) for subset, images in table.asked if images is None and subset}
    for level in found.levels:
        assert level.score == pytest.approx(min(s for subset, s in seen.items() if len(subset) == len(level.dropped)))
        assert len(set(level.dropped)) == len(level.dropped)
    assert found.levels[-1] == found.best


def test_screening_sees_many_sets_and_all_images_few():
    table = Table(15, coupling=0.5)
    found = search(table, table.names, table.drop(4), plan(screen=100))
    screened = {subset for subset, images in table.asked if images == 100}
    confirmed = {subset for subset, images in table.asked if images is None}
    assert found.evaluated == len(confirmed)
    assert found.screened == len(screened - confirmed) > 0
    assert found.passes == pytest.approx(len(confirmed) + 0.1 * len(screened - confirmed))
    assert frozenset(found.best.dropped) in confirmed


def test_screening_on_all_images_is_no_screening():
    table = Table()
    search(table, table.names, table.drop(2), plan(screen=5000))
    assert {images for _, images in table.asked} == {None}


def test_the_work_expected_is_of_the_size_of_the_work_done():
    table, expected = Table(15, coupling=0.5), []
    found = search(table, table.names, table.drop(4), plan(), expect=expected.append)
    assert 0.5 < expected[0] / (found.passes * 1000) < 2


def test_what_cannot_be_reached_is_refused():
    table = Table(4)
    with pytest.raises(InputError, match="dropping all 4 candidates brings 4, but 5 is needed"):
        search(table, table.names, table.drop(5), plan())
