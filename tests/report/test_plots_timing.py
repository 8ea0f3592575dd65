import xml.etree.ElementTree as ET

import pytest

from edgeres.report.plots_timing import calls_svg, calls_title, costs_svg

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_timed_network_has_a_panel_with_its_figures_and_n(full):
    timed = [(row.name, row.latency) for row in full.rows if row.latency]
    found = texts(calls_svg(timed, "calls"))
    assert len(timed) == 4
    for name, latency in timed:
        assert any(text.startswith(f"{name}, ") for text in found)
        assert calls_title(name, latency).partition(": ")[2] in found
    assert found.count("calls") == 4
    assert any("ms" in text and "duration" in text for text in found)


def test_calls_beyond_the_axis_are_told(full):
    latency = full.rows[0].latency
    far = latency.model_copy(update={"distribution": latency.distribution.model_copy(update={"above": 3})})
    assert calls_title("x", far).endswith("n = 380, 3 slower")


def test_nothing_timed_is_no_picture(full):
    latency = full.rows[0].latency.model_copy(update={"distribution": None})
    assert calls_svg([], "calls") == calls_svg([("x", latency)], "calls") == ""


def test_every_module_has_its_cost_and_dropped_ones_are_marked(full):
    svg = costs_svg(full.costs, {"layer1.3"})
    found = texts(svg)
    assert "layer1.3 ×" in found
    assert "layer3.8" in found
    assert svg.count("fill: var(--dropped)") == 1
    assert any("n = 12 networks" in text and "ms" in text for text in found)


def test_modules_timed_by_themselves_have_a_mark_of_their_own(full):
    assert "timed by itself" not in texts(costs_svg(full.costs, set()))
    rows = tuple(row.model_copy(update={"alone_ms": row.saved_ms}) for row in full.costs.rows)
    assert "timed by itself" in texts(costs_svg(full.costs.model_copy(update={"rows": rows}), set()))
