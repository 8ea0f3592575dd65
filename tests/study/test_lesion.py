"""The lesion table measures every module on val, paired with the whole network, and random sets of them."""

from __future__ import annotations

import csv
import re
import sys

import pytest

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError, MissingDependency
from edgeres.data import dataset_for
from edgeres.evaluate.stage import accuracy_of
from edgeres.models import modules_of
from edgeres.models.weights import load_weights, save_checkpoint, weights_without
from edgeres.study.lesion import LesionConfig, lesion
from edgeres.study.lesion_table import LesionTable


@pytest.fixture(autouse=True)
def no_figure(request, monkeypatch):
    """It is drawn for the test that looks at it."""

    def refuse(*_, **__):
        raise MissingDependency("matplotlib", "report")

    if "figure" not in request.node.name:
        monkeypatch.setattr("edgeres.study.lesion.figure_file", refuse)


def _without(checkpoint, names, path):
    spec = checkpoint.spec.without(names)
    return save_checkpoint(weights_without(load_weights(checkpoint), spec), spec, path, stage="test")


def _table(checkpoint, folder, **options):
    result = lesion(checkpoint, LesionConfig(data="digits", **{"draws": 0, **options}), folder)
    return record_from_json(LesionTable, result.output.path)


def test_each_row_is_the_accuracy_of_the_network_without_that_module(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet14", width=4))
    table = _table(checkpoint, tmp_path / "out")
    dataset = dataset_for(checkpoint.spec, "digits")
    assert [row.module for row in table.table] == [info.name for info in modules_of(checkpoint.spec)]
    assert table.whole.accuracy.correct_top1 == accuracy_of(checkpoint, dataset).correct_top1
    assert table.whole.change_points == 0
    assert table.whole.kl == pytest.approx(0, abs=1e-9)
    for row in table.table:
        measured = accuracy_of(_without(checkpoint, (row.module,), tmp_path / f"{row.module}.safetensors"), dataset)
        assert row.accuracy.correct_top1 == measured.correct_top1
        assert row.accuracy.n == len(dataset.val)
        difference = measured.correct_top1 - table.whole.accuracy.correct_top1
        assert row.change_points == pytest.approx(100 * difference / measured.n)


def test_fewer_images_are_said_to_be_fewer(checkpoint_of, spec_of, tmp_path):
    config = LesionConfig(data="digits", images=50, draws=0)
    result = lesion(checkpoint_of(spec_of("resnet8")), config, tmp_path / "out")
    assert result.report.results["whole"]["accuracy"]["n"] == 50
    assert "n = 50 of val" in result.report.notes[0]


def test_each_deletion_is_told_once_more_with_the_module_behind_refitted(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet14", width=4))
    result = lesion(checkpoint, LesionConfig(data="digits", images=100, draws=0), tmp_path / "out")
    rows = record_from_json(LesionTable, result.output.path).table
    assert sum(row.refitted.kl for row in rows) < 0.5 * sum(row.kl for row in rows)
    assert rows[-1].refitted.kl == pytest.approx(rows[-1].kl), "nothing is behind the last"
    cheapest = min(rows, key=lambda row: row.refitted.cost.value)
    assert f"refitted, in points of top-1 lost [95 %]: {cheapest.module} " in result.report.notes[0]
    header, first = (tmp_path / "out" / "lesions.csv").read_text().splitlines()[::2][:2]
    column = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(column["refitted_kl"]) == pytest.approx(rows[0].refitted.kl, abs=1e-6)


def test_without_train_images_nothing_is_refitted_and_that_is_said(checkpoint_of, spec_of, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.study.lesion.FEWEST_REPAIRED_ON", 10**6)
    result = lesion(checkpoint_of(spec_of("resnet8")), LesionConfig(data="digits", images=50, draws=0), tmp_path / "o")
    assert all(row.refitted is None for row in record_from_json(LesionTable, result.output.path).table)
    assert any("is refitted is not told: digits has 1" in note for note in result.report.notes)


@pytest.mark.parametrize("ordering", ["original", "bn-after-add"])
def test_a_module_that_is_gone_has_no_row(checkpoint_of, spec_of, tmp_path, ordering):
    checkpoint = checkpoint_of(spec_of("resnet14", width=4, ordering=ordering))
    shorter = _without(checkpoint, ("layer1.1", "layer2.0"), tmp_path / "short.safetensors")
    table = _table(shorter, tmp_path / "out", images=50)
    assert [row.module for row in table.table] == ["layer1.0", "layer2.1", "layer3.0", "layer3.1"]


def test_no_module_left_is_refused(checkpoint_of, spec_of, tmp_path):
    empty = checkpoint_of(spec_of("resnet8").without(("layer1.0", "layer2.0", "layer3.0")))
    with pytest.raises(InputError, match="no module is left to delete"):
        _table(empty, tmp_path / "out")


def test_random_sets_are_of_identity_modules_and_begin_with_the_whole_network(checkpoint_of, spec_of, tmp_path):
    table = _table(checkpoint_of(spec_of("resnet14", width=4)), tmp_path / "out", images=60, set_images=40, draws=2)
    identity = {"layer1.0", "layer1.1", "layer2.1", "layer3.1"}
    assert [one.k for one in table.sets] == [0, 1, 1, 1, 1, 2, 2, 3, 3, 4]
    assert set().union(*(one.modules for one in table.sets)) == identity
    assert table.sets_n == table.trend.n == 40
    assert [level.draws for level in table.trend.levels] == [1, 4, 2, 2, 1]
    assert [coupling.k for coupling in table.couplings] == [None, 2, 3, 4]


def test_full_judges_the_sets_on_every_image(checkpoint_of, spec_of, tmp_path):
    table = _table(checkpoint_of(spec_of("resnet8")), tmp_path / "out", images=60, set_images=40, draws=1, full=True)
    assert table.sets_n == 60


def test_single_lesions_do_not_depend_on_the_random_sets(checkpoint_of, spec_of, tmp_path):
    checkpoint = checkpoint_of(spec_of("resnet8"))
    without, with_sets = (_table(checkpoint, tmp_path / str(n), images=50, draws=n) for n in (0, 1))
    assert without.table == with_sets.table
    assert without.trend is None
    assert without.couplings == ()


def test_the_control_is_lesioned_on_the_same_images(checkpoint_of, spec_of, tmp_path):
    control = checkpoint_of(spec_of("plain8"), "plain.safetensors")
    source = checkpoint_of(spec_of("resnet8"))
    table = _table(source, tmp_path / "out", images=50, control=control.path)
    assert table.control.network == "plain8"
    alone = _table(control, tmp_path / "alone", images=50).table
    assert table.control.table == tuple(row.model_copy(update={"refitted": None}) for row in alone)
    assert {row.accuracy.n for row in (*table.table, *table.control.table)} == {50}
    assert len(table.claims) == 3
    assert "plain8" in table.claims[1].because


def test_csv_and_figure_lie_beside_the_table(checkpoint_of, spec_of, tmp_path):
    control = checkpoint_of(spec_of("plain8"), "plain.safetensors")
    table = _table(
        checkpoint_of(spec_of("resnet14", width=4)),
        tmp_path / "out",
        images=50,
        draws=1,
        set_images=30,
        control=control.path,
    )
    with (tmp_path / "out/lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + len(table.table) + len(table.sets) + 1 + len(table.control.table)
    assert {row["network"] for row in rows} == {"resnet14", "plain8"}
    assert {row["n"] for row in rows} == {"50", "30"}
    assert "<svg" in (tmp_path / "out/lesions.svg").read_text()


def test_the_report_says_claim_verdict_and_figures(checkpoint_of, spec_of, tmp_path):
    config = LesionConfig(data="digits", images=50, set_images=30, draws=1)
    report = lesion(checkpoint_of(spec_of("resnet14", width=4)), config, tmp_path / "out").report
    assert "Veit" in report.results["claim"]
    assert report.results["verdict"] in {"supported", "not supported", "undecided"}
    assert "54 modules, this one 6" in report.results["because"]
    *refitted, cheap, dear, coupling = report.notes
    assert ["once the module behind is refitted" in note for note in (*refitted, cheap, dear)] == [True] * 2 + [
        False
    ] * 2
    assert coupling.startswith("coupling ")
    assert "n = 30 of val" in coupling
    costs = {row["module"]: -row["change_points"] for row in report.results["table"]}
    assert re.findall(r"layer\d\.\d", cheap) == sorted(costs, key=costs.get)[:3]
    assert re.findall(r"layer\d\.\d", dear) == sorted(costs, key=costs.get)[:2:-1]
    assert f"layer3.1 {costs['layer3.1']:.2f} [" in cheap + dear
    assert [stage["stage"] for stage in report.results["stages"]] == [
        "layer1",
        "layer2",
        "layer2",
        "layer3",
        "layer3",
    ]


def test_a_control_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        LesionConfig(data="digits", control=tmp_path / "none.safetensors").check()
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="is not a checkpoint"):
        LesionConfig(data="digits", control=tmp_path / "net.onnx").check()


def test_without_matplotlib_the_table_is_kept_and_the_missing_figure_named(
    checkpoint_of, spec_of, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    config = LesionConfig(data="digits", images=20, draws=0)
    result = lesion(checkpoint_of(spec_of("resnet8")), config, tmp_path / "out")
    assert result.output.path.is_file()
    assert "edgeres[report]" in result.report.warnings[0]
