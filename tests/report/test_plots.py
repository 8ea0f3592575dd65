import re
import xml.etree.ElementTree as ET

import pytest

from edgeres.report.plots import lesion_svg, tradeoff_svg
from edgeres.report.rows import rows_from

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_module_has_a_bar_a_name_and_its_figure(whole_run):
    found = texts(lesion_svg(rows_from(whole_run.path)))
    assert "layer1.0" in found
    assert "layer3.8" in found
    assert found.count("−45.0") == 2
    assert any("n = 5,000" in text and "points" in text for text in found)


def test_dropped_modules_are_marked_by_more_than_colour(whole_run):
    svg = lesion_svg(rows_from(whole_run.path))
    assert {text for text in texts(svg) if text.endswith("×")} == {
        "layer1.3 ×",
        "layer2.5 ×",
        "layer3.4 ×",
        "layer3.7 ×",
    }
    assert svg.count("fill: var(--dropped)") == 4


def test_a_few_huge_lesions_do_not_hide_the_rest(whole_run):
    summary = rows_from(whole_run.path)
    assert any("log scale" in text for text in texts(lesion_svg(summary)))
    even = tuple(entry.model_copy(update={"change_points": -2.0}) for entry in summary.lesion)
    assert not any("log scale" in text for text in texts(lesion_svg(summary.model_copy(update={"lesion": even}))))


def test_every_timed_stage_is_a_named_point(whole_run):
    found = texts(tradeoff_svg(rows_from(whole_run.path)))
    assert {"00-import", "02-prune", "03-recover", "04-export", "torch", "onnxruntime"} <= set(found)
    assert "05-quantize" not in found
    assert any("ms" in text for text in found)
    assert any("n = 5,000" in text for text in found)


def test_without_latency_the_file_size_takes_its_place(whole_run):
    (whole_run.path / "07-bench/report.json").unlink()
    found = texts(tradeoff_svg(rows_from(whole_run.path)))
    assert "file size, MB" in found
    assert "05-quantize" in found


def test_names_of_points_that_coincide_do_not_cover_each_other(fake_run):
    outputs = [fake_run.model("recover", "model.safetensors", 1000 + index) for index in range(4)]
    for folder, output in outputs:
        fake_run.evaluated(folder, output, 0.9)
    latency = fake_run.latency(outputs[0][1], 5.0)
    copies = [latency.model_copy(update={"artifact": output.sha256}) for _, output in outputs]
    fake_run.stage("bench", latency=tuple(copies))
    svg = tradeoff_svg(rows_from(fake_run.path))
    places = {
        (element.get("x"), element.get("y"), element.get("transform"), element.get("style"))
        for element in ET.fromstring(svg).iter(f"{SVG}text")
        if (element.text or "").endswith("-recover")
    }
    assert len(places) == 4


def test_nothing_measured_is_no_picture(fake_run):
    fake_run.model("train", "model.safetensors", 1000)
    summary = rows_from(fake_run.path)
    assert lesion_svg(summary) == tradeoff_svg(summary) == ""


def test_the_same_run_gives_the_same_bytes(whole_run):
    summary = rows_from(whole_run.path)
    assert lesion_svg(summary) == lesion_svg(summary)
    assert tradeoff_svg(summary) == tradeoff_svg(summary)


def test_all_colours_follow_the_page(whole_run):
    summary = rows_from(whole_run.path)
    for svg in (lesion_svg(summary), tradeoff_svg(summary)):
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert "var(--ink)" in svg


def test_pictures_on_one_page_share_no_id(whole_run):
    summary = rows_from(whole_run.path)
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (lesion_svg(summary), tradeoff_svg(summary))]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_every_reference_within_a_picture_has_its_target(whole_run):
    svg = tradeoff_svg(rows_from(whole_run.path))
    targets = set(re.findall(r'id="([^"]+)"', svg))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= targets
