"""The depth study: degradation is judged on the training error, over seeds."""

from __future__ import annotations

import csv

import pytest

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.study import experiment
from edgeres.study.depth import DepthConfig, degradation, depth
from edgeres.study.result import Study

TINY = DepthConfig(depths=(8, 14), epochs=1, batch=256, seeds=1)


def rows_with(*, plain, residual):
    """Made-up training errors of seeds 0, 1, ...: `plain` and `residual` are (shallow, deep) lists."""
    return [
        {"family": family, "depth": depth, "seed": seed, "train_error_percent": error}
        for family, pair in (("plain", plain), ("resnet", residual))
        for depth, errors in zip((8, 32), pair, strict=True)
        for seed, error in enumerate(errors)
    ]


GOOD, WORSE, WILD = [1.0, 1.2, 0.8], [30.0, 31.0, 29.0], [0.5, 30.0, 1.0]


@pytest.mark.parametrize(
    ("plain", "residual", "verdict"),
    [
        ((GOOD, WORSE), (GOOD, GOOD), "supported"),
        ((GOOD, WORSE), (GOOD, WORSE), "not supported"),  # residual networks degrade too
        ((WORSE, GOOD), (GOOD, GOOD), "not supported"),  # plain ones do not
        ((GOOD, WILD), (GOOD, GOOD), "undecided"),
        ((GOOD, WORSE), (GOOD, WILD), "undecided"),
        ((GOOD[:2], WORSE[:2]), (GOOD[:2], GOOD[:2]), "undecided"),
    ],
)
def test_the_verdict_follows_from_the_training_errors(plain, residual, verdict):
    claim, changes = degradation(rows_with(plain=plain, residual=residual))
    assert claim.verdict == verdict
    assert "from depth 8 to 32" in claim.because
    assert changes["plain"].value == pytest.approx(sum(plain[1]) / len(plain[1]) - sum(plain[0]) / len(plain[0]))


def test_the_study_writes_its_files_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    result = depth(None, TINY, tmp_path)
    study = record_from_json(Study, result.output.path)
    assert study.verdict == "undecided"  # one seed
    assert (study.setting, study.data, study.n, study.seeds) == ("short", "digits", 449, (0,))
    assert [(row["family"], row["depth"]) for row in study.rows] == [
        ("plain", 8), ("resnet", 8), ("plain", 14), ("resnet", 14),
    ]  # fmt: skip
    assert len(list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))) == 4
    assert (tmp_path / "study.svg").exists()
    assert result.report.results["verdict"] == "undecided"

    begun = []
    monkeypatch.setattr(experiment, "network_trained", lambda job, *_: begun.append(job.name))
    (tmp_path / "networks" / "plain14-seed0" / "trained.json").unlink()
    with pytest.raises(TypeError):
        depth(None, TINY, tmp_path)
    assert begun == ["plain14-seed0"]


@pytest.mark.parametrize("depths", [(8,), (8, 8), (14, 8)])
def test_depths_that_do_not_rise_are_refused(depths):
    with pytest.raises(InputError, match="at least two, rising"):
        DepthConfig(depths=depths).check()


def test_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="depth 6n"):
        DepthConfig(depths=(8, 21)).check()


def test_full_is_the_papers_five_depths():
    config = DepthConfig(full=True)
    assert config.depths == (20, 32, 44, 56, 110)
    config.check()
