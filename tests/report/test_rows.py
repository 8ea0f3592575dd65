import csv
import io
import json
import re

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.report.networks import StageNetwork, latency_between
from edgeres.report.rows import rows_from
from edgeres.report.table import csv_from

GAIN = {"steps": 8, "best_step": 8, "held_out_best": 0.5, "looks": [[0, 1.0], [8, 0.5]]}
IDLE = "left as it was: mimic, distill gained nothing"
DROPPED = ("layer1.3", "layer2.5", "layer3.4", "layer3.7")


def rows_of(run):
    return {row.stage: row for row in rows_from(run.path).rows}


def test_there_is_one_row_for_each_model_in_the_order_of_the_run(whole_run):
    names = [row.name for row in rows_from(whole_run.path).rows]
    assert names == ["00-import", "02-prune", "03-recover", "04-export", "05-quantize", "06-compile"]


def test_a_row_says_what_changed(whole_run):
    assert [row.what for row in rows_from(whole_run.path).rows] == [
        "resnet56 from resnet56_cifar10.pt",
        "dropped layer1.3, layer2.5, layer3.4, layer3.7",
        "trained what is left by mimic, distill, 2 epochs",
        "ONNX opset 17, batch 1",
        "INT8 Q/DQ, calibrated by entropy",
        "engine for sm_86, sm_89, sm_120",
    ]


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({}, "refitted what is left by solve"),
        ({"held_out_solve": 3.0}, "left as it was: solve made it worse"),
        ({"solved": {"refitted": [], "left_alone": []}}, "left as it was: solve had nothing to refit"),
        ({"methods": ["solve", "mimic"], "epochs": 2, **GAIN}, "trained what is left by solve, mimic, 2 epochs"),
        ({"methods": ["solve", "mimic"], "epochs": 2, **GAIN, "best_step": 0}, "refitted what is left by solve"),
        ({"methods": ["solve", "mimic"], "held_out_solve": 3.0, **GAIN}, "trained what is left by mimic"),
        ({"methods": ["mimic", "distill"], "solved": None, **GAIN, "best_step": 0}, IDLE),
    ],
)
def test_a_row_says_what_recovering_did_and_not_what_was_undone(fake_run, results, said):
    found = {
        "methods": ["solve"],
        "solved": {"refitted": ["a"]},
        "held_out_first": 2.0,
        "held_out_solve": 1.0,
        **results,
    }
    found = {name: value for name, value in found.items() if value is not None}
    if "solved" not in found:
        del found["held_out_solve"]
    fake_run.model("recover", "model.safetensors", 1000, results=found)
    fake_run.model(
        "prune", "model.safetensors", 1001, config={"recover": ["x"]}, dropped=("b",), results={"recovery": found}
    )
    assert [row.what for row in rows_from(fake_run.path).rows] == [said, f"dropped b; {said}"]


def test_accuracy_comes_with_n_and_its_interval(whole_run):
    accuracy = rows_of(whole_run)["import"].accuracy
    assert (accuracy.top1.value, accuracy.n, accuracy.dataset, accuracy.split) == (
        0.9236,
        5000,
        "cifar10",
        "val",
    )
    assert accuracy.top1.low < 0.9236 < accuracy.top1.high


def test_points_are_paired_on_the_same_images(whole_run, paired):
    change = rows_of(whole_run)["recover"].versus_previous.points
    folder = whole_run.path
    expected, half = paired(np.load(folder / "02-prune/eval.npy"), np.load(folder / "03-recover/eval.npy"))
    assert change.value == pytest.approx(expected) == pytest.approx(3.38)
    assert (change.low, change.high) == pytest.approx((expected - half, expected + half))
    assert change.versus == "02-prune"


def test_a_change_against_the_first_names_the_first(whole_run):
    row = rows_of(whole_run)["quantize"]
    assert row.versus_first.points.versus == "00-import"
    assert row.versus_first.points.value == pytest.approx(100 * (0.9160 - 0.9236))
    assert row.versus_previous.points.versus == "04-export"


def test_points_lost_of_a_cut_network_are_never_against_another_cut_one(fake_run):
    folder, whole = fake_run.model("import", "model.safetensors", 2100)
    fake_run.evaluated(folder, whole, 0.92)
    folder, pruned = fake_run.model("prune", "model.safetensors", 1900, source=whole, dropped=("layer1.3",))
    fake_run.evaluated(folder, pruned, 0.91)
    folder, last = fake_run.model("export", "model.onnx", 1800, source=pruned, dropped=("layer1.3",))
    fake_run.evaluated(folder, last, 0.90, "onnxruntime 1.20.0 cpu")
    assert rows_from(fake_run.path).rows[-1].versus_first.points.value == pytest.approx(-2.0)
    path = fake_run.path / "00-import" / "eval.json"
    path.write_text(path.read_text().replace("cifar10", "folder:others"))
    summary = rows_from(fake_run.path)
    first, previous = summary.rows[-1].versus_first, summary.rows[-1].versus_previous
    assert first.points is None
    assert previous.points.versus == "01-prune"
    (record,) = [one for one in csv.DictReader(io.StringIO(csv_from(summary))) if one["name"] == "02-export"]
    assert (record["points_vs_first"], record["points_vs_previous_is"]) == ("", "01-prune")


def test_without_predictions_a_change_has_no_interval(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.evaluated(folder, first, 0.9)
    folder, second = fake_run.model("prune", "model.safetensors", 900, source=first)
    fake_run.evaluated(folder, second, 0.8, predictions=False)
    change = rows_of(fake_run)["prune"].versus_first.points
    assert change.value == pytest.approx(-10)
    assert change.low is None


@pytest.mark.parametrize("damage", ["truncated", "wrong count", "pickled"])
def test_predictions_that_do_not_belong_give_no_interval(whole_run, damage):
    path = whole_run.path / "02-prune/eval.npy"
    table = np.load(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "wrong count":
        np.save(path, table[:10])
    else:
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert rows_of(whole_run)["prune"].versus_first.points.low is None


def test_models_judged_on_different_data_are_not_compared(whole_run):
    path = whole_run.path / "02-prune/eval.json"
    path.write_text(path.read_text().replace('"dataset": "cifar10"', '"dataset": "digits"'))
    rows = rows_of(whole_run)
    assert rows["prune"].versus_first.points is None
    assert rows["recover"].versus_previous.points.versus == "00-import"


def test_an_evaluation_of_another_file_is_not_taken(whole_run):
    path = whole_run.path / "02-prune/eval.json"
    report = json.loads(path.read_text())
    report["accuracy"][0]["artifact"] = "0" * 64
    path.write_text(json.dumps(report))
    row = rows_of(whole_run)["prune"]
    assert row.accuracy is None
    assert row.accuracy_missing == "not evaluated"


def test_latency_has_intervals_machine_and_runtime(whole_run):
    latency = rows_of(whole_run)["import"].latency
    assert latency.p50_ms.low <= latency.p50_ms.value <= latency.p50_ms.high
    assert latency.p50_ms.value < latency.p99_ms.value
    assert (latency.samples, latency.batch, latency.threads) == (380, 1, 2)
    assert latency.machine == "Fake CPU @ 2.00GHz, 2 cores"
    assert latency.runtime == "torch 2.6.0 cpu"


def test_a_ratio_of_latencies_is_known_to_better_than_the_latencies(whole_run):
    rows = rows_of(whole_run)
    ratio, alone = rows["prune"].versus_first.latency_ratio, rows["import"].latency.p50_ms
    assert ratio.value == pytest.approx(16.4 / 19.0, rel=0.02)
    assert (ratio.high - ratio.low) / ratio.value < (alone.high - alone.low) / alone.value


def test_latencies_of_two_sessions_have_no_ratio(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, second = fake_run.model("prune", "model.safetensors", 900, source=first)
    fake_run.stage("bench", latency=(fake_run.latency(first, 2.0, session="a"),))
    fake_run.stage("bench", latency=(fake_run.latency(second, 1.0, session="b"),))
    row = rows_of(fake_run)["prune"]
    assert row.latency is not None
    assert row.versus_first.latency_ratio is None


def test_a_note_on_a_latency_is_a_warning_of_the_run(fake_run):
    _, first = fake_run.model("quantize", "model.onnx", 1000)
    latency = fake_run.latency(first, 2.0).model_copy(update={"note": "says nothing of INT8"})
    fake_run.stage("bench", latency=(latency,))
    assert rows_from(fake_run.path).warnings == ("00-quantize: says nothing of INT8",)


def test_the_newest_session_is_shown(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.stage("bench", latency=(fake_run.latency(first, 2.0, session="old"),))
    fake_run.stage("bench", latency=(fake_run.latency(first, 1.0, session="new"),))
    assert rows_of(fake_run)["import"].latency.session == "new"


@pytest.mark.parametrize("alone", [0, 1])
def test_a_later_session_of_one_network_alone_does_not_part_what_was_timed_together(alone, fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, second = fake_run.model("prune", "model.safetensors", 900, source=first)
    together = fake_run.latency(first, 2.0, session="a"), fake_run.latency(second, 1.0, session="a")
    fake_run.stage("bench", latency=together)
    fake_run.stage("bench", latency=(fake_run.latency((first, second)[alone], 4.0, session="b"),))
    summary = rows_from(fake_run.path)
    rows = {row.stage: row for row in summary.rows}
    assert rows["prune"].versus_first.latency_ratio.value == pytest.approx(0.5, rel=0.02)
    (warning,) = (one for one in summary.warnings if "later" in one)
    assert re.match(rf"0{alone}-\w+: 03-bench timed it later, but apart from the others: p50 (3.9|4.0)", warning)
    assert [stage.superseded for stage in summary.stages if stage.stage == "bench"] == [False, False]


def test_what_was_not_timed_says_why(whole_run):
    rows = rows_of(whole_run)
    assert rows["quantize"].latency_missing == "not timed"
    assert rows["compile"].latency_missing == "built, not run here"


def test_a_row_is_compared_with_its_parent_and_not_with_its_neighbour(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.evaluated(folder, first, 0.9)
    folder, left = fake_run.model("prune", "model.safetensors", 900, source=first)
    fake_run.evaluated(folder, left, 0.5)
    folder, right = fake_run.model("recover", "model.safetensors", 800, source=first)
    fake_run.evaluated(folder, right, 0.8)
    previous = rows_of(fake_run)["recover"].versus_previous
    assert previous.points.versus == previous.size_ratio.versus == "00-import"


def test_a_parent_that_was_made_again_later_is_still_the_parent(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, whole = fake_run.model("export", "model.onnx", 900, source=first)
    fake_run.model("prune", "model.safetensors", 700, source=first, dropped=DROPPED)
    fake_run.model("quantize", "model.int8.onnx", 300, source=whole, precision="int8")
    fake_run.model("export", "model.onnx", 900, source=first)
    summary = rows_from(fake_run.path)
    assert summary.rows[3].versus_previous.size_ratio.versus == "01-export"


def test_the_modules_dropped_are_those_of_the_newest_network_and_not_of_the_first_made_again(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.model("prune", "model.safetensors", 700, source=first, dropped=DROPPED)
    fake_run.model("export", "model.onnx", 900, source=first)
    summary = rows_from(fake_run.path)
    assert {one.name for one in summary.modules if one.dropped} == {*DROPPED}
    assert "02-export" not in summary.headline


def test_a_parent_outside_the_run_is_replaced_by_the_row_before(fake_run):
    fake_run.model("import", "model.safetensors", 1000)
    fake_run.model("export", "model.onnx", 500)
    assert rows_of(fake_run)["export"].versus_previous.size_ratio.value == 0.5


def test_the_size_of_an_engine_is_compared_with_no_files(fake_run):
    _, first = fake_run.model("export", "model.onnx", 1000)
    fake_run.model("compile", "model.plan", 8900, source=first)
    engine = rows_of(fake_run)["compile"]
    assert (engine.versus_first.size_ratio, engine.versus_previous.size_ratio) == (None, None)


def test_an_unjudged_parent_is_passed_over_to_the_grandparent(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.evaluated(folder, first, 0.9)
    _, second = fake_run.model("prune", "model.safetensors", 900, source=first)
    folder, third = fake_run.model("recover", "model.safetensors", 899, source=second)
    fake_run.evaluated(folder, third, 0.8)
    previous = rows_of(fake_run)["recover"].versus_previous
    assert previous.points.versus == "00-import"
    assert previous.size_ratio.versus == "01-prune"


def test_the_network_is_drawn_from_the_checkpoint_with_the_dropped_marked(whole_run):
    modules = rows_from(whole_run.path).modules
    assert len(modules) == 27
    assert {module.name for module in modules if module.dropped} == {
        "layer1.3",
        "layer2.5",
        "layer3.4",
        "layer3.7",
    }
    assert [module.name for module in modules if module.kind == "projection"] == ["layer2.0", "layer3.0"]


def test_without_a_checkpoint_the_lesion_table_gives_the_modules(whole_run):
    for path in whole_run.path.glob("*/model.safetensors"):
        path.unlink()
    assert len(rows_from(whole_run.path).modules) == 27


def test_the_lesion_table_keeps_its_intervals_and_n(whole_run):
    lesion = rows_from(whole_run.path).lesion
    assert len(lesion) == 27
    assert (lesion[0].module, lesion[0].n, lesion[0].half_width_points) == ("layer1.0", 5000, 0.3)


def test_a_damaged_lesion_table_is_told_and_the_rest_is_shown(whole_run):
    path = whole_run.path / "01-lesion/report.json"
    path.write_text(path.read_text().replace("change_points", "something_else"))
    summary = rows_from(whole_run.path)
    assert summary.lesion == ()
    (said,) = (one for one in summary.problems if one.startswith("01-lesion: its lesion table cannot be read"))
    assert said.endswith(f"; make it again: {summary.stages[1].command}")
    assert len(summary.rows) == 6


def test_unfinished_and_damaged_stages_are_told_and_the_rest_is_shown(whole_run):
    (whole_run.path / "05-quantize/report.json").unlink()
    (whole_run.path / "06-compile/report.json").write_text('{"stage": "comp')
    (whole_run.path / "04-export/eval.json").write_text("[]")
    summary = rows_from(whole_run.path)
    assert [row.stage for row in summary.rows] == ["import", "prune", "recover", "export"]
    export, unfinished, damaged = summary.problems
    assert unfinished == "05-quantize: unfinished (no report.json)"
    assert damaged.startswith("06-compile: report.json is not a readable StageReport")
    assert export.startswith("04-export: eval.json is not a readable StageReport")


def test_a_run_that_only_began_is_shown(fake_run):
    fake_run.model("train", "model.safetensors", 1000, config={"arch": "resnet20", "data": "digits", "epochs": 1})
    summary = rows_from(fake_run.path)
    assert summary.rows[0].what == "resnet20 on digits, 1 epoch"
    assert summary.headline == "One model so far: resnet20 on digits, 1 epoch."


def test_a_run_without_a_model_is_shown(fake_run):
    fake_run.stage("lesion", results={"table": []})
    summary = rows_from(fake_run.path)
    assert summary.rows == ()
    assert summary.headline == "No model yet."


def test_no_run_and_an_empty_run_are_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no run folder"):
        rows_from(tmp_path / "absent")
    (tmp_path / "00-train").mkdir()
    with pytest.raises(InputError, match=r"holds no finished stage; found 00-train: unfinished"):
        rows_from(tmp_path)


def test_the_headline_claims_only_what_was_measured(whole_run):
    summary = rows_from(whole_run.path)
    assert summary.headline.startswith(
        "4.32× smaller (int8), 1.17× faster (03-recover: fp32, torch), −0.76 points of top-1 (int8) ["
    )
    assert "(n = 5,000)" in summary.headline
    (whole_run.path / "07-bench/report.json").unlink()
    for path in whole_run.path.glob("*/eval.json"):
        path.unlink()
    assert rows_from(whole_run.path).headline == (
        "4.32× smaller (int8), −13 % multiply-accumulates (05-quantize against 00-import). 05-quantize: accuracy not"
        " evaluated: edgeres eval --run fake --data DATA"
    )


def test_the_headline_says_that_a_loss_is_not_known_where_the_first_network_was_not_judged(whole_run):
    (whole_run.path / "00-import/eval.json").unlink()
    said = " What it lost is not known: 00-import is not evaluated."
    assert rows_from(whole_run.path).headline.endswith(said)


def test_a_change_of_runtime_is_not_sold_as_a_faster_model(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, second = fake_run.model("export", "model.onnx", 1000, source=first)
    latencies = fake_run.latency(first, 10.0), fake_run.latency(second, 1.0, "onnxruntime 1.20.0 cpu")
    fake_run.stage("bench", latency=latencies)
    summary = rows_from(fake_run.path)
    assert "faster" not in summary.headline
    assert summary.rows[1].versus_first.latency_ratio is None


def test_a_measurement_is_not_held_against_itself(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, other = fake_run.model("prune", "model.safetensors", 900, source=first)
    one, again = (fake_run.latency(ref, 2.0) for ref in (first, other))
    rows = [StageNetwork(name, fake_run.path, 1000, None, of) for name, of in (("00", one), ("05", one), ("06", again))]
    assert latency_between(rows[0], rows[1]) is None
    assert latency_between(rows[0], rows[2]).value == pytest.approx(1, abs=0.02)


def test_a_pruned_graph_is_compared_with_the_whole_one_on_its_runtime(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, whole = fake_run.model("export", "model.onnx", 1000, source=first)
    _, pruned = fake_run.model("prune", "model.safetensors", 800, source=first)
    _, shorter = fake_run.model("export", "model.onnx", 800, source=pruned)
    onnx = "onnxruntime 1.20.0 cpu"
    latencies = (fake_run.latency(first, 9.0), fake_run.latency(whole, 2.0, onnx), fake_run.latency(shorter, 1.0, onnx))
    fake_run.stage("bench", latency=latencies)
    summary = rows_from(fake_run.path)
    assert summary.rows[3].versus_first.latency_ratio.versus == "01-export"
    assert "2.00× faster" in summary.headline


def test_pairs_that_a_runtime_fuses_make_no_other_runtime_of_it(fake_run):
    _, whole = fake_run.model("export", "model.onnx", 1000)
    _, small = fake_run.model("quantize", "model.int8.onnx", 300, source=whole)
    _, other = fake_run.model("qat", "model.int8.onnx", 301, source=whole)
    ort = "onnxruntime 1.20.0 cpu"
    latencies = (
        fake_run.latency(whole, 2.0, ort),
        fake_run.latency(small, 1.0, f"{ort} fused Q/DQ"),
        fake_run.latency(other, 1.0, f"{ort} literal Q/DQ"),
    )
    fake_run.stage("bench", latency=latencies)
    rows = rows_from(fake_run.path).rows
    assert rows[1].versus_first.latency_ratio.value == pytest.approx(0.5, rel=0.05)
    assert rows[2].versus_first.latency_ratio is None


def test_a_speed_that_cannot_be_told_apart_is_no_gain(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    _, second = fake_run.model("recover", "model.safetensors", 1001, source=first)
    fake_run.stage("bench", latency=(fake_run.latency(first, 10.0), fake_run.latency(second, 10.0)))
    assert "no change of speed that can be told (01-recover against" in rows_from(fake_run.path).headline
    folder = fake_run.path / "02-bench"
    report = json.loads((folder / "report.json").read_text())
    report["results"] = {"session": report["latency"][0]["session"], "verdict": "invalid: machine busy"}
    (folder / "report.json").write_text(json.dumps(report))
    assert "no change of speed that can be told in an invalid session" in rows_from(fake_run.path).headline


@pytest.mark.parametrize(("ms", "said"), [(10.0, "no change of speed that can be told"), (5.0, "2.00× faster")])
def test_a_speed_of_a_network_on_the_way_names_it(fake_run, ms, said):
    folder, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.evaluated(folder, first, 0.9)
    _, second = fake_run.model("prune", "model.safetensors", 1001, source=first)
    folder, third = fake_run.model("quantize", "model.int8.onnx", 300, source=second, precision="int8")
    fake_run.evaluated(folder, third, 0.9)
    fake_run.stage("bench", latency=(fake_run.latency(first, 10.0), fake_run.latency(second, ms)))
    assert f"{said} (01-prune: fp32, torch)" in rows_from(fake_run.path).headline


def test_the_headline_speaks_of_one_network_and_says_what_is_not_evaluated(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.evaluated(folder, first, 0.9)
    folder, second = fake_run.model("prune", "model.safetensors", 800, source=first, dropped=DROPPED[:1])
    fake_run.evaluated(folder, second, 0.8)
    _, third = fake_run.model("prune", "model.safetensors", 400, source=first, dropped=DROPPED)
    latencies = fake_run.latency(first, 10.0), fake_run.latency(second, 8.0), fake_run.latency(third, 2.0)
    fake_run.stage("bench", latency=latencies)
    headline = rows_from(fake_run.path).headline
    assert headline.startswith("1.25× smaller, 1.25× faster, −10.0 points of top-1 [")
    assert headline.endswith(
        "−3 % multiply-accumulates (01-prune against 00-import)."
        " 02-prune: accuracy not evaluated: edgeres eval --run fake"
    )


def test_a_network_judged_on_a_board_alone_is_not_called_unevaluated(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.evaluated(folder, first, 0.9)
    _, second = fake_run.model("quantize", "model.int8.onnx", 300, source=first)
    fake_run.board(second, top1=0.91)
    headline = rows_from(fake_run.path).headline
    assert headline == (
        "3.33× smaller, 1.51 ms a call on orin, +1.00 points of top-1 on orin against 00-import judged here (n = 5,000)"
        " (01-quantize against 00-import)."
    )
    fake_run.board(first, top1=0.92)
    assert "−1.00 points of top-1 on orin (n = 5,000)" in rows_from(fake_run.path).headline


def test_points_against_another_than_the_first_say_so(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    folder, second = fake_run.model("prune", "model.safetensors", 800, source=first)
    fake_run.evaluated(folder, second, 0.8)
    folder, third = fake_run.model("recover", "model.safetensors", 801, source=second)
    fake_run.evaluated(folder, third, 0.85)
    assert "+5.00 points of top-1 against 01-prune [" in rows_from(fake_run.path).headline
