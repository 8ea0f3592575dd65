import io
import re

import pytest
from rich.console import Console

from edgeres.core.records.frontier import Frontier
from edgeres.core.records.sweep import best_of
from edgeres.report.rows import rows_from
from edgeres.report.stage import bounds_of, page_from, way_cells
from edgeres.report.table import table_from
from edgeres.report.wording import cells

from .conftest import interval


@pytest.fixture
def swept(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.sweep(first)
    return fake_run


def searched(lost_are="points", **config):
    """A search as optimize reports it, in which nothing was worth handing over."""
    figures = {"lost_points": interval(0, 0), "ratio": interval(1, 0), "latency_ms": interval(4, 0)}
    tried = [{"dropped": (), "precision": "fp32", **figures}]
    where = {"model_sha256": "0", "dataset": "digits", "n": 900, "is_labelled": False, "lost_are": lost_are}
    how = {"runtime": "r", "machine": "m", "batch": 1, "threads": 1, "latency": "0.5x", "max_loss": 2.0}
    done = {"tried": tried, "results": (), "spent_s": {}, "misses": () if config else ("fast: none",)}
    return {"config": config, "results": {"frontier": Frontier(**where, **how, **done).model_dump(mode="json")}}


def test_the_page_names_the_searches_that_it_does_not_show(fake_run):
    fake_run.model("import", "model.safetensors", 1000)
    fake_run.stage("optimize", **searched("points"))
    assert "searches" not in page_from(rows_from(fake_run.path))
    fake_run.stage("optimize", **searched("points of same guess"))
    fake_run.stage("optimize", **searched(plan_only=True))  # which finds nothing
    page = page_from(summary := rows_from(fake_run.path))
    assert "the newest of 2 searches; the others: 01-optimize (show their frontier.json)" in page
    assert summary.frontier.lost_are == "points of same guess"
    assert "Points of same guess lost" in page
    assert "top-1 lost" not in page


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


ON_BOARD = {
    "runtime": "tensorrt 10.3.0",
    "machine": "orin: Jetson Orin Nano, JetPack 6.2, MAXN_SUPER",
    "conditions": {"runtime": "tensorrt", "precision": "int8", "batch": 4},
    "engine_precision": "int8+fp16",
}


def costs_caption(run):
    """What the page says below the picture of the costs."""
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    return re.search(r'<figcaption id="costs-caption">(.*?)</figcaption>', page_from(rows_from(run.path)))[1]


@pytest.fixture
def source(fake_run):
    return fake_run.model("import", "model.safetensors", 1000)[1]


@pytest.fixture
def priced(fake_run, source):
    fake_run.costs(source)
    return fake_run


def test_every_module_has_its_cost_and_conditions(priced):
    costs = rows_from(priced.path).costs
    assert len(costs.rows) == 27
    assert costs.conditions == "onnxruntime 1.20.0 cpu, fp32, batch 1, threads 2"
    assert costs.machine == "Fake CPU @ 2.00GHz, 2 cores"
    assert (costs.networks, costs.rows[0].saved_ms.high) == (12, 0.27)


def test_a_table_of_a_board_names_the_board_and_its_runtime_and_not_this_machine(fake_run, source):
    fake_run.costs(source, **ON_BOARD)
    text = costs_caption(fake_run)
    assert "tensorrt 10.3.0, int8+fp16, batch 4, orin: Jetson Orin Nano, JetPack 6.2, MAXN_SUPER)" in text
    assert not any(word in text for word in ("Fake CPU", "threads", "unknown"))


def test_a_table_from_a_profile_claims_no_networks(fake_run, source):
    fake_run.costs(source, **ON_BOARD, method="profile", timed=[])
    text = costs_caption(fake_run)
    assert "by the layer profile of one engine, whose layers add up to 1.2 % more or less" in text
    assert "networks" not in text


def test_the_caption_adds_the_modules_up_to_the_whole(priced):
    text = costs_caption(priced)
    assert "27 modules 6.75 ms + stem, head and overhead 1.25 ms = 8.00 ms" in text


@pytest.fixture
def without_file(priced):
    (priced.path / "01-latency/latency.json").unlink()
    return priced


def test_without_the_file_the_report_gives_the_figures_and_no_machine(without_file):
    costs = rows_from(without_file.path).costs
    assert (len(costs.rows), costs.networks) == (27, 12)
    assert (costs.conditions, costs.machine) == ("runtime unknown", "machine unknown")


def test_a_damaged_report_without_its_file_is_told(without_file):
    path = without_file.path / "01-latency/report.json"
    path.write_text(path.read_text().replace('"saved_ms"', '"spent_ms"'))
    summary = rows_from(without_file.path)
    assert summary.costs is None
    assert any("its latency table cannot be read" in problem for problem in summary.problems)


@pytest.mark.parametrize("name", ["report.json", "latency.json"])
def test_a_figure_that_is_not_finite_is_not_drawn(priced, name):
    folder = priced.path / "01-latency"
    if name == "report.json":
        (folder / "latency.json").unlink()
    (folder / name).write_text((folder / name).read_text().replace('"rest_ms": 1.25', '"rest_ms": NaN'))
    assert rows_from(priced.path).costs is None


@pytest.fixture
def calibrated(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 1000)
    fake_run.calibrated(exported)
    return fake_run


def quantized(run, *, results=None, stage="quantize", **config):
    run.model(stage, "model.int8.onnx", 500, precision="int8", config=config, results=results or {})
    return rows_from(run.path).histograms


def test_the_bound_that_was_taken_is_marked(calibrated):
    assert [one.chosen for one in quantized(calibrated, method="mse", profile="tensorrt").shown] == ["mse", "mse"]


def test_auto_has_a_method_for_each_tensor(calibrated):
    found = quantized(calibrated, method="auto", results={"method_of": {"layer1.0.conv1": "entropy"}})
    assert [one.chosen for one in found.shown] == ["entropy", ""]


@pytest.mark.parametrize(
    ("stage", "config", "why"),
    [
        ("qat", {"method": "mse"}, "trained further"),
        ("quantize", {"method": "mse", "improve": ["equalize", "bias"]}, "Channels were scaled (equalize)"),
        ("quantize", {"method": "mse", "improve": ["tuned"]}, "were tuned further"),
        ("quantize", {"method": "mse", "profile": "ort-cpu"}, "not symmetric"),
    ],
)
def test_where_the_bound_is_another_none_is_marked_and_the_page_says_why(calibrated, stage, config, why):
    found = quantized(calibrated, stage=stage, **config)
    assert {one.chosen for one in found.shown} == {""}
    assert why in found.note


def test_the_table_of_bounds_has_every_calibrator(calibrated):
    titles, rows = bounds_of(quantized(calibrated, method="mse"))
    assert titles == ("Tensor", "minmax", "mse", "entropy")
    assert rows[0][2] == ("4.5", "38.2 dB", "taken")
    assert rows[0][3] == ("5.5",)


def test_an_older_calibration_without_histograms_has_none(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 1000)
    fake_run.stage("calibrate", source=exported, results={"images": 512, "tensors": 40})
    summary = rows_from(fake_run.path)
    assert summary.histograms is None
    assert not any("histogram" in problem for problem in summary.problems)


@pytest.mark.parametrize("damage", ['"counts": []', '"counts": [-1]', '"counts": [0, 0]', '"counts": "many"'])
def test_damaged_histograms_are_told(calibrated, damage):
    path = calibrated.path / "01-calibrate/report.json"
    path.write_text(re.sub(r'"counts": \[[^]]*\]', damage, path.read_text()))
    summary = rows_from(calibrated.path)
    assert summary.histograms is None
    assert any("its histograms cannot be read" in problem for problem in summary.problems)


VERDICT = "invalid: machine busy: other programs kept 2.0 of 2 cores"


def timed(run, warnings=(), **results):
    _, first = run.model("import", "model.safetensors", 1000)
    _, second = run.model("prune", "model.safetensors", 900, source=first)
    row = {
        "path": "runs/fake/00-import/model.safetensors",
        "artifact": first.sha256,
        "runtime": "torch 2.6.0 cpu",
        "batch": 8,
        "p50_ms": interval(16.0, 0.5),
        "images_per_s": interval(500.0, 20.0),
        "samples": 300,
    }
    whole = {"files": 256, "models": [{**row, "batch": 1, "parts_ms": {"decode": 0.5, "inference": 15.0}}]}
    figures = {"session": "fake", "throughput": [row], "end_to_end": whole, **results}
    run.stage("bench", latency=(run.latency(first, 10.0), run.latency(second, 5.0)), results=figures, warnings=warnings)
    return rows_from(run.path)


def test_throughput_and_the_way_end_to_end_have_rows(fake_run):
    summary = timed(fake_run)
    assert [(one.name, one.way, one.batch) for one in summary.ways] == [
        ("00-import", "inference", 8),
        ("00-import", "end to end", 1),
    ]
    assert way_cells(summary.ways[0])[1] == ("500", "[480, 520]")
    assert way_cells(summary.ways[1])[3] == ("decode 0.500, inference 15.0",)


def test_an_invalid_session_is_said_in_headline_table_and_warnings(fake_run):
    summary = timed(fake_run, verdict=VERDICT)
    assert "2.00× faster in an invalid session" in summary.headline
    assert summary.rows[0].latency.verdict == VERDICT
    faster = cells(summary.rows[1])
    for column in ("latency", "first", "previous"):
        assert "invalid session" in faster[column]
    lines = faster["first"]
    assert lines[lines.index("speed ×2.00") + 2] == "invalid session"
    assert f"02-bench: {VERDICT}" in summary.warnings


def test_what_made_a_session_invalid_is_said_once(fake_run):
    busy = "machine busy: other programs kept 2.0 of 2 cores"
    told = (f"{busy}; stop them and run again", "p90 over median is 2")
    summary = timed(fake_run, told, verdict=f"invalid: {busy} (and 1 more, see the warnings)")
    assert summary.warnings == (f"02-bench: invalid: {told[0]}", f"02-bench: {told[1]}")


def test_a_doubt_that_several_stages_share_is_said_once_and_what_was_measured_again_says_none(fake_run):
    files = [fake_run.model("export", f"{name}.onnx", 1000 + fake_run.count)[1] for name in "abc"]
    for source in (files[0], *files):  # the first of them once more
        path = fake_run.board(source) / "report.json"
        path.write_text(path.read_text().replace('"warnings": []', '"warnings": ["its clock is unknown"]'))
    summary = rows_from(fake_run.path)
    assert summary.warnings == ("04-board, 05-board, 06-board: its clock is unknown",)
    shown = Console(width=120, file=io.StringIO())
    shown.print(table_from(summary))
    assert shown.file.getvalue().count("JetPack") == len(files)


def test_a_valid_session_is_not_called_invalid(fake_run):
    summary = timed(fake_run, verdict="valid: precision 1 %")
    assert "invalid" not in summary.headline
    assert summary.warnings == ()


@pytest.mark.parametrize(
    "damage", [{"throughput": [3]}, {"throughput": [{"batch": "x"}]}, {"end_to_end": {"models": [{}]}}]
)
def test_damaged_throughput_is_told(fake_run, damage):
    summary = timed(fake_run, **damage)
    assert summary.ways == ()
    assert any("its throughput cannot be read" in problem for problem in summary.problems)


def test_a_p99_of_few_calls_has_no_interval(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    many = fake_run.latency(first, 10.0)
    few = many.model_copy(update={"samples_ms": many.samples_ms[:100], "rounds": (5,) * 20})
    fake_run.stage("bench", latency=(few,))
    row = rows_from(fake_run.path).rows[0]
    assert row.latency.p99_ms.low is None
    assert "p99 needs 368 calls" in " ".join(cells(row)["latency"])
    fake_run.stage("bench", latency=(many,))
    assert rows_from(fake_run.path).rows[0].latency.p99_ms.low is not None


def test_a_session_that_was_measured_again_is_no_warning_any_more(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    for verdict, told in ((VERDICT, ("p90 over median is 2",)), ("steady", ())):
        latency = fake_run.latency(first, 10.0 if told else 9.0)
        fake_run.stage("bench", latency=(latency,), results={"session": "s", "verdict": verdict}, warnings=told)
    summary = rows_from(fake_run.path)
    assert [stage.superseded for stage in summary.stages] == [False, True, False]
    assert summary.warnings == ()
    assert summary.stages[1].warnings == (VERDICT, "p90 over median is 2")
