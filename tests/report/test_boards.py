"""What a board measured is told apart from what this machine measured. Every board here is made up."""

import csv
import io

import pytest
from rich.console import Console

from edgeres.cli.output import print_summary
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageReport, write_report
from edgeres.evaluate.stage import OTHER_ORDER
from edgeres.pipeline.show import exhibit_of
from edgeres.report.boards import boards_from
from edgeres.report.figures import Percentile
from edgeres.report.folder import run_folder_from
from edgeres.report.gate import GateConfig, gate
from edgeres.report.networks import networks_in
from edgeres.report.rows import rows_from
from edgeres.report.stage import ReportConfig, report
from edgeres.report.table import (
    board_cells,
    boards_csv_from,
    boards_turned,
    csv_from,
    flat_board,
    markdown_from,
    table_from,
)

ORDER = f"17.90 % are right, 81.40 % {OTHER_ORDER} (cat for dog)"


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


def test_show_says_what_was_measured_on_which_board(on_board):
    assert exhibit_of(str(on_board.path)).lines[-1].split() == ["02-board", "00-export", "on", "orin"]


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


def test_a_file_that_is_made_again_keeps_the_name_it_was_measured_by_and_its_row_says_so(fake_run):
    _, first = fake_run.model("export", "model.onnx", 2000)
    fake_run.board(first, top1=0.92, predictions=True)
    for _ in range(2):
        folder, file = fake_run.model("quantize", "model.onnx", 900, source=first, precision="int8")
        if fake_run.count == 3:
            fake_run.evaluated(folder, file, 0.9)
            fake_run.board(file, predictions=True)
    summary = rows_from(fake_run.path)
    assert [one.model for one in summary.boards] == ["00-export", "02-quantize"]
    assert "(04-quantize against 00-export)" in summary.headline
    assert [row.what.partition("; ")[2] for row in summary.rows] == ["", "", "same file as 02-quantize"]
    assert "same file as 02-quantize" in csv_from(summary)
    assert "04-quantize is the same file as 02-quantize" in gate(fake_run.path, GateConfig(max_size="1MB")).notes
    assert summary.boards[-1].points.versus == "02-quantize"
    judged = [network for network in networks_in(run_folder_from(fake_run.path)) if network.is_judged]
    assert [one.name for one in judged] == ["02-quantize", "04-quantize"]
    assert all(one.predictions is not None for one in judged)


def test_two_sessions_of_a_board_are_not_compared(on_board):
    folder = run_folder_from(on_board.path)
    exported = folder.stages[0].report.output
    later = on_board.latency(exported, 1.0, "tensorrt 10.3.0", session="another")
    on_board.stage("board", source=exported, latency=(later,), results=folder.stages[-1].report.results)
    assert [board.speed for board in rows_from(on_board.path).boards] == [None, None]


def test_two_boards_that_had_one_name_are_told_apart(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    hosts = ("10.0.0.5", "10.0.0.6")
    for host in hosts:
        fake_run.board(exported, board={"host": host})
    boards = rows_from(fake_run.path).boards
    assert [board_cells(one)["Board"][:2] for one in boards] == [("orin", f"at {host}") for host in hosts]
    assert [(one.measurements, one.is_newest) for one in boards] == [(1, True)] * 2


def test_one_session_of_a_board_compares_two_files(on_board):
    _, smaller = on_board.model("quantize", "model.onnx", 900, precision="int8")
    on_board.board(smaller, median_ms=0.75)
    first, second = rows_from(on_board.path).boards
    assert first.speed is None
    assert second.speed.value == pytest.approx(0.5, rel=0.02)
    assert second.speed.versus == first.model == "00-export"


def test_an_invalid_measurement_is_compared_with_nothing(on_board):
    _, smaller = on_board.model("quantize", "model.onnx", 900, precision="int8")
    on_board.board(smaller, median_ms=0.75, figures={"is_valid": False, "problems": ["it throttled"]})
    on_board.board(smaller, median_ms=0.75)
    assert [board.speed.versus if board.speed else None for board in rows_from(on_board.path).boards] == [
        None,
        None,
        "00-export",
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


def test_a_measurement_whose_clock_was_not_seen_is_unknown_in_every_form(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    unseen = {"samples": 0, "before_c": 41.0, "highest_c": None, "gpu_mhz": None}
    fake_run.board(exported, figures={"is_valid": None, "heat": unseen})
    summary = rows_from(fake_run.path)
    assert summary.boards[0].is_valid is None
    assert summary.boards[0].heat == "no samples under load"
    assert "unknown<br>the GPU's clock was not seen under load" in markdown_from(summary)
    (record,) = csv.DictReader(io.StringIO(boards_csv_from(summary)))
    assert record["is_valid"] == "unknown"
    console = Console(width=80, file=io.StringIO())
    console.print(table_from(summary))
    assert "01-board validity unknown: the GPU's clock was not seen under load" in console.file.getvalue()


def test_a_clock_the_kernel_said_is_marked(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    clock = {"lowest": 624, "median": 624, "highest": 624}
    fake_run.board(exported, figures={"heat": {"highest_c": 50.5, "gpu_mhz": clock, "clock_source": "devfreq"}})
    assert rows_from(fake_run.path).boards[0].heat == "up to 50.5 °C, GPU 624 MHz (devfreq)"


def test_too_few_calls_have_no_99th_percentile(on_board):
    enough = only(on_board)
    unknown = Percentile(value=enough.latency.p99_ms.value)
    few = enough.model_copy(update={"latency": enough.latency.model_copy(update={"p99_ms": unknown})})
    assert "p99 needs 368 calls" in " ".join(board_cells(few)["Latency ms"])
    assert flat_board(few)["p99_ms"] is None
    assert flat_board(enough)["p99_ms"] == unknown.value
    assert any(line.startswith("p99 ") and "needs" not in line for line in board_cells(enough)["Latency ms"])


@pytest.mark.parametrize(
    ("half", "lines"),
    [(0.25, ("9.50 mJ", "± 0.25")), (0.0021, ("9.5000 mJ", "± 0.0021")), (1.234, ("9.5 mJ", "± 1.2"))],
)
def test_an_energy_has_the_digits_of_its_half_width(on_board, half, lines):
    board = only(on_board)
    interval = Interval(value=9.5, low=9.5 - half, high=9.5 + half)
    changed = board.model_copy(update={"energy": board.energy.model_copy(update={"mj_per_image": interval})})
    assert board_cells(changed)["Energy, power"][:4] == (*lines, "11.25 W loaded", "4.75 W at rest")


def test_measurements_of_one_file_carry_their_time_and_the_newest_is_marked(on_board):
    exported = run_folder_from(on_board.path).stages[0].report.output
    on_board.board(exported)
    first, second = rows_from(on_board.path).boards
    assert (first.measurements, first.is_newest, second.is_newest) == (2, False, True)
    assert board_cells(first)["Board"][-1] == "measured again since"
    assert board_cells(second)["Board"][-1] == "the newest of 2"
    assert board_cells(second)["Board"][-2] == f"measured {second.measured[:10]} {second.measured[11:16]} UTC"
    judged = run_folder_from(on_board.path).stages[-1].report.model_copy(update={"latency": (), "energy": ()})
    on_board.stage("board", source=exported, accuracy=judged.accuracy, results=judged.results)
    _, smaller = on_board.model("quantize", "model.onnx", 900, precision="int8")
    on_board.board(smaller)
    assert [board.measurements for board in rows_from(on_board.path).boards] == [2, 2, 1, 1]


def test_logits_equal_bit_for_bit_say_so(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    fake_run.board(exported, figures={"agreement": {"top1": 1.0, "sqnr_db": None, "equal_bits": True}})
    board = only(fake_run)
    assert "logits equal bit for bit" in board_cells(board)["Top-1 %"]
    assert flat_board(board)["equal_bits"] is True


def test_a_call_on_a_board_says_the_same_in_the_same_words_a_column_for_each_file(fake_run):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    _, smaller = fake_run.model("quantize", "model.onnx", 900, precision="int8")
    agreement = {
        "top1": 0.75,
        "same_top1": 3,
        "n": 4,
        "reference_correct_top1": 3,
        "sqnr_db": 41.5,
        "equal_bits": False,
    }
    fake_run.board(exported, figures={"is_valid": None, "agreement": agreement})
    fake_run.board(smaller, median_ms=0.75)
    typed = [stage.report for stage in run_folder_from(fake_run.path).stages[2:]]
    first, second = boards_from(typed)
    kept = rows_from(fake_run.path).boards
    for name in ("Latency ms", "Energy, power", "Top-1 %", "Engine", "Valid"):
        said = [line for line in board_cells(kept[0])[name] if "to the file here" not in line]
        assert [line for line in said if line not in board_cells(first)[name]] == []
    assert {"ONNX Runtime 75.00", "same top-1 on 75.00 %", "logits 41.5 dB"} <= set(board_cells(first)["Top-1 %"])
    assert board_cells(second)["Latency ms"][-2].endswith("of 00-export/model.onnx")
    console = Console(width=80, file=io.StringIO())
    console.print(boards_turned([first, second]))
    head, *_ = console.file.getvalue().splitlines()
    assert head.split() == ["00-export/model.onnx", "01-quantize/model.onnx"]
    assert "may not be" not in console.file.getvalue()
    assert "clock was" in console.file.getvalue()


def test_no_word_or_figure_of_a_board_is_cut_in_80_columns(fake_run):
    for place in range(6):
        _, exported = fake_run.model("quantize", "model.onnx", 900 + place, precision="int8")
        facts = {"model": "Jetson Orin Nano Engineering Reference Kit", "power_mode": "MODE_20W_6CORE"}
        fake_run.board(exported, median_ms=0.75, board=facts)
    for stage in fake_run.path.glob("*-board/report.json"):
        stage.write_text(stage.read_text().replace("VDD_IN", "VDD_CPU_CV"))
    boards = rows_from(fake_run.path).boards
    console = Console(width=80, file=io.StringIO())
    for shown in (table_from(rows_from(fake_run.path)), boards_turned(boards)):
        console.print(shown)
        text = console.file.getvalue()
        console.file.seek(console.file.truncate(0))
        said = [line for cells in map(board_cells, boards) for lines in cells.values() for line in lines]
        assert {word for line in said for word in line.replace(", ", ",").replace(",", " ").split()} - set(
            text.replace(",", " ").split()
        ) == set()
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("heat", "said"),
    [
        ({"samples": 0}, "no samples under load"),
        ({"samples": 9}, "heat said neither by tegrastats nor by the kernel"),
        ({}, "no samples under load"),
    ],
)
def test_heat_that_is_not_known_says_why(fake_run, heat, said):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    fake_run.board(exported, figures={"heat": heat})
    assert only(fake_run).heat == said


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_breaks_no_figure(on_board, width):
    console = Console(width=width, file=io.StringIO())
    console.print(table_from(rows_from(on_board.path)))
    text = console.file.getvalue()
    for figure in ("9.50 mJ", "± 0.25", "11.25 W", "n = 5,000", "650", "1.50 MB", "41.5", "yes"):
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


@pytest.mark.parametrize("is_valid", [True, None])
def test_a_file_that_was_only_judged_is_not_called_valid(fake_run, is_valid):
    _, exported = fake_run.model("export", "model.onnx", 2000)
    folder = fake_run.board(exported, figures={"is_valid": is_valid})
    stage = run_folder_from(fake_run.path).stages[-1].report
    write_report(stage.model_copy(update={"latency": (), "energy": ()}), folder / "report.json")
    judged = only(fake_run)
    assert judged.is_valid is None
    assert board_cells(judged)["Valid"] == ("not timed",)
    assert flat_board(judged)["is_valid"] is None


def test_the_terminal_lists_every_file_of_the_report_and_says_what_to_care_for(fake_run, capsys):
    fake_run.board(fake_run.model("export", "model.onnx", 1000)[1])
    (fake_run.path / "09-prune").mkdir()
    print_summary(report(fake_run.path, ReportConfig(html=False)), fake_run.path, as_json=False)
    out, err = capsys.readouterr()
    written = {path.name for path in fake_run.path.glob("report.*")}
    assert {*out.splitlines()[-1].partition(": ")[2].split(", ")} == written >= {"report.boards.csv"}
    assert err == "warning: 09-prune: unfinished (no report.json)\n"


@pytest.mark.parametrize(
    ("warnings", "told"),
    [
        ((), ()),
        (("no labels",), ("stages gave 1 warning: {}",)),
        (("few", "no labels", ORDER), (f"00-export: {ORDER}", "stages gave 2 more warnings: {}")),
    ],
)
def test_the_terminal_says_that_stages_warned_and_where_that_stands(fake_run, capsys, warnings, told):
    folder, network = fake_run.model("export", "model.onnx", 1000)
    fake_run.evaluated(folder, network, 0.179)
    found = StageReport.model_validate_json((folder / "eval.json").read_text())
    write_report(found.model_copy(update={"warnings": warnings}), folder / "eval.json")
    print_summary(report(fake_run.path, ReportConfig(html=False)), fake_run.path, as_json=False)
    where = fake_run.path / "report.md"
    assert capsys.readouterr().err.splitlines() == [f"warning: {one.format(where)}" for one in told]
    assert all(one in where.read_text() for one in warnings)
    shown = [line.strip() for line in exhibit_of(str(fake_run.path)).lines if "warning" in line]
    assert shown == [f"warning: {one.format('edgeres report fake')}" for one in told]
