import pytest

from edgeres.report.page_text import costs_caption
from edgeres.report.rows import rows_from


@pytest.fixture
def priced(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.costs(first)
    return fake_run


def test_every_module_has_its_cost_and_conditions(priced):
    costs = rows_from(priced.path).costs
    assert len(costs.rows) == 27
    assert costs.conditions == "onnxruntime, fp32, batch 1, threads 2"
    assert (costs.networks, costs.rows[0].saved_ms.high) == (12, 0.27)


def test_the_caption_adds_the_modules_up_to_the_whole(priced):
    text = costs_caption(rows_from(priced.path))
    assert "27 modules 6.75 ms + stem, head and overhead 1.25 ms = 8.00 ms" in text


def test_a_damaged_table_is_told(priced):
    path = priced.path / "01-latency/report.json"
    path.write_text(path.read_text().replace('"saved_ms"', '"spent_ms"'))
    summary = rows_from(priced.path)
    assert summary.costs is None
    assert any("its latency table cannot be read" in problem for problem in summary.problems)


def test_a_figure_that_is_not_finite_is_not_drawn(priced):
    path = priced.path / "01-latency/report.json"
    path.write_text(path.read_text().replace('"rest_ms": 1.25', '"rest_ms": NaN'))
    assert rows_from(priced.path).costs is None
