"""The gradients study: what its verdict rests on, and that it goes on where it stopped."""

from __future__ import annotations

import csv
import math

import pytest

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.study import gradients as study_module
from edgeres.study.gradients import KINDS, GradientsConfig, claims_of, geometric_interval, gradients
from edgeres.study.result import Study

TINY = GradientsConfig(depth=8, epochs=1, batch=256, seeds=1, images=16)


def rows_with(ratios, seeds=3, spread=1.1):
    """Made-up rows of two modules: the first one's gradient over the last one's is `ratios[kind]`, more or less."""
    return [
        {
            "network": kind,
            "seed": seed,
            "epoch": epoch,
            "module": module,
            "gradient_norm": 1.0 if module else ratios.get(kind, 1.0) * spread ** (seed - 1),
        }
        for kind in KINDS
        for seed in range(seeds)
        for epoch in (0, 4)
        for module in (0, 1)
    ]


@pytest.mark.parametrize(
    ("ratios", "seeds", "verdict"),
    [
        ({"plain": 60.0, "plain without BN": 1e-6}, 3, "supported"),
        ({"plain": 0.01}, 3, "not supported"),
        ({"plain": 0.1}, 3, "undecided"),
        ({"plain": 60.0}, 2, "undecided"),
    ],
)
def test_the_verdict_follows_from_the_ratios(ratios, seeds, verdict):
    claims, found = claims_of(rows_with(ratios, seeds))
    assert claims[0].verdict == verdict
    assert found["plain"][4].value == pytest.approx(ratios["plain"] * (1 if seeds == 3 else 1.1**-0.5))


def test_residual_networks_are_judged_with_and_without_norm():
    claims, _ = claims_of(rows_with({"residual without BN": 0.001}))
    assert [claim.verdict for claim in claims] == ["supported", "not supported"]


def test_a_gradient_of_zero_counts_as_vanished():
    interval = geometric_interval([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert interval.high < 1e-30
    assert math.isfinite(geometric_interval([1.0, 0.0], [1.0, 1.0]).high)


def test_the_study_writes_its_files_and_does_not_train_again(tmp_path, monkeypatch):
    result = gradients(None, TINY, tmp_path)
    study = record_from_json(Study, result.output.path)
    assert study.verdict == "undecided"  # one seed
    assert study.n == 16
    assert {row["network"] for row in study.rows} == set(KINDS)
    assert {row["epoch"] for row in study.rows} == {0, 1}
    assert {row["module"] for row in study.rows} == {0, 1, 2, 3}
    table = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert len(table) == len(study.rows) == 4 * 2 * 4
    assert (tmp_path / "study.svg").read_text().startswith("<?xml")
    assert not list(tmp_path.rglob("state.pt"))

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(study_module, "network_trained", refuse)
    assert record_from_json(Study, gradients(None, TINY, tmp_path).output.path) == study


def test_more_images_than_there_are_is_refused(tmp_path):
    with pytest.raises(InputError, match="--images 5000: digits has 1348"):
        gradients(None, TINY.model_copy(update={"images": 5000}), tmp_path)


def test_a_depth_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="depth 6n"):
        GradientsConfig(depth=9).check()
