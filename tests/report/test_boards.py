"""What a board measured is told apart from what this machine measured. Every board here is made up."""

import csv
import io

import pytest
from rich.console import Console

from edgeres.report.folder import run_folder_from
from edgeres.report.networks import networks_in
from edgeres.report.rows import rows_from
from edgeres.report.stage import ReportConfig, report
from edgeres.report.table import boards_csv_from, markdown_from, table_from


@pytest.fixture
def on_board(fake_run):
    """An exported file, evaluated and timed here, then measured on a board."""
    folder, exported = fake_run.model("export", "model.onnx", 2000)
    fake_run.evaluated(folder, exported, 0.92, "onnxruntime 1.20.0 cpu")
    fake_run.stage("bench", latency=(fake_run.latency(exported, 20.0, "onnxruntime 1.20.0 cpu"),))
    fake_run.board(exported)
    return fake_run


def only(run):
    (board,) = rows_from(run.path).boards
    return board


def test_a_boards_latency_does_not_take_the_place_of_this_machines(on_board):
    row = rows_from(on_board.path).rows[0]
    assert row.latency.p50_ms.value == pytest.approx(20.0, rel=0.05)
    assert networks_in(run_folder_from(on_board.path))[0].latency.runtime == "onnxruntime 1.20.0 cpu"
    assert len(rows_from(on_board.path).rows) == 1


def test_a_board_is_read_with_its_figures(on_board):
    board = only(on_board)
    assert board.latency.p50_ms.value == pytest.approx(1.5, rel=0.05)
    assert (board.energy.mj_per_image.low, board.energy.mj_per_image.high) == (9.25, 9.75)
    assert (board.board.name, board.board.power_mode, board.board.clocks_locked) == ("orin", "MAXN_SUPER", True)
    assert (board.model, board.precision) == ("00-export", "fp32")
    assert board.heat == "41 to 55.5 °C, GPU 1,020 MHz"
    assert (board.same_top1, board.sqnr_db) == (0.9988, 41.5)


def test_its_accuracy_is_held_against_the_same_file_here(on_board):
    assert only(on_board).points.versus == "00-export"
    assert only(on_board).points.value == pytest.approx(-1.0)


def test_two_sessions_of_a_board_are_not_compared(on_board):
    folder = run_folder_from(on_board.path)
    exported = folder.stages[0].report.output
    later = on_board.latency(exported, 1.0, "tensorrt 10.3.0", session="another")
    on_board.stage("board", source=exported, latency=(later,), results=folder.stages[-1].report.results)
    assert [board.speed for board in rows_from(on_board.path).boards] == [None, None]


def test_one_session_of_a_board_compares_two_files(on_board):
    _, smaller = on_board.model("quantize", "model.onnx", 900, precision="int8")
    on_board.board(smaller, median_ms=0.75)
    first, second = rows_from(on_board.path).boards
    assert first.speed is None
    assert second.speed.value == pytest.approx(0.5, rel=0.02)
    assert second.speed.versus == first.stage


def test_an_invalid_measurement_is_compared_with_nothing(on_board):
    _, smaller = on_board.model("quantize", "model.onnx", 900, precision="int8")
    on_board.board(smaller, median_ms=0.75, figures={"is_valid": False, "problems": ["it throttled"]})
    on_board.board(smaller, median_ms=0.75)
    assert [board.speed.versus if board.speed else None for board in rows_from(on_board.path).boards] == [
        None,
        None,
        "02-board",
    ]


def test_an_invalid_measurement_says_why_in_every_form(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    fake_run.board(exported, figures={"is_valid": False, "problems": ["the board throttled"]})
    summary = rows_from(fake_run.path)
    assert "the board throttled" in markdown_from(summary)
    assert "the board throttled" in boards_csv_from(summary)
    console = Console(width=110, file=io.StringIO())
    console.print(table_from(summary))
    assert "throttled" in console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_breaks_no_figure(on_board, width):
    console = Console(width=width, file=io.StringIO())
    console.print(table_from(rows_from(on_board.path)))
    text = console.file.getvalue()
    for figure in ("9.50 mJ", "± 0.250", "11.25 W", "n = 5,000", "650", "1.50 MB", "41.5", "yes"):
        assert figure in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_the_csv_of_boards_holds_plain_numbers(on_board):
    (record,) = csv.DictReader(io.StringIO(boards_csv_from(rows_from(on_board.path))))
    assert float(record["mj_per_image"]) == 9.5
    assert float(record["top1"]) == 0.91
    assert record["board_power_mode"] == "MAXN_SUPER"
    assert record["is_valid"] == "True"


def test_the_csv_of_boards_goes_when_the_boards_go(on_board):
    report(on_board.path, ReportConfig(html=False))
    assert (on_board.path / "report.boards.csv").is_file()
    (on_board.path / "02-board/report.json").unlink()
    report(on_board.path, ReportConfig(html=False))
    assert not (on_board.path / "report.boards.csv").exists()


@pytest.mark.parametrize("figures", [{"is_valid": "perhaps"}, {"build_s": "long"}, {"problems": 7}])
def test_what_cannot_be_read_is_told(fake_run, figures):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    stage = fake_run.board(exported, figures=figures)
    summary = rows_from(fake_run.path)
    assert summary.boards == ()
    assert any(problem.startswith(f"{stage.name}: what the board measured") for problem in summary.problems)


def test_a_board_that_said_little_is_shown_with_what_it_said(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    nothing = dict.fromkeys(("power_mode", "gpu", "l4t", "clocks_locked"))
    fake_run.board(exported, board=nothing, figures={"heat": None, "layers": None, "agreement": None})
    board = only(fake_run)
    assert (board.board.power_mode, board.board.clocks_locked, board.heat, board.sqnr_db) == ("", None, "", None)
