"""The files in calibration/ are what the code would read and make."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeres.core.config import config_from, toml_from
from edgeres.data import dataset_from
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.scales import CalibrateConfig
from edgeres.quantize.stage import QuantizeConfig

FOLDER = Path(__file__).parents[2] / "calibration"
RECIPES = sorted((FOLDER / "recipes").glob("*.toml"))


def test_every_calibrator_has_a_recipe_and_a_line_in_the_readme():
    assert {path.stem for path in RECIPES} == set(CALIBRATORS)
    readme = (FOLDER / "README.md").read_text()
    assert all(f"| `{name}`" in readme for name in CALIBRATORS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_uses_the_method_it_is_named_for(path):
    recipe = toml_from(path)
    assert recipe.keys() == {"calibrate", "quantize"}
    calibrate = config_from(CalibrateConfig, {"data": "digits"} | recipe["calibrate"], path.name)
    quantize = config_from(QuantizeConfig, recipe["quantize"], path.name)
    assert quantize.method == path.stem
    assert quantize.method in calibrate.methods


def test_the_listed_digits_are_those_calibration_chooses_and_none_of_val():
    listed = (FOLDER / "samples" / "digits-512-seed0.txt").read_text().split()
    digits = dataset_from("digits")
    assert tuple(listed) == digits.train.sample(512, 0).ids
    assert not set(listed) & set(digits.val.ids)
