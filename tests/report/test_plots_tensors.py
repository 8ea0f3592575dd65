import xml.etree.ElementTree as ET

import pytest

from edgeres.evaluate.agreement import Agreement, Likeness, Side
from edgeres.report.plots_tensors import agreement_svg, histograms_svg, tensor_title

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


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
    found = texts(histograms_svg(full.histograms))
    assert "layer1.0.conv1" in found
    assert found.count("values") == 2
    assert any("clipped at 5.5 of 8, n = 5,118" in text for text in found)


def test_a_tensor_without_a_known_bound_does_not_name_one(full):
    one = full.histograms.shown[0]
    assert tensor_title(one.model_copy(update={"chosen": "mse"})).startswith("layer1.0.conv1: 38.2 dB, clipped at 4.5")
    assert "clipped" not in tensor_title(one.model_copy(update={"chosen": ""}))


def test_every_bound_is_a_line_and_only_the_chosen_one_is_marked(full):
    svg = histograms_svg(full.histograms)
    assert svg.count("stroke: var(--dropped)") == len(full.histograms.shown)
    other = full.histograms.model_copy(
        update={"shown": tuple(one.model_copy(update={"chosen": ""}) for one in full.histograms.shown)}
    )
    assert "stroke: var(--dropped)" not in histograms_svg(other)


def test_the_module_that_drifts_first_is_marked_and_identical_ones_have_no_bar(agreement):
    svg = agreement_svg(agreement, "agree")
    assert "layer1.2" not in texts(svg)
    assert svg.count("fill: var(--dropped)") == 1
    assert any("dB" in text and "n = 100" in text for text in texts(svg))
    assert agreement_svg(agreement.model_copy(update={"modules": ()}), "agree") == ""
