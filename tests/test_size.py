"""The rules of tools/size.py, each on a house made for it."""

import importlib.util
import json
from pathlib import Path

import grimp
import pytest

_SPEC = importlib.util.spec_from_file_location("size", Path(__file__).parent.parent / "tools" / "size.py")
assert _SPEC
assert _SPEC.loader
size = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(size)


@pytest.fixture
def house(tmp_path, monkeypatch):
    root = tmp_path / "edgeres"
    monkeypatch.setattr(size, "_HOUSE", root)
    for name, text in {"attic/a.py": "class Box:\n    x = 1\n", "cellar/b.py": "class Box:\n    y = 1\n"}.items():
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return root


@pytest.fixture
def arrows(monkeypatch):
    """Draws imports between modules of the house."""
    graph = grimp.ImportGraph()
    monkeypatch.setattr(size, "_graph", lambda: graph)

    def draw(*pairs):
        for importer, imported in pairs:
            graph.add_import(importer=importer, imported=imported)

    return draw


@pytest.mark.parametrize(("ceiling", "said"), [(2, []), (1, ["edgeres/attic has 2 lines, its ceiling is 1"])])
def test_a_room_over_its_ceiling_is_named_with_both_figures(house, ceiling, said):
    found = list(size._over_their_ceiling({"ceilings": {"attic": ceiling, "cellar": 2}}))
    assert [line.partition(";")[0] for line in found] == said


def test_a_room_without_a_ceiling_and_a_ceiling_without_a_room_are_named(house):
    found = list(size._over_their_ceiling({"ceilings": {"attic": 2, "roof": 5}}))
    assert found == [
        "edgeres/cellar has no ceiling in tools/size.toml (2 lines)",
        "tools/size.toml has a ceiling for edgeres/roof, which is no room",
    ]


def test_a_class_name_means_one_thing_and_the_list_of_exceptions_only_shrinks(house):
    assert "attic/a.py, cellar/b.py" in next(size._shared_names({"shared_names": []}))
    assert list(size._shared_names({"shared_names": ["Box"]})) == []
    (house / "cellar" / "b.py").write_text("class Crate:\n    y = 1\n")
    assert "Box means one thing by now" in next(size._shared_names({"shared_names": ["Box"]}))


def test_a_circle_inside_a_room_is_found_and_one_that_was_opened_is_said(house, arrows):
    arrows(("edgeres.attic.a", "edgeres.attic.c"), ("edgeres.attic.c", "edgeres.cellar.b"))
    assert list(size._circles({"circles": []})) == []
    assert "attic has no circle by now" in next(size._circles({"circles": ["attic"]}))
    arrows(("edgeres.attic.c", "edgeres.attic.a"))
    assert "a circle in edgeres/attic" in next(size._circles({"circles": []}))
    assert list(size._circles({"circles": ["attic"]})) == []


def test_a_small_file_with_one_importer_is_a_crumb_with_two_it_is_not(house, arrows):
    arrows(("edgeres.cellar.b", "edgeres.attic.a"))
    assert list(size._crumbs()) == [("edgeres.attic.a", 2, "edgeres.cellar.b")]
    assert "edgeres.attic.a" in next(size._crumbs_beyond({"crumbs": 0}))
    arrows(("edgeres.attic.d", "edgeres.attic.a"))
    assert list(size._crumbs()) == []


@pytest.mark.parametrize(
    ("key", "rule", "said"),
    [
        ("crumbs", 1, None),
        ("ceilings.attic", 1, "ceiling is 1"),
        ("shared_names", [], "2 classes are called Box"),
        ("circles", ["cellar"], "has no circle by now"),
        ("crumbs", 0, "1 files under 60 lines"),
    ],
    ids=["none", "ceilings", "shared names", "circles", "crumbs"],
)
def test_a_broken_rule_is_one_line_and_exit_code_one(house, arrows, monkeypatch, capsys, key, rule, said):
    arrows(("edgeres.cellar.b", "edgeres.attic.a"))
    rules = {"crumbs": 1, "shared_names": ["Box"], "circles": [], "ceilings.attic": 2, "ceilings.cellar": 2}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (rules | {key: rule}).items())
    (house.parent / "size.toml").write_text(text)
    monkeypatch.setattr(size, "_HERE", house.parent)
    monkeypatch.setattr(size.sys, "argv", ["size.py"])
    assert size.main() == (0 if said is None else 1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (said is not None)
    assert all(line.startswith("size: ") and said in line for line in lines)
