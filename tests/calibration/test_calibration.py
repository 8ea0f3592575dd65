"""The files in calibration/ are what the code would read and make."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeres.core.records.scales import scale_table_from
from edgeres.data import dataset_from
from edgeres.pipeline.recipe import recipe_from
from edgeres.quantize.calibrate import CalibrateConfig
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.stage import QuantizeConfig

FOLDER = Path(__file__).parents[2] / "calibration"
RECIPES = sorted((FOLDER / "recipes").glob("*.toml"))
TABLES = sorted((FOLDER / "scales").glob("*.json"))
NETWORKS = {"resnet20", "resnet56"}
VARIANTS = {"resnet56-skips"}


def test_every_calibrator_has_a_recipe_and_a_line_in_the_readme():
    assert {path.stem for path in RECIPES} == {*CALIBRATORS, *NETWORKS, *VARIANTS}
    readme = (FOLDER / "README.md").read_text()
    assert all(f"| `{name}`" in readme for name in CALIBRATORS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_as_its_first_lines_say(path, tmp_path):
    checkpoint = tmp_path / "model.pth"
    checkpoint.write_bytes(b"PK\x03\x04")  # how a zip archive of torch.save begins
    usage = path.read_text().splitlines()[1]
    assert f"edgeres run calibration/recipes/{path.name} --data" in usage
    overrides = {"data": "digits", "import.file": str(checkpoint)}
    if "import.arch" in usage:
        overrides["import.arch"] = "resnet56"
    steps = {step.use: step.config for step in recipe_from(str(path), overrides)[1]}
    calibrate, quantize = steps["calibrate"], steps["quantize"]
    assert isinstance(calibrate, CalibrateConfig)
    assert isinstance(quantize, QuantizeConfig)
    assert quantize.method in calibrate.methods
    assert path.stem in {*NETWORKS, *VARIANTS, quantize.method}


def test_the_listed_digits_are_those_calibration_chooses_and_none_of_val():
    listed = (FOLDER / "samples" / "digits-512-seed0.txt").read_text().split()
    digits = dataset_from("digits")
    assert tuple(listed) == digits.train.sample(512, 0).ids
    assert not set(listed) & set(digits.val.ids)


def test_there_is_a_table_for_each_reference_network():
    assert {path.stem for path in TABLES} == NETWORKS


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_committed_table_is_of_the_listed_images_and_holds_every_method(path):
    table = scale_table_from(path)
    listed = (FOLDER / "samples" / "cifar10-jpeg-512-seed0.txt").read_text().split()
    assert (table.split, table.n, table.seed) == ("train", len(set(listed)), 0)
    assert table.ids_sha256 == hashlib.sha256("\n".join(listed).encode()).hexdigest()
    assert set(table.methods) == set(CALIBRATORS)
    for scale in table.tensors.values():
        assert all(0 <= scale.amax[method] <= scale.amax["minmax"] for method in CALIBRATORS)
