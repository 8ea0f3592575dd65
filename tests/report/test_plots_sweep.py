import xml.etree.ElementTree as ET

import pytest

from edgeres.report.plots import sweep_svg

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_number_of_modules_is_a_point_with_axes_units_and_n(full):
    found = texts(sweep_svg(full.sweep))
    assert {"0", "1", "2", "3"} <= set(found)
    assert any("ms" in text for text in found)
    assert any("onnxruntime" in text and "batch 1" in text for text in found)
    assert any("n = 5,000" in text for text in found)


def test_points_off_the_front_are_told_by_more_than_colour(full):
    assert {"Pareto front", "on it", "beaten by another", "before recovery"} <= set(texts(sweep_svg(full.sweep)))
    best = full.sweep.model_copy(update={"points": tuple(one for one in full.sweep.points if one.is_best)})
    assert "beaten by another" not in texts(sweep_svg(best))


def test_without_recovery_there_is_nothing_before_it(full):
    assert "before recovery" not in texts(sweep_svg(full.sweep.model_copy(update={"recover": ()})))
