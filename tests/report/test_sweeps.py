import pytest

from edgeres.core.records.sweep import best_of
from edgeres.report.rows import rows_from


@pytest.fixture
def swept(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.sweep(first)
    return fake_run


def test_the_front_holds_what_no_other_point_beats(swept):
    sweep = rows_from(swept.path).sweep
    assert {point.count for point in sweep.points if point.is_best} == {1, 3}
    assert [point.count for point in best_of(sweep.points)] == [3, 1]


def test_the_front_agrees_with_its_definition_on_many_points(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    rows = [
        (count, 0.5 + 0.4 * float(top1), 1 + 9 * float(ms))
        for count, (top1, ms) in enumerate(fake_run.generator.random((40, 2)).round(2))
    ]
    fake_run.sweep(first, rows)
    points = rows_from(fake_run.path).sweep.points

    def beats(a, b):
        faster, better = a.latency_ms.value - b.latency_ms.value, a.top1.value - b.top1.value
        return faster <= 0 <= better and (faster < 0 or better > 0)

    for point in points:
        assert point.is_best == (not any(beats(other, point) for other in points))


def test_points_are_those_after_recovery_with_n_and_interval(swept):
    sweep = rows_from(swept.path).sweep
    assert (sweep.n, sweep.dataset, sweep.recover) == (5000, "cifar10 val", ("mimic",))
    point = sweep.points[1]
    assert point.top1.low < point.top1.value == 0.93 < point.top1.high
    assert point.top1_bare == pytest.approx(0.837)


def test_a_damaged_file_leaves_what_the_report_repeats(swept):
    (swept.path / "01-sweep/sweep.json").write_text("{")
    summary = rows_from(swept.path)
    assert summary.sweep.runtime == "runtime unknown"
    assert any(
        problem.startswith("01-sweep/sweep.json: not the file its report speaks of") for problem in summary.problems
    )


def test_a_sweep_that_cannot_be_read_at_all_is_told(fake_run):
    fake_run.model("import", "model.safetensors", 1000)
    fake_run.stage("sweep", results={"rows": [{"count": 1}]})
    summary = rows_from(fake_run.path)
    assert summary.sweep is None
    assert any("sweep.json cannot be read" in problem for problem in summary.problems)
