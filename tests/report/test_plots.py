import json
import re
import xml.etree.ElementTree as ET

import pytest

from edgeres.evaluate.agreement import Agreement, Likeness, Side
from edgeres.report import plots
from edgeres.report.plots import (
    agreement_svg,
    calls_svg,
    calls_title,
    costs_svg,
    histograms_svg,
    lesion_svg,
    points_svg,
    tensor_title,
    tradeoff_svg,
)
from edgeres.report.rows import rows_from
from edgeres.report.stage import page_from

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def lesions(full):
    return lesion_svg(full)


@pytest.fixture(scope="module")
def tradeoff(full):
    return tradeoff_svg(full)


def test_every_module_has_a_bar_a_name_and_its_figure(lesions):
    found = texts(lesions)
    assert "layer1.0" in found
    assert "layer3.8" in found
    assert found.count("45.0") == 2
    assert any("n = 5,000" in text and "points of top-1 lost" in text for text in found)


def test_dropped_modules_are_marked_by_more_than_colour(lesions):
    assert {text for text in texts(lesions) if text.endswith("×")} == {
        "layer1.3 ×",
        "layer2.5 ×",
        "layer3.4 ×",
        "layer3.7 ×",
    }
    assert lesions.count("fill: var(--dropped)") == 4


def test_a_few_huge_lesions_do_not_hide_the_rest(lesions, full):
    assert any("log scale" in text for text in texts(lesions))
    even = tuple(entry.model_copy(update={"change_points": -2.0}) for entry in full.lesion)
    assert not any("log scale" in text for text in texts(lesion_svg(full.model_copy(update={"lesion": even}))))


def test_what_is_lost_with_the_module_behind_refitted_is_a_mark_on_each_bar(whole_run, monkeypatch):
    for name in ("tradeoff", "calls", "costs", "histograms", "agreement"):
        monkeypatch.setattr(plots, f"{name}_svg", lambda *_: "<svg></svg>")
    path = whole_run.path / "01-lesion/report.json"
    assert "Diamonds" not in page_from(rows_from(whole_run.path))
    report = json.loads(path.read_text())
    for row in report["results"]["table"]:
        row["refitted"] = {"kl": 0.1, "change_points": -0.25, "half_width_points": 0.2}
    path.write_text(json.dumps(report))
    summary = rows_from(whole_run.path)
    assert {entry.refitted_points for entry in summary.lesion} == {0.25}
    assert "Diamonds" in page_from(summary)
    bare = summary.model_copy(
        update={"lesion": tuple(one.model_copy(update={"refitted_points": None}) for one in summary.lesion)}
    )
    assert lesion_svg(summary).count("<use") == lesion_svg(bare).count("<use") + len(summary.lesion)


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


def test_the_same_run_gives_the_same_bytes(lesions, tradeoff, full):
    assert (lesion_svg(full), tradeoff_svg(full)) == (lesions, tradeoff)


def test_all_colours_follow_the_page(lesions, tradeoff):
    for svg in (lesions, tradeoff):
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert "var(--ink)" in svg


def test_pictures_on_one_page_share_no_id(lesions, tradeoff):
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (lesions, tradeoff)]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_every_reference_within_a_picture_has_its_target(tradeoff):
    targets = set(re.findall(r'id="([^"]+)"', tradeoff))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', tradeoff)) <= targets


def test_every_number_of_modules_is_a_point_with_axes_units_and_n(full):
    found = texts(points_svg("sweep", full.sweep))
    assert {"0", "1", "2", "3"} <= set(found)
    assert any("ms" in text for text in found)
    assert any("onnxruntime" in text and "batch 1" in text for text in found)
    assert any("n = 5,000" in text for text in found)


def test_points_off_the_front_are_told_by_more_than_colour(full):
    assert {"Pareto front", "on it", "beaten by another", "before recovery"} <= set(
        texts(points_svg("sweep", full.sweep))
    )
    best = full.sweep.model_copy(update={"points": tuple(one for one in full.sweep.points if one.is_best)})
    assert "beaten by another" not in texts(points_svg("sweep", best))


def test_without_recovery_there_is_nothing_before_it(full):
    assert "before recovery" not in texts(points_svg("sweep", full.sweep.model_copy(update={"recover": ()})))


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


@pytest.fixture
def agreement():
    side = Side(path="a", sha256="0", precision="fp32", runtime="torch", correct_top1=90)
    modules = [Likeness(name=f"layer1.{place}", sqnr_db=db, cosine=1) for place, db in enumerate((60.0, 20.0, None))]
    return Agreement(
        a=side,
        b=side,
        dataset="x",
        split="val",
        n=100,
        same_top1=99,
        only_a=1,
        only_b=0,
        logits=modules[0],
        kl=0.0,
        modules=tuple(modules),
        drift="layer1.1",
    )


def test_every_tensor_has_a_panel_with_its_bound_noise_and_n(full):
    found = texts(histograms_svg(full.histograms.shown))
    assert "layer1.0.conv1" in found
    assert found.count("values") == 2
    assert any("clipped at 5.5 of 8, n = 5,118" in text for text in found)


def test_a_tensor_without_a_known_bound_does_not_name_one(full):
    one = full.histograms.shown[0]
    assert tensor_title(one.model_copy(update={"chosen": "mse"})).startswith("layer1.0.conv1: 38.2 dB, clipped at 4.5")
    assert "clipped" not in tensor_title(one.model_copy(update={"chosen": ""}))


def test_every_bound_is_a_line_and_only_the_chosen_one_is_marked(full):
    svg = histograms_svg(full.histograms.shown)
    assert svg.count("stroke: var(--dropped)") == len(full.histograms.shown)
    other = [one.model_copy(update={"chosen": ""}) for one in full.histograms.shown]
    assert "stroke: var(--dropped)" not in histograms_svg(other)


def test_the_module_that_drifts_first_is_marked_and_identical_ones_have_no_bar(agreement):
    svg = agreement_svg(agreement, "agree")
    assert "layer1.2" not in texts(svg)
    assert svg.count("fill: var(--dropped)") == 1
    assert any("dB" in text and "n = 100" in text for text in texts(svg))
    assert agreement_svg(agreement.model_copy(update={"modules": ()}), "agree") == ""
