"""The lesion table measures every module on val, paired with the whole network."""

from __future__ import annotations

import pytest

from edgeres.core.config import record_from_json
from edgeres.data import dataset_for
from edgeres.evaluate.accuracy import accuracy_of
from edgeres.models import modules_of
from edgeres.prune.stage import PruneConfig, prune
from edgeres.study.stage import LesionConfig, LesionTable, lesion


def test_each_row_is_the_accuracy_of_the_network_without_that_module(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet14"))
    result = lesion(checkpoint, LesionConfig(data="digits"), tmp_path / "out")
    table = record_from_json(LesionTable, result.output.path)
    dataset = dataset_for(checkpoint.spec, "digits")
    assert [row.module for row in table.table] == [info.name for info in modules_of(checkpoint.spec)]
    assert table.whole.accuracy.correct_top1 == accuracy_of(checkpoint, dataset).correct_top1
    assert table.whole.change_points == 0
    assert table.whole.kl == pytest.approx(0, abs=1e-9)
    for row in table.table:
        shorter = prune(checkpoint, PruneConfig(modules=(row.module,)), tmp_path / row.module).output
        measured = accuracy_of(shorter, dataset)
        assert row.accuracy.correct_top1 == measured.correct_top1
        assert row.accuracy.n == len(dataset.val)
        difference = measured.correct_top1 - table.whole.accuracy.correct_top1
        assert row.change_points == pytest.approx(100 * difference / measured.n)


def test_fewer_images_are_said_to_be_fewer(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet8"))
    result = lesion(checkpoint, LesionConfig(data="digits", images=50), tmp_path / "out")
    assert result.report.results["whole"]["accuracy"]["n"] == 50
    assert "n = 50" in result.report.notes[0]


@pytest.mark.parametrize("ordering", ["original", "bn-after-add"])
def test_a_module_that_is_gone_has_no_row(checkpoint_of, spec_of, tmp_path, ordering):
    checkpoint = checkpoint_of(spec_of("resnet14", ordering=ordering))
    shorter = prune(checkpoint, PruneConfig(modules=("layer1.1", "layer2.0")), tmp_path / "short").output
    table = record_from_json(LesionTable, lesion(shorter, LesionConfig(data="digits"), tmp_path / "out").output.path)
    assert [row.module for row in table.table] == ["layer1.0", "layer2.1", "layer3.0", "layer3.1"]
