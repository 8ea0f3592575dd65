"""plan.toml reads back to the same, and what is wrong with one is said."""

from __future__ import annotations

import pytest

from edgeres.core.errors import InputError
from edgeres.optimize.choose import _undominated
from edgeres.optimize.plan import Plan, PlannedSet, plan_from, toml_text

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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "model_sha256"),
        ('model_sha256 = "x"\n', "a plan for another network (sha256 x..."),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndrop = []\n', "drop"),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndrop = ["a", "a"]\n', "a"),
        (f'model_sha256 = "{PLAN.model_sha256}"\n[[tries]]\ndrop = ["a"]\nratio = [1.0]\n', "has 1 figures"),
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
