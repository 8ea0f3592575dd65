"""The paths study from a checkpoint to its files."""

from __future__ import annotations

import pytest

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.study.paths import PathsConfig, paths
from edgeres.study.result import Study

SMALL = {"data": "digits", "images": 12, "batch": 6, "draws": 3}


def test_every_length_has_a_row_and_the_shares_make_one(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet14", width=4, ordering="full-preact"))
    result = paths(checkpoint, PathsConfig(**SMALL), tmp_path / "out")
    study = record_from_json(Study, result.output.path)
    assert [row["paths"] for row in study.rows] == [1, 6, 15, 20, 15, 6, 1]
    assert sum(row["share"] for row in study.rows) == pytest.approx(1, abs=1e-4)
    assert sum(row["share_bound"] for row in study.rows) == pytest.approx(1, abs=1e-4)
    assert all(row["magnitude_low"] <= row["magnitude"] <= row["magnitude_high"] for row in study.rows)
    assert study.summary["draws"] == 3
    assert (study.n, study.seeds, study.networks) == (12, (0,), ("resnet14",))
    assert result.report.results["verdict"] == study.verdict
    assert "54 modules, this one 6" in study.because
    assert (tmp_path / "out/study.csv").read_text().count("\n") == 8
    assert "<svg" in (tmp_path / "out/study.svg").read_text()


def test_the_seed_decides_the_paths(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet14", width=4))

    def magnitudes(seed, folder):
        study = paths(checkpoint, PathsConfig(**SMALL, seed=seed), tmp_path / folder)
        return [row["magnitude"] for row in study.report.results["study"]["rows"]]

    assert magnitudes(0, "a") == magnitudes(0, "b") != magnitudes(1, "c")


def test_a_network_without_shortcuts_is_refused(checkpoint_of, spec_of, tmp_path):
    with pytest.raises(InputError, match=r"plain8: layer1\.0 has no shortcut; this study needs a residual network"):
        paths(checkpoint_of(spec_of("plain8")), PathsConfig(**SMALL), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_without_modules_is_refused(checkpoint_of, spec_of, tmp_path):
    empty = checkpoint_of(spec_of("resnet8").without(("layer1.0", "layer2.0", "layer3.0")))
    with pytest.raises(InputError, match="no module is left"):
        paths(empty, PathsConfig(**SMALL), tmp_path / "out")
