"""`--out` on anything a stage reads is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeres.core.errors import InputError
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.outside import _put


@pytest.fixture
def mine(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8"), "mine.safetensors").path


def pruned_to(out, source):
    return call(Call("prune", source=source, out=out, values={"modules": "layer1.0"}))


def linked(kind, path):
    other = path.with_name("other.safetensors")
    if kind == "symbolic link":
        other.symlink_to(path)
    elif kind == "hard link":
        os.link(path, other)
    return {
        "itself": path,
        "from here": Path("./mine.safetensors"),
        "by a detour": path.parent / "x" / ".." / path.name,
    }.get(kind, other)


@pytest.mark.parametrize("kind", ["itself", "from here", "by a detour", "symbolic link", "hard link"])
def test_the_input_is_never_overwritten(mine, kind):
    before = mine.read_bytes()
    out = linked(kind, mine)
    with pytest.raises(
        InputError, match=r"^--out .* is the input; a stage never changes its input: name another file$"
    ):
        pruned_to(out, mine)
    assert mine.read_bytes() == before
    assert not list(mine.parent.glob(".*"))


def test_the_teacher_is_never_overwritten(mine, tmp_path):
    pruned_to(tmp_path / "cut.safetensors", mine)
    before = mine.read_bytes()
    values = {"data": "digits", "images": 60, "epochs": 1}
    for given in ({}, {"teacher": mine}):
        with pytest.raises(InputError, match="is the teacher"):
            call(Call("recover", source=tmp_path / "cut.safetensors", out=mine, values={**values, **given}))
    assert mine.read_bytes() == before


def test_a_table_that_the_report_of_the_result_would_replace_is_kept(mine, tmp_path):
    table = tmp_path / "cut.safetensors.report.json"
    table.write_text("{}")
    values = {"drop": 1, "data": "digits", "latency": table}
    with pytest.raises(InputError, match="is the latency table"):
        call(Call("prune", source=mine, out=tmp_path / "cut.safetensors", values=values))
    assert table.read_text() == "{}"


def test_a_network_of_an_earlier_sweep_is_no_place_for_the_next(checkpoint_of, spec_of, tmp_path):
    source = checkpoint_of(spec_of("resnet8"), "s.json.drop-01.safetensors").path
    before = source.read_bytes()
    values = {"data": "digits", "sweep": "1..1", "images": 60}
    with pytest.raises(InputError, match=r"s\.json\.drop-01\.safetensors is the input"):
        call(Call("sweep", source=source, out=tmp_path / "s.json", values=values))
    assert source.read_bytes() == before


def test_what_stands_where_a_companion_goes_is_set_aside(mine, tmp_path):
    values = {"data": "digits", "images": 60, "draws": 0}
    theirs = tmp_path / "l.json.lesions.csv"
    theirs.write_text("mine")
    call(Call("lesion", source=mine, out=tmp_path / "l.json", values=values))
    assert theirs.read_text() != "mine" == (tmp_path / "l.json.lesions.csv.old1").read_text()
    theirs.unlink()
    (tmp_path / "l.json.lesions.csv").mkdir()
    (tmp_path / "l.json.lesions.csv" / "file").touch()
    call(Call("lesion", source=mine, out=tmp_path / "l.json", values=values))
    assert (tmp_path / "l.json.lesions.csv.old2" / "file").is_file()
    call(Call("lesion", source=mine, out=tmp_path / "l.json", values=values))
    assert not (tmp_path / "l.json.lesions.csv.old3").exists()


def test_an_older_result_may_be_replaced(mine, tmp_path):
    for module in ("layer1.0", "layer2.0"):
        result = call(Call("prune", source=mine, out=tmp_path / "o.safetensors", values={"modules": module}))
        assert result.output.spec.dropped == (module,)


def test_a_folder_is_no_place_for_a_file(mine, tmp_path):
    (tmp_path / "o.safetensors").mkdir()
    with pytest.raises(InputError, match="is a folder; name a file"):
        pruned_to(tmp_path / "o.safetensors", mine)


@pytest.mark.parametrize(
    ("over_earlier", "held", "aside"),
    [(True, ("a", "deep"), False), (True, ("a",), False), (True, ("a", "notes"), True), (False, ("a",), True)],
)
def test_a_folder_of_an_earlier_result_is_replaced_and_another_is_set_aside(tmp_path, over_earlier, held, aside):
    new, old = tmp_path / "networks", tmp_path / "o.json.networks"
    for folder, text, names in ((new, "new", ("a", "deep")), (old, "old", held)):
        for name in names:
            (folder / name).mkdir(parents=True)
            (folder / name / "file").write_text(text)
    _put(new, old, over_earlier=over_earlier)
    assert {path.name: (path / "file").read_text() for path in old.iterdir()} == {"a": "new", "deep": "new"}
    assert not new.exists()
    kept = tmp_path / "o.json.networks.old1"
    assert kept.exists() == aside
    assert not aside or {path.name for path in kept.iterdir()} == {*held}
