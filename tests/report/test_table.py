import csv
import io

import pytest
from rich.console import Console

from edgeres.report.rows import rows_from
from edgeres.report.table import csv_from, markdown_from, table_from
from edgeres.report.wording import COLUMNS


def printed(summary, width):
    console = Console(width=width, file=io.StringIO())
    console.print(table_from(summary))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_table_breaks_no_figure(whole_run, width):
    text = printed(rows_from(whole_run.path), width)
    for figure in (
        "05-quantize",
        "[91.59,93.06]",
        "n = 5,000",
        "-3.94 points",
        "speed ×1.16",
        "size ×0.23",
        "810 kB",
    ):
        assert figure in text
    assert "built, not" in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_a_latency_under_a_millisecond_is_not_broken(fake_run):
    _, first = fake_run.model("export", "model.onnx", 1000)
    folder, second = fake_run.model("prune", "model.onnx", 1000, source=first)
    fake_run.evaluated(folder, second, 0.9)
    fake_run.stage("bench", latency=(fake_run.latency(first, 0.2), fake_run.latency(second, 0.1)))
    summary = rows_from(fake_run.path)
    p50 = summary.rows[1].latency.p50_ms
    assert f"[{p50.low:.3f},{p50.high:.3f}]" in printed(summary, 80)


def test_markdown_has_a_line_for_each_row_and_the_same_columns_in_all(whole_run):
    lines = [line for line in markdown_from(rows_from(whole_run.path)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}


def test_markdown_says_what_the_figures_belong_to(whole_run):
    text = markdown_from(rows_from(whole_run.path))
    assert "Latency: torch 2.6.0 cpu, batch 1, threads 2, Fake CPU @ 2.00GHz, 2 cores." in text
    assert "Accuracy: cifar10 val." in text
    assert "Not run: 06-compile/model.plan, built, not run here: an engine runs only on the GPU" in text


def test_markdown_names_what_is_missing(whole_run):
    (whole_run.path / "05-quantize/report.json").unlink()
    assert "Warning: 05-quantize: unfinished (no report.json)." in markdown_from(rows_from(whole_run.path))


def test_csv_holds_plain_numbers_and_empty_cells(whole_run):
    records = {record["name"]: record for record in csv.DictReader(io.StringIO(csv_from(rows_from(whole_run.path))))}
    assert float(records["00-import"]["top1"]) == 0.9236
    assert int(records["05-quantize"]["size_bytes"]) == 810_000
    assert float(records["02-prune"]["points_vs_first"]) == pytest.approx(-3.94)
    assert records["06-compile"]["top1"] == records["06-compile"]["p50_ms"] == ""
    assert records["06-compile"]["latency_missing"] == "built, not run here"


def test_a_name_of_somebody_elses_stays_in_its_cell(whole_run):
    path = whole_run.path / "00-import/report.json"
    path.write_text(path.read_text().replace("resnet56_cifar10.pt", r"a.pt\nFORGED\u001b[2J | <b>x"))
    summary = rows_from(whole_run.path)
    for text in (printed(summary, 200), markdown_from(summary), csv_from(summary)):
        assert not any(line.startswith("FORGED") for line in text.splitlines())
        assert "\x1b" not in text
    assert r"FORGED\u001b[2J \| &lt;b>x" in markdown_from(summary)
    assert r"a.pt\u000aFORGED" in csv_from(summary)


def test_an_empty_run_has_an_empty_table(fake_run):
    fake_run.stage("lesion", results={"table": []})
    summary = rows_from(fake_run.path)
    assert csv_from(summary) == "name\n"
    assert "No model yet." in markdown_from(summary)


def test_a_top5_of_all_images_has_no_column(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 1.0)
    assert "Top-5" not in markdown_from(rows_from(fake_run.path))
    fake_run.evaluated(folder, first, 0.9)
    assert "Top-5" in markdown_from(rows_from(fake_run.path))
