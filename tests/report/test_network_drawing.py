import xml.etree.ElementTree as ET

import pytest

from edgeres.models import modules_of, spec_from_arch
from edgeres.report.network_drawing import Bars, network_label, network_svg
from edgeres.report.summary import ModuleState

SVG = "{http://www.w3.org/2000/svg}"


def states(arch, dropped=()):
    spec = spec_from_arch(arch, num_classes=10)
    return [ModuleState(name=m.name, kind=m.kind, dropped=m.name in dropped) for m in modules_of(spec)]


def modules_in(svg):
    return [group for group in ET.fromstring(svg).iter(f"{SVG}g") if "module" in group.get("class", "")]


@pytest.mark.parametrize(("arch", "count"), [("resnet20", 9), ("resnet56", 27), ("resnet152", 50), ("resnet1202", 600)])
def test_every_module_is_a_box_inside_the_picture(arch, count):
    svg = network_svg(states(arch), Bars({}))
    root = ET.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    boxes = 0
    for line in root.iter(f"{SVG}g"):
        if line.get("transform"):
            x, y = map(float, line.get("transform")[len("translate(") : -1].split())
            for box in (box for box in line.iter(f"{SVG}rect") if box.get("class") == "box"):
                assert 0 <= x + float(box.get("x")) <= width - float(box.get("width"))
                assert 0 <= y + float(box.get("y")) <= height - float(box.get("height"))
                boxes += 1
    assert boxes == count == len(modules_in(svg))


@pytest.mark.parametrize("letters", [0, 12, 200])
def test_headings_of_long_names_do_not_meet(letters):
    stages = [f"backbone.{'x' * letters}s{stage}" for stage in range(4)]
    modules = [ModuleState(name=f"{name}.{i}", kind="identity", dropped=False) for name in stages for i in range(3)]
    texts = [text for text in ET.fromstring(network_svg(modules, Bars({}))).iter(f"{SVG}text") if "of 3" in text.text]
    ends = [(float(text.get("y")), float(text.get("x")), 5.2 * len(text.text)) for text in texts]
    assert len(ends) == 4
    for (y, x, length), (next_y, next_x, _) in zip(ends, [*ends[1:], (0.0, 0.0, 0.0)], strict=True):
        assert x + length <= (next_x if next_y == y else 360)


def test_a_dropped_module_differs_by_more_than_colour():
    svg = network_svg(states("resnet20", ("layer2.1",)), Bars({}))
    dropped = [group for group in modules_in(svg) if "dropped" in group.get("class")]
    assert [group.find(f"{SVG}title").text for group in dropped] == ["layer2.1, identity, dropped"]
    assert [path.get("class") for path in dropped[0].iter(f"{SVG}path")] == ["arc", "strike"]
    assert "layer2: 2 of 3 modules" in svg


def test_projections_have_their_shortcut_marked():
    marked = [
        g for g in modules_in(network_svg(states("resnet20"), Bars({}))) if g.find(f"{SVG}rect[@class='w']") is not None
    ]
    assert [group.find(f"{SVG}title").text.partition(",")[0] for group in marked] == ["layer2.0", "layer3.0"]


def test_bars_grow_with_what_is_lost_and_a_gain_has_none():
    bars = Bars({"a": 80.0, "b": 5.0, "c": -1.0})
    assert bars.height(80) > bars.height(5) > bars.height(-1) == 0
    title = modules_in(network_svg(states("resnet20"), Bars({"layer1.0": 12.5})))[0].find(f"{SVG}title").text
    assert title == "layer1.0, identity, kept, 12.5 points of top-1 lost without it"
    (box, *_) = modules_in(network_svg(states("resnet20"), Bars({"layer1.0": 12.5}, "hundredths of cosine")))
    assert box.find(f"{SVG}title").text == "layer1.0, identity, kept, 12.5 hundredths of cosine lost without it"


def test_names_from_elsewhere_cannot_become_markup():
    svg = network_svg([ModuleState(name="<b>.&x", kind="identity", dropped=False)], Bars({}))
    assert len(modules_in(svg)) == 1
    assert "<b>" not in svg


def test_the_drawing_is_told_in_words():
    label = network_label(states("resnet20", ("layer3.2",)))
    assert label == "The network's 9 modules: layer1 with 3, layer2 with 3, layer3 with 3. Dropped: layer3.2."


def test_no_modules_are_no_picture():
    assert network_svg([], Bars({})) == ""
