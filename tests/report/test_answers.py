"""Where a board has measured, that is the answer: in the headline, the picture and the list of what is missing."""

import numpy as np
import pytest

from edgeres.report.answers import boards_of, networks_on
from edgeres.report.folder import run_folder_from
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
    fake_run.board(first, median_ms=2.25, top1=0.92)
    fake_run.board(last, median_ms=1.41, top1=0.918)
    fake_run.first, fake_run.last = first, last
    return fake_run


def test_the_headline_is_the_boards_and_says_so(story):
    summary = rows_from(story.path)
    assert summary.headline.startswith(
        "3.3× smaller (int8), 1.59× faster on orin, −0.20 points of top-1 on orin (int8)"
    )
    assert "not evaluated" not in summary.headline
    (speed,) = (claim for claim in summary.claims if "faster" in claim.what)
    assert "00-export to 01-quantize; tensorrt 10.3.0 on orin, batch 1, 2 threads, orin: Jetson" in speed.detail


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


def test_sessions_apart_give_the_time_alone_and_say_why_in_one_line(story):
    path = story.path / "04-board/report.json"
    path.write_text(path.read_text().replace('"on the board"', '"another"'))
    summary = rows_from(story.path)
    (claim,) = (claim for claim in summary.claims if "a call" in claim.what)
    assert claim.figure + " " + claim.what == "1.42 ms a call on orin (int8)"
    assert "no speed-up is told: nothing it can be held against was timed in its session: edgeres bench" in claim.detail
    assert "faster" not in summary.headline


def test_an_accuracy_of_the_board_is_paired_with_that_of_here(story):
    table = np.load(story.path / "00-export/eval.npy")
    wrong = np.flatnonzero(table[:, 0] == table[:, 1])[:10]
    table[wrong, 0] = (table[wrong, 1] + 1) % 10
    np.save(story.path / "04-board/predictions.npy", table)
    path = story.path / "04-board/report.json"
    path.write_text(path.read_text().replace('"predictions": null', '"predictions": "predictions.npy"'))
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
