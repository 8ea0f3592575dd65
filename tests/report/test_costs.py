import re

import pytest

from edgeres.report.page import page_from
from edgeres.report.rows import rows_from

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
