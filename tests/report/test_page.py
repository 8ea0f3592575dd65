import re
from html.parser import HTMLParser

import pytest

from edgeres.evaluate.agreement import Agreement, Likeness, Side
from edgeres.report import plots
from edgeres.report.network_drawing import module_groups
from edgeres.report.rows import rows_from
from edgeres.report.stage import commands_for, page_from
from edgeres.report.wording import changes_text, lost

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Checks that elements close in order and keeps them with their attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(full):
    return page_from(full)


@pytest.fixture
def undrawn(monkeypatch):
    """Most pictures are empty: for tests of the text."""
    for name in ("lesion", "tradeoff", "points", "calls", "costs", "histograms", "agreement"):
        monkeypatch.setattr(plots, f"{name}_svg", lambda *_: "<svg></svg>")


def test_every_element_is_closed_in_order(page):
    assert Outline(page).open == []


def test_the_page_fetches_nothing_and_is_small(page):
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page
    assert "<script" not in page
    assert len(page.encode()) < 2_000_000


def test_lesions_name_the_split_and_that_nothing_was_chosen_on_it(page):
    assert "n = 5,000 of val" in page
    assert "cifar10 val, n = 5,000); what prune chose was chosen on train images" in page


def test_the_page_has_a_dark_and_a_printed_form_and_fits_a_phone(page):
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert 'content="width=device-width, initial-scale=1"' in page


def test_a_phone_shows_latency_and_change_first_and_what_changed_under_the_stage(page):
    head = re.search(r'id="stages".*?<thead>(.*?)</thead>', page, re.DOTALL)[1]
    assert re.findall(r'<th scope="col">([^<]*)<', head)[:3] == ["Stage", "Latency ms", "Against the first"]
    assert 'class="what">What changed<' in head
    assert '02-prune<span class="under phone">dropped layer1.3' in page


def test_what_is_lost_is_positive_and_a_change_has_its_sign(page, full):
    assert "layer2.0 45.0, layer2.1 0.6" in page
    assert lost(-0.25) == "−0.2"
    assert changes_text(full.rows[4].versus_first)[0] == "−0.76 points"


def test_tables_have_scoped_headers_and_figures_a_name(page):
    outline = Outline(page)
    headers = [attributes for tag, attributes in outline.found if tag == "th"]
    assert {attributes.get("scope") for attributes in headers} == {"col", "row"}
    pictures = [attributes for _, attributes in outline.found if attributes.get("role") == "img"]
    assert len(pictures) == 8
    assert all(attributes["aria-label"] for attributes in pictures)
    regions = [attributes for _, attributes in outline.found if attributes.get("role") == "region"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in regions)


def test_every_section_that_is_named_is_there_and_ids_are_unique(page):
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in outline.found if tag == "a"}
    assert {"stages", "tradeoff", "network", "time", "int8", "agreement", "boards", "absent", "lineage"} <= links
    assert links <= set(ids)


def test_references_within_pictures_have_their_targets(page):
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', page)) <= targets


def test_all_colours_of_pictures_follow_the_page(page):
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}", svg)


def test_boards_with_energy_stand_on_the_page(page):
    text = Outline(page).text
    for said in (
        "Jetson Orin Nano",
        "9.50 mJ",
        "11.25 W loaded",
        "MAXN_SUPER",
        "clocks locked",
        "same top-1 on 99.88 %",
    ):
        assert said in text


def test_the_sweep_and_the_bounds_are_tables_too(page):
    text = Outline(page).text
    assert "layer1.0, layer1.1, layer1.2" in text
    assert "Lost, points" in text
    assert "1.00 ± 0.40" in text
    assert "−1.00 ± 0.40" in text
    assert "exact zeros 0.33 %" in text


def test_lineage_has_hash_parent_and_command(page, full):
    text = Outline(page).text
    for file in full.files:
        assert file.path in text
        assert file.sha256[:12] in text
    assert "edgeres bench --per-module /elsewhere/04-export/model.onnx" in text
    assert "edgeres quantize /elsewhere/04-export/model.onnx --method entropy" in text


def test_the_page_tells_what_was_built_but_not_run(page):
    text = Outline(page).text
    assert "Not run, and why" in text
    assert "06-compile/model.plan" in text


def test_stage_details_show_settings_notes_warnings_and_versions(page):
    text = Outline(page).text
    for expected in (
        "layer3.0.conv1: 3 % of the inputs are clipped",
        "1 warning",
        "method",
        "entropy",
        "2.6.0",
    ):
        assert expected in text


def test_text_from_files_cannot_become_markup(fake_run):
    evil = "<script>alert(1)</script>"
    fake_run.model("import", "model.safetensors", 1000, config={"arch": evil}, notes=(evil,))
    (fake_run.path / "recipe.toml").write_text(f"name = '{evil}'")
    page = page_from(rows_from(fake_run.path))
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_what_agree_found_stands_on_the_page_and_is_no_markup(whole_run):
    evil = '"><b>x</b>'
    side = Side(path="m.onnx", sha256="0", precision="int8", runtime=f"literal {evil}", correct_top1=4000)
    module, logits = (Likeness(name=name, sqnr_db=35.0, cosine=0.99) for name in (f"layer1{evil}", "logits"))
    counts = {"n": 5000, "same_top1": 4990, "only_a": 3, "only_b": 2, "dataset": "x", "split": "val"}
    a, b = (
        side.model_copy(update={"path": f"runs/r/{path}"}) for path in ("04-export/m.onnx", "05-quantize/m.int8.onnx")
    )
    one = Agreement(a=a, b=b, logits=logits, kl=0.01, modules=(module,), drift=module.name, **counts)
    (whole_run.path / "05-quantize/agree.json").write_text(one.model_dump_json())
    page = page_from(rows_from(whole_run.path))
    assert evil not in page
    text = Outline(page).text
    assert "Same top-1 on 99.80 % of 5,000 images (95 %: 99.63 to 99.89); top-1 −0.02 points" in text
    assert "points (95 %: −0.12 to +0.08)" in text
    assert "05-quantize/m.int8.onnx against 04-export/m.onnx" in text
    assert f"{module.name} (×) drifts first." in text

    same = one.model_copy(update={"n": 50_000_000, "same_top1": 49_999_999, "only_a": 1, "only_b": 0})
    (whole_run.path / "05-quantize/agree.json").write_text(same.model_dump_json())
    text = Outline(page_from(rows_from(whole_run.path))).text
    assert "points (95 %: −0.00001 to 0.00000)" in text


def test_a_run_that_only_began_makes_a_page(fake_run):
    fake_run.model("train", "model.safetensors", 1000)
    outline = Outline(page_from(rows_from(fake_run.path)))
    assert outline.open == []
    assert "Accuracy against latency" not in outline.text
    assert "not evaluated" in outline.text


def test_warnings_of_evaluations_and_sessions_stand_on_the_page(whole_run, undrawn):
    for name in ("02-prune/eval.json", "07-bench/report.json"):
        path = whole_run.path / name
        path.write_text(path.read_text().replace('"warnings": []', '"warnings": ["only a few images"]'))
    text = Outline(page_from(rows_from(whole_run.path))).text
    assert "02-prune, 07-bench: only a few images" in text


def test_many_warnings_are_folded_and_none_is_lost(fake_run, undrawn):
    told = tuple(f"doubt number {place}" for place in range(12))
    fake_run.model("import", "model.safetensors", 1000, warnings=told)
    text = page_from(rows_from(fake_run.path))
    assert "4 more warnings" in text
    assert all(f"00-import: {line}</li>" in text for line in told)


def test_problems_stand_on_the_page(whole_run, undrawn):
    (whole_run.path / "05-quantize/report.json").unlink()
    assert "05-quantize: unfinished" in Outline(page_from(rows_from(whole_run.path))).text


def test_modules_are_grouped_by_their_stage(whole_run, undrawn):
    groups = list(module_groups(rows_from(whole_run.path).modules))
    assert [(name, len(members)) for name, members in groups] == [("layer1", 9), ("layer2", 9), ("layer3", 9)]


def test_a_run_from_a_recipe_is_repeated_by_the_recipe(whole_run, undrawn):
    (whole_run.path / "recipe.toml").write_text("[train]\nepochs = 3\n")
    summary = rows_from(whole_run.path)
    assert commands_for(summary) == ["edgeres run recipe.toml"]
    assert "epochs = 3" in page_from(summary)


def test_a_run_by_hand_is_repeated_command_by_command(fake_run, undrawn):
    fake_run.stage("import", config={"file": "a.pt", "arch": "resnet20"})
    config = {"drop": 2, "keep": ["layer1.0", "layer1.1"], "stem": False, "modules": [], "data": None}
    fake_run.stage("prune", config=config)
    first, second = commands_for(rows_from(fake_run.path))
    assert first == "edgeres import a.pt --arch resnet20"
    assert second == "edgeres prune --drop 2 --keep layer1.0,layer1.1 --no-stem"
