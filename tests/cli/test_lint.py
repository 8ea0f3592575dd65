from __future__ import annotations

import importlib.util
import json
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is missing")


@pytest.fixture
def float_file(spec_of, checkpoint_of, exported):
    return exported(checkpoint_of(spec_of()), ".").path


@pytest.fixture
def clean_file(float_file, tmp_path):
    source = onnx.load(float_file)
    placement = placement_of(source)
    onnx.save(with_pairs(source, placement, Decision(dict.fromkeys(placement.observed, 2.0))), tmp_path / "clean.onnx")
    return tmp_path / "clean.onnx"


@pytest.fixture
def uint8_file(clean_file, tmp_path):
    """Every activation in uint8, zero point 128: refused by TensorRT, computes the same up to one step."""
    model = onnx.load(clean_file)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".zero_point") and not tensor.dims:
            tensor.CopyFrom(numpy_helper.from_array(np.array(128, np.uint8), tensor.name))
    onnx.save(model, tmp_path / "uint8.onnx")
    return tmp_path / "uint8.onnx"


def test_a_clean_file_is_clean(edgeres, clean_file):
    code, out, err = edgeres("lint", clean_file, "--no-build")
    assert (code, out, err) == (0, f"{clean_file}: clean; not parsed by TensorRT\n", "")


def test_a_float_file_is_not_called_clean(edgeres, float_file):
    code, out, err = edgeres("lint", float_file, "--no-build")
    assert (code, out) == (2, "")
    assert "has no Q/DQ pairs, it is a float file" in err
    code, out, _ = edgeres("lint", float_file, "--no-build", "--jetpack", "6.2")
    assert code == 0
    assert "only its opset was checked" in out
    assert edgeres("lint", float_file, "--no-build", "--fix", "--jetpack", "6.2")[0] == 2


def test_findings_are_lines_and_exit_code_one(edgeres, uint8_file):
    code, out, err = edgeres("lint", uint8_file, "--no-build")
    assert code == 1
    assert "error: zero-point: 11 nodes: not zero (128); quantize symmetrically\n  images.quantized, relu" in out
    assert len(err.splitlines()) == 1


def test_findings_alike_are_one_line_with_the_names_of_all_nodes(edgeres, uint8_file):
    _, out, _ = edgeres("lint", uint8_file, "--no-build")
    report = json.loads(edgeres("lint", uint8_file, "--no-build", "--json")[1])
    findings = report["source"]["findings"]
    lines = {(one["severity"], one["rule"], one["reason"], one["remedy"]) for one in findings}
    assert sum(line.startswith(("error: ", "speed: ", "note: ")) for line in out.splitlines()) == len(lines)
    assert all(one["node"] in out for one in findings)


def test_fix_writes_a_clean_file_beside_the_source(edgeres, uint8_file):
    before = uint8_file.read_bytes()
    code, out, _ = edgeres("lint", uint8_file, "--no-build", "--fix", "--images", 4)
    assert code == 0, out
    assert "repaired against original" in out
    assert "error: " not in out  # what was repaired is counted, what is left would be listed
    assert f"{uint8_file}: " in out
    assert uint8_file.read_bytes() == before
    assert edgeres("lint", uint8_file.with_name("uint8.fixed.onnx"), "--no-build")[0] == 0


def test_real_images_bring_top1_agreement(edgeres, uint8_file, tmp_path):
    out_file = tmp_path / "new" / "out.onnx"
    code, out, _ = edgeres(
        "lint", uint8_file, "--no-build", "--fix", "-o", out_file, "--data", "digits", "--images", 32
    )
    assert code == 0, out
    assert "top-1 agrees on" in out
    assert out_file.exists()


def test_a_pool_without_a_pair_is_found_and_repaired_with_images(edgeres, clean_file, tmp_path):
    model = onnx.load(clean_file)
    pool = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    pair = [node for node in model.graph.node if node.name.removesuffix(".dequantized") in pool.input[0]]
    pool.input[0] = pool.input[0].removesuffix(".dequantized")
    kept = [node for node in model.graph.node if not node.name.startswith(f"{pool.input[0]}.")]
    assert pair
    del model.graph.node[:]
    model.graph.node.extend([onnx.NodeProto.FromString(node.SerializeToString()) for node in kept])
    onnx.save(model, tmp_path / "older.onnx")
    code, out, _ = edgeres("lint", tmp_path / "older.onnx", "--no-build", "--fix")
    assert code == 1
    assert "speed: pool: " in out
    assert "--fix --data DATA takes its range from images" in out
    code, out, _ = edgeres("lint", tmp_path / "older.onnx", "--no-build", "--fix", "--data", "digits")
    assert code == 0, out
    assert "older.fixed.onnx: clean" in out


def test_json_holds_both_verdicts(edgeres, uint8_file):
    code, out, _ = edgeres("lint", uint8_file, "--no-build", "--fix", "--images", 4, "--json")
    report = json.loads(out)
    assert code == 0
    assert {finding["rule"] for finding in report["source"]["findings"]} == {"zero-point"}
    assert report["repaired"]["findings"] == []
    assert report["sqnr_db"] >= report["needed_db"] >= 12
    assert report["coarser_db"] < 0.1
    assert report["inputs"] > 0
    assert report["unknown_inputs"] == []


def test_a_repair_that_computes_something_else_is_not_written(edgeres, uint8_file):
    code, _, err = edgeres("lint", uint8_file, "--no-build", "--fix", "--images", 4, "--tolerance-db", 200)
    assert code == 1
    assert "computes something else" in err
    assert "at least 200 dB" in err
    assert not uint8_file.with_name("uint8.fixed.onnx").exists()


def test_numbers_that_are_none_are_not_held_against_a_repair(edgeres, uint8_file):
    model = onnx.load(uint8_file)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 1:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    onnx.save(model, uint8_file)
    code, _, err = edgeres("lint", uint8_file, "--fix", "--no-build")
    assert code == 2
    assert "holds NaN or infinity: no repair can be held against it" in err


def test_a_clean_file_is_not_rewritten(edgeres, clean_file):
    code, out, _ = edgeres("lint", clean_file, "--no-build", "--fix")
    assert code == 0
    assert "no file written" in out
    assert not clean_file.with_name("clean.fixed.onnx").exists()


def test_the_source_is_never_the_output(edgeres, uint8_file):
    code, _, err = edgeres("lint", uint8_file, "--no-build", "--fix", "-o", uint8_file)
    assert code == 2
    assert "is the source" in err


def test_the_jetpack_decides_on_the_opset(edgeres, clean_file):
    code, out, _ = edgeres("lint", clean_file, "--no-build", "--jetpack", "4.6")
    assert code == 1
    assert "opset 17, TensorRT 8.0.1 (JetPack 4.6) reads up to 13" in out


@pytest.mark.parametrize("jetpack", ["5.1.2", "6.1", "6.2.1", "7.0", "7", "7.2"])
def test_every_jetpack_is_named_as_its_board_does(edgeres, clean_file, jetpack):
    assert edgeres("lint", clean_file, "--no-build", "--jetpack", jetpack)[0] == 0


def test_a_jetpack_that_is_not_known_is_named_with_those_that_are(edgeres, clean_file):
    code, _, err = edgeres("lint", clean_file, "--jetpack", "9")
    assert code == 2
    assert "unknown JetPack release '9' (known: 4.6, 4.6.1" in err


@pytest.mark.parametrize("content", [b"", b"not onnx at all", None])
def test_bad_files_are_one_line(edgeres, tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    code, out, err = edgeres("lint", path, "--no-build")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert str(path) in err


def test_a_graph_that_is_not_valid_is_one_line(edgeres, clean_file, tmp_path):
    model = onnx.load(clean_file)
    del model.graph.node[0]
    onnx.save(model, tmp_path / "broken.onnx")
    code, _, err = edgeres("lint", tmp_path / "broken.onnx", "--no-build")
    assert code == 2
    assert "is not a valid ONNX model" in err
    assert len(err.splitlines()) == 1


def test_external_data_is_read_and_its_loss_is_one_line(edgeres, clean_file, tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save(onnx.load(clean_file), path, save_as_external_data=True, location="big.data", size_threshold=0)
    assert edgeres("lint", path, "--no-build")[0] == 0
    (tmp_path / "big.data").unlink()
    code, _, err = edgeres("lint", path, "--no-build")
    assert code == 2
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("options", [("--data", "digits"), ("-o", "x.onnx"), ("--images", 3), ("--tolerance-db", 3)])
def test_options_of_the_repair_need_fix(edgeres, clean_file, options):
    code, _, err = edgeres("lint", clean_file, *options)
    assert code == 2
    assert "add --fix" in err


@needs_rtx
def test_tensorrt_refuses_the_source_and_builds_the_repaired_file(edgeres, uint8_file):
    code, out, _ = edgeres("lint", uint8_file, "--fix", "--images", 4)
    assert code == 0, out
    assert "tensorrt_rtx for sm86, sm89, sm120 does not build it" in out
    assert "built by tensorrt_rtx" in out


def test_without_tensorrt_it_says_so(edgeres, clean_file, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, _ = edgeres("lint", clean_file)
    assert code == 0
    assert "not parsed by TensorRT: tensorrt_rtx is not installed" in out


@needs_rtx
def test_the_build_is_for_the_architectures_named(edgeres, clean_file):
    code, out, _ = edgeres("lint", clean_file, "--targets", "sm89")
    assert code == 0
    assert out.rstrip().endswith("for sm89")
    code, _, err = edgeres("lint", clean_file, "--targets", "sm87")
    assert code == 2
    assert "built on the board" in err


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [pytest.param(False, marks=pytest.mark.exhaustive), True])
def test_half_a_resnet18_of_onnxruntime_is_repaired_and_built(edgeres, tmp_path, symmetric):
    import torch
    import torchvision
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self._feeds = iter([{"x": rng.standard_normal((1, 3, 64, 64)).astype(np.float32)} for _ in range(4)])

        def get_next(self):
            return next(self._feeds, None)

    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).train()
    network.layer3, network.layer4, network.fc = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Linear(128, 10)
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(8, 3, 64, 64))
    source, before = tmp_path / "float.onnx", tmp_path / "before.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.randn(1, 3, 64, 64)
        torch.onnx.export(network.eval(), image, source, opset_version=17, dynamo=False, input_names=["x"])
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if symmetric else {}
    quantize_static(
        source,
        before,
        Noise(),
        per_channel=symmetric,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=options,
    )
    code, out, _ = edgeres("lint", before, "--fix", "--images", 8, "--json")
    report = json.loads(out)
    rules = {finding["rule"] for finding in report["source"]["findings"]}
    assert rules >= ({"skip", "split"} if symmetric else {"skip", "bias", "zero-point"})
    assert (report["source"]["build_error"] is None) == symmetric
    assert code == 0
    assert report["repaired"]["findings"] == []
    assert report["repaired"]["build_error"] is None


def test_a_range_twice_too_wide_is_refused_though_the_logits_agree(edgeres, uint8_file, monkeypatch):
    from edgeres.quantize import repair

    known = repair.bound_of

    def twice(draft, bounds, tensor):
        bound, factor = known(draft, bounds, tensor), 2 if tensor.startswith("layer2.0") else 1
        return repair.Bound(bound.low * factor, bound.high * factor, bound.dtype)

    monkeypatch.setattr(repair, "bound_of", twice)
    code, _, err = edgeres("lint", uint8_file, "--no-build", "--fix")
    assert code == 1
    assert "more coarsely than the original's own ranges ask for" in err
    assert "of layer2.0" in err
    assert not uint8_file.with_name("uint8.fixed.onnx").exists()


@pytest.fixture
def channels_last(uint8_file, tmp_path):
    """The same network, fed (N, H, W, C) of one channel, from a tool that writes no spec."""
    model = onnx.load(uint8_file)
    del model.metadata_props[:]
    graph, name = model.graph, model.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["moved" if one == name else one for one in node.input]
    graph.node.insert(0, onnx.helper.make_node("Transpose", [name], ["moved"], name="moved", perm=[0, 3, 1, 2]))
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8, 8, 1]))
    onnx.save(model, tmp_path / "nhwc.onnx")
    return tmp_path / "nhwc.onnx"


DIGITS = ("--data", "digits", "--images", 16)


def test_images_are_turned_for_an_input_with_channels_last(edgeres, channels_last, float_file):
    mean, std = ("0.5",), ("0.3",)
    for fed in (("--like", float_file), ("--mean", *mean, "--std", *std)):
        code, out, err = edgeres("lint", channels_last, "--no-build", "--fix", *DIGITS, *fed)
        assert code == 0, err
        assert "16 images of digits train" in out


def test_a_foreign_file_is_fed_as_the_options_say_or_says_what_is_missing(edgeres, channels_last, uint8_file):
    fix = ("--no-build", "--fix")
    code, _, err = edgeres("lint", channels_last, *fix, *DIGITS)
    assert (code, "does not say how an image becomes its input; add --mean, --std" in err) == (2, True)
    code, _, err = edgeres("lint", channels_last, *fix, "--mean", "0.5", "--std", "0.3")
    assert (code, "--mean says how the images of --data are fed" in err) == (2, True)
    code, _, err = edgeres("lint", channels_last, *fix, "--size", 16)
    assert (code, "takes 8 x 8; leave it out" in err) == (2, True)
    code, _, err = edgeres("lint", channels_last, *fix, "--layout", "nchw", "--images", 2)
    assert (code, "nhwc.onnx" in err) == (0, False)


def test_a_size_that_the_graph_leaves_open_is_given(edgeres, uint8_file):
    model = onnx.load(uint8_file)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    onnx.save(model, uint8_file)
    for size in (16, "16x24"):
        code, _, err = edgeres("lint", uint8_file, "--no-build", "--fix", "--size", size, "--images", 2)
        assert code == 0, err


def test_an_input_of_integers_is_named(edgeres, uint8_file):
    model = onnx.load(uint8_file)
    graph, name = model.graph, model.graph.input[0].name
    for node in graph.node:
        node.input[:] = ["cast" if one == name else one for one in node.input]
    graph.node.insert(0, onnx.helper.make_node("Cast", [name], ["cast"], name="cast", to=onnx.TensorProto.FLOAT))
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, uint8_file)
    code, _, err = edgeres("lint", uint8_file, "--no-build", "--fix")
    assert (code, "takes uint8 input" in err, len(err.splitlines())) == (2, True, 1)


def test_scales_per_channel_before_there_were_any_are_explained(edgeres, clean_file):
    model = onnx.load(clean_file)
    model.opset_import[0].version = 11
    onnx.save(model, clean_file)
    code, _, err = edgeres("lint", clean_file, "--no-build")
    assert (code, "scales per channel at opset 11, they came with 13" in err) == (2, True)


def test_a_pointer_of_git_lfs_and_a_suffix_in_capitals(edgeres, uint8_file):
    pointer = uint8_file.with_name("pointer.onnx")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    code, _, err = edgeres("lint", pointer, "--no-build")
    assert (code, "git lfs pull" in err) == (2, True)
    capital = uint8_file.rename(uint8_file.with_name("CAPITAL.ONNX"))
    assert edgeres("lint", capital, "--no-build", "--fix", "-o", capital.with_name("OUT.ONNX"), "--images", 2)[0] == 0
    assert edgeres("show", capital.with_name("OUT.ONNX"))[0] == 0


def test_equal_outputs_are_called_so(edgeres, clean_file):
    model = onnx.load(clean_file)
    for node in model.graph.node:
        node.name = "node"
    onnx.save(model, clean_file)
    code, out, _ = edgeres("lint", clean_file, "--no-build", "--fix", "--images", 2)
    assert (code, "repaired against original: the same numbers" in out, "inf" in out) == (0, True, False)


def test_what_a_file_says_itself_is_not_said_again_and_other_sizes_are_named(
    edgeres, uint8_file, spec_of, checkpoint_of
):
    fix = ("--no-build", "--fix", *DIGITS)
    code, _, err = edgeres("lint", uint8_file, *fix, "--mean", "0.5", "--std", "0.5")
    assert (code, "says itself how images become its input" in err) == (2, True)
    larger = checkpoint_of(spec_of().model_copy(update={"input_shape": (1, 16, 16)})).path
    code, _, err = edgeres("lint", uint8_file, *fix, "--like", larger)
    assert (code, "takes 1 x 8 x 8, images would be 1 x 16 x 16" in err) == (2, True)
