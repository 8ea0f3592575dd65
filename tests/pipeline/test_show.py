"""Every kind of file says what it is; what is none of them says so in one line."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.lineage import lineage_of
from edgeres.core.spec import Preprocess
from edgeres.core.stage import REPORT_NAME
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.recipe import MEASURES, shipped_recipes
from edgeres.pipeline.show import _module_lines, aligned, exhibit_of
from edgeres.pipeline.stages import STAGES

GREY = Preprocess(mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module")
def made(run_of, tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("show"))


def shown(path):
    exhibit = exhibit_of(str(path))
    json.dumps(exhibit.content)
    return "\n".join(exhibit.lines)


def test_a_pruned_checkpoint_is_drawn_with_what_it_lacks(made):
    text = shown(made / "02-prune" / "model.safetensors")
    (gone,) = json.loads((made / "02-prune" / REPORT_NAME).read_text())["dropped"]
    assert "3 modules, 1 dropped" in text
    assert f"{gone.partition('.')[0]}  [----]" in text
    assert text.count("[FP32]") == 2
    assert "preprocess:     mean" in text
    assert ", fit none" in text


def test_columns_of_long_names_stay_apart():
    named = {"kind": "identity", "channels": [8, 8], "stride": 1, "dropped": False}
    names = ("backbone.s1.0", "s")
    lines = _module_lines([{"name": name, **named} for name in names])[-2:]
    assert [line.split()[:2] for line in lines] == [[name, "identity"] for name in names]


def test_an_int8_file_shows_the_precision_of_every_module_and_its_line_of_parents(made):
    (file,) = (made / "05-quantize").glob("*.onnx")
    text = shown(file)
    assert text.count("[INT8]") == 2
    assert "precision outside modules: int8" in text
    line = exhibit_of(str(file)).content["lineage"]
    assert [one.partition(" ")[0] for one in line] == [
        f"05-quantize/{file.name}",
        "03-export/model.onnx",
        "02-prune/model.safetensors",
        "00-import/model.safetensors",
    ]


def test_a_file_outside_its_run_says_that_its_parent_is_not_here(made, checkpoint_of, spec_of, tmp_path):
    path = tmp_path / "alone.onnx"
    path.write_bytes((made / "03-export" / "model.onnx").read_bytes())
    assert exhibit_of(str(path)).content["lineage"][-1].endswith("not in a run here)")
    assert len(lineage_of(checkpoint_of(spec_of("resnet8")))) == 1


@pytest.fixture
def outside(checkpoint_of, spec_of, tmp_path):
    """float.onnx of a pruned checkpoint of model.safetensors, each written with --out."""
    source = checkpoint_of(spec_of("resnet8")).path
    pruned, graph = tmp_path / "pruned.safetensors", tmp_path / "float.onnx"
    call(Call("prune", source=source, out=pruned, values={"modules": ("layer2.0",)}))
    call(Call("export", source=pruned, out=graph))
    return graph


def names_in(line):
    return [one.partition(" ")[0].rpartition("/")[2] for one in line]


def test_a_file_written_with_out_names_its_parents_by_the_reports_beside_them(outside):
    assert names_in(lineage_of(OnnxModel(outside))) == ["float.onnx", "pruned.safetensors", "model.safetensors"]


def test_a_parent_that_was_replaced_is_named_as_such(outside, checkpoint_of, spec_of):
    checkpoint_of(spec_of("resnet8"), "pruned.safetensors", seed=7)
    line = lineage_of(OnnxModel(outside))
    assert names_in(line) == ["float.onnx", "pruned.safetensors", "model.safetensors"]
    assert [one.endswith(", gone or changed since") for one in line] == [False, True, False]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("01-lesion/lesions.json", ("lesions of resnet8", "layer2.0", "+-")),
        (
            "04-calibrate/scales.json",
            ("calibrated on 32 images of digits train", "amax by method", "minmax", "mse", "images"),
        ),
        ("02-prune/report.json", ("report of the stage prune", "drop 1")),
    ],
)
def test_tables_and_reports_are_put_in_words(made, file, words):
    text = shown(made / file)
    assert all(word in text for word in words)


def test_a_run_is_shown_by_folder_and_by_name(made, monkeypatch):
    monkeypatch.setenv("EDGERES_RUNS", str(made.parent))
    assert shown(made) == shown("made")
    assert "05-quantize" in shown(made)


def test_every_kind_of_json_has_a_reader(tmp_path):
    rows = [{"count": 0, "dropped": [], "score": None, "params": 1, "macs": 2, "checkpoint": "x"}]
    accuracy = {"correct_top1": 9, "correct_top5": 10, "n": 10, "dataset": "d", "split": "val"}
    judged = {"accuracy": {**accuracy, "runtime": "r", "artifact": "a"}, "change_points": 0, "half_width_points": 1}
    sweep = {"kind": "sweep", "model_sha256": "abc", "recover": [], "runtime": "ort", "machine": "m", "batch": 1}
    study = {"kind": "study", "name": "depth", "claim": "c", "source": "s", "verdict": "undecided", "because": "b"}
    study |= {"setting": "short", "data": "digits", "n": 3, "seeds": [0], "networks": ["x"], "rows": [{"a": 1}]}
    contents = {"sweep": {**sweep, "threads": 1, "rows": [{**rows[0], "bare": judged}]}, "study": study}
    for kind, content in contents.items():
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    assert "   0     90.00 " in shown(tmp_path / "sweep.json")
    assert "study depth: undecided" in shown(tmp_path / "study.json")


def test_a_foreign_plan_shows_its_header(tmp_path):
    plan = Engine(tmp_path / "theirs.plan")
    plan.path.write_bytes(b"ftrt" + bytes(20) + bytes((10, 3, 0, 26)) + b"rest")
    text = shown(plan.path)
    assert "tensorrt 10.3.0.26" in text
    assert "without a manifest" in text


def test_a_foreign_onnx_shows_its_graph(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="c")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 2, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 2, 4, 4))],
        [numpy_helper.from_array(np.zeros((2, 2, 1, 1), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, producer_name="theirs"), tmp_path / "theirs.onnx")
    text = shown(tmp_path / "theirs.onnx")
    assert "ONNX of another tool" in text
    assert "x n x 2 x 4 x 4" in text


def test_a_checkpoint_that_is_cut_off_or_odd_is_refused(made):
    whole = (made / "00-import" / "model.safetensors").read_bytes()
    for content, message in (
        (whole[:-100], "is damaged: its header promises"),
        (whole.replace(b'\\"dropped\\":[]', b'\\"dropped\\":["layer9.9"]'), "not a readable|damaged|safetensors"),
        (whole.replace(b"resnet8", b"resnet9"), r"odd\.safetensors: resnet9"),
    ):
        Path("odd.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            exhibit_of("odd.safetensors")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", None, "the name is empty"),
        ("x" * 300, None, "File name too long"),
        ("empty.onnx", b"", "is empty: it holds no graph"),
        ("deep.json", b"[" * 100000, "not readable JSON"),
        ("later.json", b'{"kind": "scales", "schema_version": 99}', "was written by a later edgeres"),
        ("renamed.json", b'{"card": {}, "plan_sha256": ""}', "manifest under another name"),
        ("gone.onnx", None, "does not exist"),
        ("gone.json", None, "does not exist"),
        ("cut.json", b'{"kind": "sca', "not readable JSON, damaged or cut off"),
        ("other.json", b'{"a": 1}', "no file of edgeres"),
        ("list.json", b"[1]", "no file of edgeres"),
        ("kind.json", b'{"kind": "novel"}', "no file of edgeres"),
        ("scales.json", b'{"kind": "scales"}', "not a readable ScaleTable"),
        ("bad.plan", b"nonsense", "not a TensorRT plan"),
        ("bad.onnx", b"nonsense", "not a readable ONNX file"),
        ("bad.safetensors", b"nonsense", "not a safetensors file"),
        ("model.pth", b"x", "edgeres import"),
        ("what.txt", b"x", r"what\.txt is not what show takes: a \.safetensors, "),
        ("gone.csv", None, "gone.csv does not exist"),
        ("recipe.toml", b"x", r"recipe\.toml is not valid TOML"),
        ("gone.toml", None, r"cannot read gone\.toml"),
        ("resnet20x", None, "did you mean resnet20"),
        ("resnet21", None, "6n"),
    ],
)
def test_what_cannot_be_shown_says_why_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        exhibit_of(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_is_shown_as_it_is_written(tmp_path, name):
    shown = exhibit_of(name)
    (tmp_path / "mine.toml").write_text("\n".join(shown.lines))
    assert exhibit_of("mine.toml") == shown == exhibit_of(f"{name}.toml")
    assert {stage["use"] for stage in shown.content["stage"]} <= {*STAGES, *MEASURES}
    assert any(line.startswith("#") for line in shown.lines)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is no run"):
        exhibit_of("empty")


def test_columns_line_up():
    assert aligned(["a", "bb"], [["long", "1"], ["s", "22"]]) == ["  a     bb", "  long   1", "  s     22"]


def test_an_architecture_is_shown_without_a_file():
    assert exhibit_of("resnet56").content["variant"] == "resnet56"
    assert shown("resnet56").count("[KEPT]") == 27


def test_a_report_says_again_why_layers_are_float(made):
    path = made / "05-quantize" / REPORT_NAME
    report = {**json.loads(path.read_text()), "notes": ["stay float: 2 of Gemm", "scales: mse"]}
    (again := path.with_name("again.json")).write_text(json.dumps(report))
    assert "\nstay float: 2 of Gemm\nscales: mse" in shown(again)
    again.unlink()
