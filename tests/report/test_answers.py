"""Where a board has measured, that is the answer: in the headline, the picture and the list of what is missing."""

import shutil

import numpy as np
import pytest

from edgeres.core.artifacts import FUSED_PROFILE
from edgeres.core.errors import InputError
from edgeres.core.stage import write_report
from edgeres.report.boards import boards_of, networks_on
from edgeres.report.folder import run_folder_from
from edgeres.report.gate import GateConfig, gate
from edgeres.report.networks import networks_in
from edgeres.report.rows import rows_from
from edgeres.report.table import markdown_from


@pytest.fixture
def story(fake_run):
    """A float file and its INT8 file, timed here as far as a CPU can, then both on the board in one session."""
    folder, first = fake_run.model("export", "model.onnx", 2000)
    fake_run.evaluated(folder, first, 0.92, "onnxruntime 1.20.0 cpu")
    _, last = fake_run.model("quantize", "model.onnx", 600, source=first, precision="int8")
    skipped = {last.sha256: "not timed: placed for TensorRT; its time on a CPU means nothing"}
    timed = (fake_run.latency(first, 20.0, "onnxruntime 1.20.0 cpu"),)
    fake_run.stage("bench", latency=timed, results={"skipped": skipped})
    fake_run.board(first, median_ms=2.25, top1=0.92, predictions=True)
    fake_run.board(last, median_ms=1.41, top1=0.918, predictions=True)
    fake_run.first, fake_run.last = first, last
    return fake_run


def test_the_headline_is_the_boards_and_says_so(story):
    summary = rows_from(story.path)
    assert summary.headline.startswith(
        "3.33× smaller (int8), 1.59× faster on orin, −0.20 points of top-1 on orin (int8)"
    )
    assert "not evaluated" not in summary.headline
    (speed,) = (claim for claim in summary.claims if "faster" in claim.what)
    assert "00-export to 01-quantize; tensorrt 10.3.0 on orin, batch 1, threads 2, orin: Jetson" in speed.detail


CUT = ("layer1.3", "layer2.5")


@pytest.fixture
def cut(fake_run):
    """A checkpoint, its export, both cut; the cut one in FP16 before FP32, then INT8: the order of the recipe."""
    folder, weights = fake_run.model("import", "model.safetensors", 2100)
    fake_run.evaluated(folder, weights, 0.92)
    _, whole = fake_run.model("export", "model.onnx", 2000, source=weights)
    _, pruned = fake_run.model("prune", "model.safetensors", 1900, source=weights, dropped=CUT)
    _, half = fake_run.model("export", "model.onnx", 900, source=pruned, precision="fp16", dropped=CUT)
    _, full = fake_run.model("export", "model.onnx", 1800, source=pruned, dropped=CUT)
    _, last = fake_run.model("quantize", "model.onnx", 500, source=full, precision="int8", dropped=CUT)
    fake_run.files = {"whole": (whole, 2.25), "half": (half, 1.3), "full": (full, 2.0), "last": (last, 1.25)}
    return fake_run


def measured_on_board(run, *names):
    for name in names:
        source, median_ms = run.files[name]
        run.board(source, median_ms=median_ms, top1=0.92 if name == "whole" else 0.918, predictions=True)


@pytest.mark.parametrize("order", [("whole", "half", "full", "last"), ("last", "full", "half", "whole")])
def test_headline_table_and_gate_hold_against_one_network_and_name_it(cut, order):
    measured_on_board(cut, *order)
    summary = rows_from(cut.path)
    assert summary.headline.startswith("4.00× smaller (int8), 1.80× faster on orin, −0.20 points of top-1 on orin")
    assert summary.headline.endswith("(05-quantize against 01-export).")
    versus = {one.model: one.speed and one.speed.versus for one in summary.boards}
    assert versus == {"01-export": None, **dict.fromkeys(("03-export", "04-export", "05-quantize"), "01-export")}
    report = judged(cut, max_loss=0.5, min_speedup=1.75)
    assert (report.first, report.broken) == ("01-export", ())
    assert all(f"{word} 01-export" in one.text for word, one in zip(("against", "as"), report.outcomes, strict=True))


@pytest.mark.parametrize("place", ["here", "on orin"])
def test_a_whole_network_exported_last_is_what_table_and_gate_hold_a_speed_against(fake_run, place):
    folder, weights = fake_run.model("import", "model.safetensors", 2100)
    fake_run.evaluated(folder, weights, 0.92)
    _, pruned = fake_run.model("prune", "model.safetensors", 1900, source=weights, dropped=CUT)
    _, full = fake_run.model("export", "model.onnx", 1800, source=pruned, dropped=CUT)
    folder, last = fake_run.model("quantize", "model.onnx", 500, source=full, precision="int8", dropped=CUT)
    fake_run.evaluated(folder, last, 0.918)
    _, whole = fake_run.model("export", "model.onnx", 2000, source=weights)
    fake_run.files = {"whole": (whole, 2.25), "full": (full, 2.0), "last": (last, 1.25)}
    if place == "here":
        times = [fake_run.latency(*one, "onnxruntime 1.20.0 cpu fused Q/DQ") for one in fake_run.files.values()]
        fake_run.stage("bench", latency=tuple(times))
    else:
        measured_on_board(fake_run, *fake_run.files)
    summary = rows_from(fake_run.path)
    assert summary.rows[2].versus_first.size_ratio.versus == "00-import"
    speeds = [row.versus_first.latency_ratio for row in summary.rows[1:4]]
    speeds = speeds if place == "here" else [one.speed for one in summary.boards if one.model != "04-export"]
    assert [one and one.versus for one in speeds] == [None, "04-export", "04-export"][-len(speeds) :]
    assert "1.80× faster" in summary.headline
    (outcome,) = judged(fake_run, min_speedup=1.75).outcomes
    assert (outcome.passed, ") as 04-export," in outcome.text) == (True, True)


@pytest.mark.parametrize("place", ["here", "on orin"])
@pytest.mark.parametrize("again", ["import", "export"])
def test_a_file_of_the_first_network_made_again_is_no_new_network(fake_run, place, again):
    folder, weights = fake_run.model("import", "model.safetensors", 2100)
    fake_run.evaluated(folder, weights, 0.92)
    _, whole = fake_run.model("export", "model.onnx", 2000, source=weights)
    folder, last = fake_run.model("quantize", "model.onnx", 500, source=whole, precision="int8")
    fake_run.evaluated(folder, last, 0.918)
    fake_run.files = {"whole": (whole, 2.0), "last": (last, 1.25)}
    if place == "here":
        times = [fake_run.latency(*one, "onnxruntime 1.20.0 cpu fused Q/DQ") for one in fake_run.files.values()]
        fake_run.stage("bench", latency=tuple(times))
    else:
        measured_on_board(fake_run, *fake_run.files)
    before = rows_from(fake_run.path)
    source = weights if again == "export" else None
    _, made = fake_run.model(
        again, f"model.{'onnx' if source else 'safetensors'}", 2000 + 100 * (not source), source=source
    )
    assert made.sha256 in {weights.sha256, whole.sha256}
    summary = rows_from(fake_run.path)
    assert summary.headline == before.headline
    assert "1.60× faster" in summary.headline
    assert (summary.rows_on_board or summary.rows)[-1].versus_first.latency_ratio is None
    (outcome,) = judged(fake_run, min_speedup=1.5).outcomes
    assert (outcome.passed, outcome.text[:4]) == (True, "1.60")


def test_the_headline_speaks_of_the_time_that_the_gate_does(fake_run):
    folder, weights = fake_run.model("import", "model.safetensors", 2100)
    fake_run.evaluated(folder, weights, 0.92)
    _, whole = fake_run.model("export", "model.onnx", 2000, source=weights)
    folder, pruned = fake_run.model("prune", "model.safetensors", 1900, source=weights, dropped=CUT)
    fake_run.evaluated(folder, pruned, 0.91)
    _, short = fake_run.model("export", "model.onnx", 1800, source=pruned, dropped=CUT)
    _, engine = fake_run.model("compile", "model.plan", 2500, source=whole)
    times = [(whole, 2.0), (short, 1.0), (engine, 1.6)]
    fake_run.stage("bench", latency=tuple(fake_run.latency(*one, "tensorrt 10.3.0") for one in times))
    assert "2.00× faster than 01-export (03-export" in rows_from(fake_run.path).headline
    (outcome,) = judged(fake_run, min_speedup=1.5).outcomes
    assert (outcome.passed, outcome.text[:4]) == (True, "2.00")


def test_a_speed_against_a_cut_network_names_it_and_keeps_no_rule(cut):
    measured_on_board(cut, "half", "full", "last")
    summary = rows_from(cut.path)
    assert "4.20× smaller (int8), 1.60× faster on orin than 04-export, −0.20 points" in summary.headline
    assert summary.headline.endswith("(05-quantize against 00-import).")
    (outcome,) = judged(cut, min_speedup=1.0).outcomes
    assert not outcome.passed
    assert outcome.text.startswith("measured, but it does not count: 1.59")
    assert outcome.text.endswith(
        "but 00-import, the first network, was not timed together with it: edgeres bench --run fake --on orin"
    )


def test_a_whole_network_that_no_board_can_take_is_exported_first(cut):
    shutil.rmtree(cut.path / "01-export")
    measured_on_board(cut, "full", "last")
    (outcome,) = judged(cut, min_speedup=1.0).outcomes
    export = f"edgeres export {cut.path}/00-import/model.safetensors and edgeres bench --run fake --on orin"
    assert outcome.text.endswith(f"was not timed together with it: {export}")


def test_nothing_a_board_has_measured_is_called_missing(story):
    summary = rows_from(story.path)
    assert summary.absent == ()
    assert (summary.rows[1].latency_missing, summary.rows[1].accuracy_missing) == ("timed on orin", "judged on orin")
    text = markdown_from(summary)
    assert "Not run" not in text
    assert "not timed" not in text


def test_the_picture_shows_the_boards_figures_and_no_others(story):
    pytest.importorskip("matplotlib")
    from edgeres.report.plots import tradeoff_svg

    summary = rows_from(story.path)
    assert [round(row.latency.p50_ms.value, 1) for row in summary.rows_on_board] == [2.3, 1.4]
    svg = tradeoff_svg(summary)
    assert "median latency of a call on orin, ms (batch 1)" in svg
    assert "onnxruntime" not in svg


def test_what_a_board_has_not_measured_is_still_missing_and_its_command_names_the_board(story):
    _, other = story.model("quantize", "other.onnx", 500, source=story.first, precision="int8")
    story.stage("bench", results={"skipped": {other.sha256: "not timed: placed for TensorRT"}})
    found = {(one.name, one.what): one.todo for one in rows_from(story.path).absent}
    path = "05-quantize/other.onnx"
    assert found == {
        (path, "accuracy"): f"edgeres eval runs/fake/{path}",
        (path, "latency"): f"edgeres bench runs/fake/{path} --on orin",
    }


def test_an_engine_whose_file_a_board_has_timed_is_not_sent_there_again(story):
    story.model("compile", "model.plan", 900, source=story.last, precision="int8")
    assert rows_from(story.path).absent == ()


def test_an_engine_timed_alone_takes_no_speed_from_the_file_it_was_built_from(cut):
    measured_on_board(cut, "whole", "last")
    source, median_ms = cut.files["last"]
    _, plan = cut.model("compile", "model.plan", 900, source=source, dropped=CUT, precision="int8")
    cut.board(plan, median_ms=median_ms, top1=0.918, predictions=True)
    path = cut.path / "09-board/report.json"
    path.write_text(path.read_text().replace('"on the board"', '"another"'))
    summary = rows_from(cut.path)
    assert summary.headline.startswith("1.80× faster on orin (05-quantize: int8, tensorrt on orin), −0.20 points")
    assert summary.headline.endswith("(08-compile against 01-export).")
    loss, speed = judged(cut, max_loss=0.5, min_speedup=1.75).outcomes
    assert loss.passed
    assert speed.passed
    assert speed.text.startswith("1.800 times as fast")
    assert " as 01-export" in speed.text


def test_sessions_apart_give_the_time_alone_and_say_why_in_one_line(story):
    path = story.path / "04-board/report.json"
    path.write_text(path.read_text().replace('"on the board"', '"another"'))
    summary = rows_from(story.path)
    (claim,) = (claim for claim in summary.claims if "a call" in claim.what)
    assert claim.figure + " " + claim.what == "1.42 ms a call on orin (int8)"
    missing = "no speed-up is told: nothing it can be held against was timed in its session: "
    assert claim.detail.endswith(f"{missing}edgeres bench --run fake --on orin")
    assert "faster" not in summary.headline


def test_an_accuracy_of_the_board_is_paired_with_that_of_here(story):
    table = np.load(story.path / "00-export/eval.npy")
    wrong = np.flatnonzero(table[:, 0] == table[:, 1])[:10]
    table[wrong, 0] = (table[wrong, 1] + 1) % 10
    np.save(story.path / "04-board/predictions.npy", table)
    (story.path / "03-board/report.json").unlink()
    (claim,) = (claim for claim in rows_from(story.path).claims if "points" in claim.what)
    assert claim.figure == "−0.20"
    assert "[−0.3" in claim.what


def test_what_is_invalid_counts_for_nothing_and_says_why(story):
    folder = run_folder_from(story.path)
    story.board(story.last, median_ms=0.5, figures={"is_valid": False, "problems": ["the board throttled"]})
    networks = networks_in(folder)
    again = networks_on("orin", networks, run_folder_from(story.path))
    assert again[1].latency.p50_ms == pytest.approx(1.41, rel=0.05)
    (story.path / "04-board/report.json").unlink()
    alone = networks_on("orin", networks, run_folder_from(story.path))
    assert (alone[1].latency, alone[1].not_timed) == (None, "timed on orin, but not validly: the board throttled")


def test_a_board_that_only_judged_leaves_the_times_of_here(fake_run):
    _, first = fake_run.model("export", "model.onnx", 2000)
    fake_run.stage("bench", latency=(fake_run.latency(first, 20.0),))
    fake_run.board(first)
    folder = run_folder_from(fake_run.path)
    judged = folder.stages[-1].report.model_copy(update={"latency": (), "energy": ()})
    (fake_run.path / "02-board/report.json").write_text(judged.model_dump_json())
    (network,) = networks_on("orin", networks_in(folder), run_folder_from(fake_run.path))
    assert network.latency.p50_ms == pytest.approx(20.0, rel=0.05)
    assert network.accuracy.runtime == "tensorrt 10.3.0 on orin"


def test_the_board_that_measured_last_is_the_last_named(story):
    story.board(story.last, board={"name": "nano"})
    story.board(story.first)
    folder = run_folder_from(story.path)
    assert boards_of(folder, {story.first.sha256, story.last.sha256}) == ["nano", "orin"]
    assert boards_of(folder, {story.last.sha256}) == ["orin", "nano"]
    assert boards_of(folder, {"of another file"}) == []


def judged(run, **rules):
    return gate(run.path, GateConfig(**rules))


@pytest.mark.parametrize("on", ["orin", None])
def test_a_gate_judges_by_what_the_board_measured(story, on):
    report = judged(story, min_speedup=1.5, max_p50="1.5ms", max_loss=5, min_top1=91, on=on)
    assert report.broken == ()
    assert report.board == "orin"
    speed = report.outcomes[-1]
    assert speed.figure.value == pytest.approx(2.25 / 1.41, rel=0.01)
    assert speed.text.startswith("1.59")
    assert "times as fast" in speed.text
    assert "as 00-export" in speed.text
    assert all("on orin" in outcome.text for outcome in report.outcomes)


def test_a_gate_judges_by_this_machine_where_that_is_asked(story):
    report = judged(story, max_p50="1.5ms", on="here")
    (outcome,) = report.outcomes
    assert (report.board, outcome.stage, outcome.passed) == ("", "00-export", False)
    assert outcome.text.endswith("onnxruntime 1.20.0 cpu")


def test_what_the_named_board_has_not_measured_is_advised_on_that_board(story):
    report = judged(story, max_p50="9ms", max_p99="9ms", min_speedup=1.0, on="nano")
    said = "not measured: 00-export was not timed on nano: edgeres bench --run fake --on nano"
    assert [outcome.text for outcome in report.outcomes] == [said] * 3


def test_a_ratio_of_two_sessions_is_not_given_and_its_command_is_the_boards(story):
    path = story.path / "04-board/report.json"
    path.write_text(path.read_text().replace('"on the board"', '"another"'))
    (outcome,) = judged(story, min_speedup=1.5).outcomes
    assert not outcome.passed
    assert outcome.text == (
        "not measured: no other network was timed in its session on tensorrt 10.3.0 on orin:"
        " edgeres bench --run fake --on orin"
    )


def test_several_boards_are_asked_for_in_one_line_unless_none_is_needed(story):
    story.board(story.last, board={"name": "nano"})
    with pytest.raises(
        InputError, match=r"^01-quantize was measured on orin and nano; by which is it judged\? --on nano$"
    ):
        judged(story, min_top1=2)
    assert judged(story, min_top1=2, on="orin").board == "orin"
    assert judged(story, max_size="1MB").broken == ()


def test_what_a_board_calls_invalid_keeps_no_rule(story):
    (story.path / "04-board/report.json").unlink()
    story.board(story.last, median_ms=0.5, figures={"is_valid": False, "problems": ["the board throttled"]})
    (outcome,) = judged(story, max_p50="1ms").outcomes
    assert not outcome.passed
    seen = (
        "measured, but it does not count: 01-quantize was timed on orin, but not validly: the board throttled: edgeres"
    )
    assert outcome.text.startswith(seen)


def test_what_was_timed_together_counts_before_what_was_timed_alone_later(story):
    alone = story.board(story.last, median_ms=1.8, board={"power_mode": {"name": "15W", "id": 0}}) / "report.json"
    alone.write_text(alone.read_text().replace('"on the board"', '"alone"'))
    report = judged(story, min_speedup=1.5, max_p50="1.5ms")
    assert report.broken == ()
    assert all("; 05-board timed it later, but apart from the others: p50 1.8" in one.text for one in report.outcomes)
    assert all(one.text.endswith(" ms in power mode 15W, not MAXN_SUPER") for one in report.outcomes)
    assert "1.59× faster on orin" in rows_from(story.path).headline


def test_what_is_known_to_be_valid_counts_before_what_was_timed_later_with_nothing_known(story):
    unknown = story.board(story.last, median_ms=1.8, figures={"is_valid": None}) / "report.json"
    unknown.write_text(unknown.read_text().replace('"on the board"', '"another"'))
    again = story.board(story.first, median_ms=2.5, figures={"is_valid": None}) / "report.json"
    again.write_text(again.read_text().replace('"on the board"', '"another"'))
    (outcome,) = judged(story, min_speedup=1.5).outcomes
    assert outcome.passed
    assert "05-board timed it later, of unknown validity: p50 1.8" in outcome.text


def test_a_later_session_of_others_does_not_part_what_was_timed_together(cut):
    measured_on_board(cut, "whole", "full", "last")
    before = judged(cut, min_speedup=1.75)
    for name in ("whole", "full"):
        source, median_ms = cut.files[name]
        again = cut.board(source, median_ms=median_ms) / "report.json"
        again.write_text(again.read_text().replace('"on the board"', '"another"'))
    report = judged(cut, min_speedup=1.75)
    assert (before.broken, report.broken) == ((), ())
    assert " as 01-export," in report.outcomes[0].text
    assert "1.80× faster on orin, " in rows_from(cut.path).headline


def test_a_later_session_that_was_not_valid_is_named_beside_the_figure(story):
    story.board(story.last, median_ms=0.5, figures={"is_valid": False, "problems": ["the board throttled"]})
    (outcome,) = judged(story, min_speedup=1.5).outcomes
    assert outcome.passed
    assert outcome.text.endswith("05-board timed it later, but not validly: the board throttled")


def test_a_validity_that_is_unknown_is_said_wherever_the_figure_is(fake_run):
    folder, first = fake_run.model("export", "model.onnx", 2000)
    fake_run.evaluated(folder, first, 0.92)
    _, last = fake_run.model("quantize", "model.onnx", 600, source=first, precision="int8")
    for source, median_ms in ((first, 2.0), (last, 1.0)):
        fake_run.board(source, median_ms=median_ms, figures={"is_valid": None})
    (outcome,) = judged(fake_run, min_speedup=1.5).outcomes
    assert outcome.text.endswith("validity unknown: the GPU's clock was not seen under load")
    assert "× faster on orin, validity unknown, " in rows_from(fake_run.path).headline


@pytest.mark.parametrize("rule", ["max_loss", "min_top1", "min_agreement"])
def test_a_named_board_that_has_measured_nothing_of_the_network_breaks_the_rule(story, rule):
    story.evaluated(story.path / "01-quantize", story.last, 0.91, "onnxruntime 1.20.0 cpu")
    (outcome,) = judged(story, **{rule: 50 if rule == "min_top1" else 0.5}, on="nano").outcomes
    said = "nothing was measured of 01-quantize on nano: edgeres bench --run fake --on nano"
    assert (outcome.passed, outcome.text) == (False, f"not measured: {said}")


def on_orin(run, source, *, top1=None, median_ms=None):
    """What the board has only judged, or only timed."""
    folder = run.board(source, top1=top1 or 0.9, median_ms=median_ms or 1.5, predictions=top1 is not None)
    report = run_folder_from(run.path).stages[-1].report
    unseen = ("accuracy",) if top1 is None else ("latency", "energy")
    write_report(report.model_copy(update=dict.fromkeys(unseen, ())), folder / "report.json")


@pytest.fixture
def three(fake_run):
    """A checkpoint and its INT8 file, judged here, and the float file between: the latter two timed on a board."""
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.93)
    fake_run.whole_at, fake_run.whole = fake_run.model("export", "model.onnx", 3001, source=first)
    folder, fake_run.last = fake_run.model("quantize", "int8.onnx", 900, source=fake_run.whole, precision="int8")
    fake_run.evaluated(folder, fake_run.last, 0.92)
    for source, median_ms in ((fake_run.whole, 3.0), (fake_run.last, 1.5)):
        on_orin(fake_run, source, median_ms=median_ms)
    return fake_run


PLACES = {
    "nothing is judged there": ((), 1.0, "against 00-import, n = 5,000, here and not on orin"),
    "both are": ((("whole", 0.95), ("last", 0.90)), 5.0, "against 01-export, n = 5,000, on orin"),
    "the one judged is": ((("last", 0.90),), 3.0, "against 00-import (judged here), n = 5,000, on orin"),
    "the other is": ((("whole", 0.80),), 1.0, "against 00-import, n = 5,000, here and not on orin"),
}


@pytest.mark.parametrize("on", ["orin", None])
@pytest.mark.parametrize("judged_there", PLACES)
def test_accuracies_of_here_and_of_a_board_are_mixed_nowhere_without_a_word(three, judged_there, on):
    there, lost, said = PLACES[judged_there]
    for name, top1 in there:
        on_orin(three, getattr(three, name), top1=top1)
    loss, top1, agreement, speed = judged(
        three, max_loss=9, min_top1=50, min_agreement=0.1, min_speedup=1.5, on=on
    ).outcomes
    assert loss.figure.value == pytest.approx(lost)
    assert loss.text.endswith(said)
    assert agreement.text.endswith(said)
    assert top1.text.endswith(said.rpartition("n = 5,000, ")[2])
    assert speed.text.endswith("tensorrt 10.3.0 on orin")
    assert loss.passed
    assert speed.passed
    points = rows_from(three.path).rows_on_board[-1].versus_first.points
    assert (points.value, points.versus) == (pytest.approx(-lost), said.split()[1].strip(","))


def test_a_board_that_measured_the_float_file_alone_gives_no_loss_of_what_was_judged_here(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    _, whole = fake_run.model("export", "model.onnx", 3001, source=first)
    fake_run.board(whole, top1=0.92, predictions=True)
    fake_run.evaluated(*fake_run.model("quantize", "model.onnx", 900, source=whole, precision="int8"), 0.90)
    report, summary = judged(fake_run, max_loss=9), rows_from(fake_run.path)
    assert report.outcomes[0].text.startswith("not measured: 00-import is not evaluated: edgeres eval ")
    assert f"({report.judged} against {report.first})." in summary.headline
    assert "points" not in summary.headline
    assert "What it lost is not known: 00-import is not evaluated." in summary.headline


def test_gate_and_headline_say_of_two_files_that_two_machines_judged_them(fake_run):
    _, first = fake_run.model("export", "model.onnx", 3001)
    on_orin(fake_run, first, top1=0.92, median_ms=3.0)
    folder, last = fake_run.model("quantize", "model.onnx", 900, source=first, precision="int8")
    fake_run.evaluated(folder, last, 0.90)
    on_orin(fake_run, last, median_ms=1.5)
    (loss,) = judged(fake_run, max_loss=9).outcomes
    assert loss.figure.value == pytest.approx(2.0)
    assert loss.text.endswith("against 00-export (judged on orin), n = 5,000, here and not on orin")
    assert "points of top-1 (int8) against 00-export judged on orin" in rows_from(fake_run.path).headline


def test_a_float_file_that_both_machines_judged_is_held_against_as_the_judge_of_the_other_saw_it(three):
    three.evaluated(three.whole_at, three.whole, 0.93)
    on_orin(three, three.whole, top1=0.80)
    (loss,) = judged(three, max_loss=9, on="orin").outcomes
    assert loss.figure.value == pytest.approx(1.0)
    assert loss.text.endswith("against 01-export, n = 5,000, here and not on orin")


def test_a_checkpoint_is_timed_on_a_board_by_its_export(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.93)
    folder, cut = fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    fake_run.evaluated(folder, cut, 0.92)
    rules = {"min_speedup": 1.5, "max_p50": "2ms", "max_loss": 9, "on": "orin"}
    how = "edgeres export runs/fake/01-prune/cut.safetensors and edgeres bench --run fake --on orin"
    loss, p50, speed = (outcome.text.rpartition(" orin: ")[2] for outcome in judged(fake_run, **rules).outcomes)
    whole = "edgeres export runs/fake/00-import/model.safetensors and "
    assert (loss, p50, speed) == (how, how, whole + how)
    _, short = fake_run.model("export", "cut.onnx", 2001, source=cut, dropped=("layer1.1",))
    on_orin(fake_run, short, median_ms=1.5)
    speed = judged(fake_run, **rules).outcomes[-1]
    assert speed.text.endswith(whole + how.rpartition(" and ")[2])
    _, whole = fake_run.model("export", "model.onnx", 3001, source=first)
    on_orin(fake_run, whole, median_ms=3.0)
    report = judged(fake_run, **rules)
    assert report.broken == ()
    assert [outcome.stage for outcome in report.outcomes] == ["01-prune", "02-export", "02-export"]


def test_what_no_board_takes_is_not_sent_to_it(fake_run):
    folder, first = fake_run.model("export", "model.onnx", 3000)
    fake_run.evaluated(folder, first, 0.93)
    of = {"source": first, "precision": "int8", "results": {"profile": FUSED_PROFILE}}
    fake_run.evaluated(*fake_run.model("quantize", "model.int8.onnx", 900, **of), 0.92)
    on_orin(fake_run, first, median_ms=3.0)
    for outcome in judged(fake_run, max_p50="2ms", max_loss=2, on="orin").outcomes:
        assert "was quantized for ONNX Runtime on a CPU; make one" in outcome.text
        assert outcome.text.endswith(": edgeres quantize --run fake --profile tensorrt")


def test_few_calls_of_a_board_are_told_how_long_to_measure(story):
    path = story.path / "04-board/report.json"
    report = run_folder_from(story.path).stages[-1].report
    few = report.latency[0].model_copy(update={"samples_ms": (20.0,) * 50, "rounds": ()})
    path.write_text(report.model_copy(update={"latency": (few,)}).model_dump_json())
    (outcome,) = judged(story, max_p99="90ms").outcomes
    assert outcome.text.endswith("50 calls are too few for a p99: edgeres bench --run fake --on orin --duration-s 9")


def test_an_accuracy_of_here_beside_a_board_says_so(story):
    for name in ("03-board", "04-board"):
        path = story.path / name / "report.json"
        report = next(stage.report for stage in run_folder_from(story.path).stages if stage.name == name)
        path.write_text(report.model_copy(update={"accuracy": ()}).model_dump_json())
    story.evaluated(story.path / "01-quantize", story.last, 0.91, "onnxruntime 1.20.0 cpu")
    report = judged(story, min_top1=90, min_speedup=1.5)
    assert report.broken == ()
    assert report.outcomes[0].text.endswith("cifar10 val, here and not on orin")
