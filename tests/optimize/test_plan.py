"""plan.toml reads back to the same, and what is wrong with one is said."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.records.frontier import Tried
from edgeres.optimize import choose, tries
from edgeres.optimize.choose import _undominated
from edgeres.optimize.config import OptimizeConfig
from edgeres.optimize.plan import Plan, PlannedSet, plan_from, toml_text
from edgeres.optimize.stage import _off
from edgeres.prune.sets import Found

PLAN = Plan(
    model_sha256="ab" * 32,
    precision="int8",
    images=250,
    tries=(
        PlannedSet(drop=("layer1.1",), ratio=(0.5, 0.4, 0.6), lost=0.2),
        PlannedSet(drop=("layer1.1", "layer2.1")),
    ),
)


def test_a_plan_reads_back_to_the_same(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(toml_text(PLAN))
    assert plan_from(path, PLAN.model_sha256) == PLAN


def test_a_plan_in_lines():
    lines = list(PLAN.lines())
    assert lines[1].split() == ["1", "0.500", "[0.400,", "0.600]", "0.2", "layer1.1"]
    assert lines[2].split() == ["2", "–", "–", "layer1.1,", "layer2.1"]
    named = list(PLAN.lines("% of relative error"))
    assert "predicted     % of relative error lost   the modules" in named[0]
    assert named[1].index("layer1.1") == named[0].index("the modules")
    assert "; % of relative error on " in named[-1]


def test_the_profile_of_one_engine_gives_no_interval_and_that_is_said(tmp_path):
    plan = PLAN.model_copy(update={"tries": (PlannedSet(drop=("layer1.1",), ratio=(0.46,)),)})
    _, line, told = plan.lines(by_profile=True)
    assert line.split() == ["1", "0.460", "–", "layer1.1"]
    assert "added up from the profile of one engine" in told
    *_, doubted = plan.lines()
    assert "added up from a doubtful session (see the warnings)" in doubted
    assert all("which set is faster, not by how much; the clock decides" in one for one in (told, doubted))
    (tmp_path / "plan.toml").write_text(toml_text(plan))
    assert plan_from(tmp_path / "plan.toml", plan.model_sha256) == plan


def test_brackets_claim_one_session_and_what_another_did_not_keep_is_counted():
    assert "brackets hold what one session did not know of that sum, not what another finds" in [*PLAN.lines()][-1]
    shares = {"a": (0.8, 0.75, 0.85), "b": (0.6, 0.59, 0.61), "c": (0.5,)}
    plan = PLAN.model_copy(update={"tries": tuple(PlannedSet(drop=(one,), ratio=shares[one]) for one in shares)})
    nothing, share = Interval.around(0.0), Interval.around(0.7)
    own = {"precision": PLAN.precision, "lost_points": nothing, "ratio": share, "latency_ms": nothing}
    tried = [Tried(dropped=(one,), **own) for one in shares]
    (line,) = _off(plan, tried)
    assert line == (
        "measured shares less those predicted: -0.100 to +0.200 (n = 3, 2 outside the brackets: the session of the"
        " modules was another)"
    )
    assert list(_off(plan, tried[2:])) == ["measured shares less those predicted: +0.200 to +0.200 (n = 1)"]


@pytest.mark.parametrize(
    ("method", "doubts", "half", "expected"),
    [
        ("networks", [], 0.0, (0.35, 0.28, 0.42)),  # of the table alone
        ("networks", [], 0.1, (0.35, 0.35 - 0.099, 0.35 + 0.099)),  # and of the whole's share: a square root of 2
        ("networks", ["uncertain"], 0.1, (0.35,)),
        ("profile", [], 0.1, (0.35,)),
    ],
)
def test_what_is_not_known_of_the_whole_network_is_in_the_predicted_shares(monkeypatch, method, doubts, half, expected):
    monkeypatch.setattr(choose, "doubts", lambda _, then="": doubts)
    monkeypatch.setattr(choose, "predicted_ms", lambda *_: Interval.around(5.0, 1.0))
    table = SimpleNamespace(method=method, whole_ms=Interval.around(10.0))
    found = Found(("layer1.1",), score=0.0, gain=5.0)
    planned = choose._planned(found, table, Interval.around(0.7, half * 1.4), lost=0.0)
    assert planned.ratio == pytest.approx(expected, abs=1e-4)


def test_the_plan_alone_says_what_a_set_loses(monkeypatch, caplog, tmp_path):
    """A later search may find a better set of a size that an earlier one has seen."""
    lost = {("a",): 2.0, ("b",): 1.0}
    searches = iter((("a",), ("b",)) * 3)

    class Chooser:
        candidates, images, lost_are = ("a", "b"), 100, "points"

        def __init__(self, *_):
            pass

        def choose(self, goal):
            best = Found((name := next(searches)), score=lost[name], gain=1.0)
            return SimpleNamespace(best=best, levels=(best,))

        def points(self, dropped):
            return -lost[dropped]

        def lost_by_module(self):
            return {}

    table = SimpleNamespace(saved_ms={"a": 1.0, "b": 1.0}, method="profile", whole_ms=Interval.around(10.0))
    for name, instead in (("Chooser", Chooser), ("_table", lambda *_, **__: table), ("doubts", lambda _, then="": [])):
        monkeypatch.setattr(choose, name, instead)
    monkeypatch.setattr(choose, "predicted_ms", lambda *_: Interval.around(5.0))
    config = OptimizeConfig(data="digits", images=64)
    bench = SimpleNamespace(config=config, choose_on=64, source=SimpleNamespace(sha256="0"), out_dir=tmp_path)
    with caplog.at_level("INFO", "edgeres"):
        plan = choose.chosen(bench, "fp32", Interval.around(1.0), until_s=math.inf).plan
    assert [(one.drop, one.lost) for one in plan.tries] == [(("b",), 1.0)]
    assert len(caplog.messages) == 6
    assert not any("lost" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("latency", "expected"), [("0.5x", "ac"), ("5ms", "ac"), (None, "ab"), ("0.9x", "ab"), ("0.1x", "ab")]
)
def test_of_its_size_the_set_that_meets_the_latency_is_planned(monkeypatch, tmp_path, latency, expected):
    """The milder a, b leaves 5.5 of 10 ms, and 4.85 are aimed at; 0.9x is met by a alone, 0.1x by none."""
    scores, asked = {"a": 1.0, "ab": 2.0, "ac": 3.0, "abc": 9.0}, []
    gain = {"a": 2.5, "b": 2.0, "c": 2.7}

    class Chooser:
        candidates, images = tuple(gain), 100

        def __init__(self, *_):
            pass

        def choose(self, goal):
            found = [Found(tuple(names), score, goal.of(frozenset(names))) for names, score in scores.items()]
            asked.append(goal.needed)
            best = min((one for one in found if goal.is_reached(frozenset(one.dropped))), key=lambda one: one.score)
            return SimpleNamespace(best=best, levels=(found[0], found[1], found[3]))

        def points(self, dropped):
            return -scores["".join(dropped)]

        def lost_by_module(self):
            return {}

    table = SimpleNamespace(saved_ms=gain, method="profile", whole_ms=Interval.around(10.0))
    for name, instead in (("Chooser", Chooser), ("_table", lambda *_, **__: table), ("doubts", lambda _, then="": [])):
        monkeypatch.setattr(choose, name, instead)
    monkeypatch.setattr(
        choose, "predicted_ms", lambda _, names: Interval.around(10.0 - sum(gain[one] for one in names))
    )
    bench = SimpleNamespace(
        config=OptimizeConfig(data="digits", images=64, latency=latency, max_loss=50.0),
        choose_on=64,
        source=SimpleNamespace(sha256="0"),
        out_dir=tmp_path,
    )
    plan = choose.chosen(bench, "fp32", Interval.around(1.0), until_s=math.inf).plan
    assert ["".join(one.drop) for one in plan.tries] == ["a", expected, "abc"]
    if expected == "ac":
        assert asked[0] == pytest.approx(10 - 0.99 * 0.98 * 5)


@pytest.mark.parametrize(("errors", "kept"), [((0.02,), 0.02), ((0.3, 0.01), 0.01), ((0.3, 0.1, 0.2, 0.0), 0.1)])
def test_what_modules_cost_is_timed_again_while_that_is_disturbed(monkeypatch, tmp_path, errors, kept):
    """Three times at most; the most certain table counts."""
    left, bench = (
        list(errors),
        SimpleNamespace(
            config=OptimizeConfig(data="digits"),
            out_dir=tmp_path,
            source=None,
            place=SimpleNamespace(costs=None, measure_files=None),
        ),
    )

    class Table(SimpleNamespace):
        misfit = "much"

        def model_dump_json(self):
            return str(self.fit_error)

    monkeypatch.setattr(choose, "classes_to_time", lambda _: [1])
    monkeypatch.setattr(choose, "doubts", lambda table, then="": ["doubt"] * (table.fit_error > 0.03))
    monkeypatch.setattr(
        choose, "latency_table", lambda *_, **__: SimpleNamespace(output=SimpleNamespace(path=left.pop(0)))
    )
    monkeypatch.setattr(
        choose, "latency_table_from", lambda it: Table(fit_error=it if isinstance(it, float) else float(it.read_text()))
    )
    assert choose._table(bench, "int8", until_s=math.inf).fit_error == kept
    assert len(errors) - len(left) == min(len(errors), 3)


def test_long_budgets_choose_on_twice_the_images(monkeypatch):
    """As many as the network's work leaves time for, at least those asked for, at most a third of train."""
    source, dataset = SimpleNamespace(spec=None), SimpleNamespace(train=range(9000))
    monkeypatch.setattr(tries, "modules_of", lambda _: range(10))
    monkeypatch.setattr(tries.Workbench, "dataset", dataset)
    exported = SimpleNamespace(card=SimpleNamespace(cost=SimpleNamespace(macs=10**8)))
    monkeypatch.setattr(tries.Workbench, "exported", lambda _: exported)
    found = [
        tries.Workbench(source, OptimizeConfig(data="digits", budget=budget, images=images), None).choose_on
        for budget, images in (("1m", 500), ("250s", 500), ("20m", 500), ("20m", 2000))
    ]
    assert found == [500, 750, 1000, 3000]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "model_sha256"),
        ('model_sha256 = "x"\n[[tries]]\ndrop = ["a"]\n', "a plan for another network (sha256 x..."),
        (f'model_sha256 = "{PLAN.model_sha256}"\n', "has no [[tries]]: nothing is to be tried"),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndrop = []\n', "drop"),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndrop = ["a", "a"]\n', "a"),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndrop = ["a"]\nratio = [1.0, 2.0]\n', "has 2 figures"),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndorp = ["a"]\n', "dorp"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"plan\.toml") as err:
        plan_from(path, PLAN.model_sha256)
    assert said in str(err.value)
    assert "\n" not in str(err.value)


def test_a_set_that_gains_less_than_is_shown_loses_nothing():
    plan = PLAN.model_copy(update={"tries": (PlannedSet(drop=("layer1.1",), lost=-0.02),)})
    assert next(line for line in plan.lines() if "layer1.1" in line).split()[2] == "0.0"


@pytest.mark.parametrize(("lost", "stays"), [(0.9, True), (9.0, False)])
def test_a_set_stays_where_luck_may_have_another_lose_less(lost, stays):
    of = {7: -0.4, 8: lost, 9: 0.8}
    sets = [PlannedSet(drop=tuple(f"layer1.{i}" for i in range(n)), ratio=(1 - n / 20,) * 3, lost=of[n]) for n in of]
    left = [len(one.drop) for one in _undominated(sets, luck=2.0)]
    assert left == ([7, 8, 9] if stays else [7, 9])
