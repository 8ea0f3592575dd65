from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeres import api
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.records.latency import LatencyTable
from edgeres.data import dataset_from
from edgeres.graph.blocks import modules_in
from edgeres.graph.view import GraphView
from edgeres.quantize import kept_float
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.calibrators import CALIBRATORS
from edgeres.quantize.improving import CHANNELS, TUNED
from edgeres.quantize.kept_float import MixedChoice
from edgeres.quantize.lint import lint, problems
from edgeres.quantize.repair.check import sqnr_db
from edgeres.quantize.stage import QuantizeConfig, quantize
from edgeres.runtime import runner_for

STEPS = CHANNELS, TUNED


@pytest.fixture
def calibrated(onnx_of, kept, tmp_path):
    source = onnx_of("resnet8", dynamic=True)

    def write(path):
        calibrate(source, CalibrateConfig(data="digits", images=64), path.parent / "scales").output.path.replace(path)

    (tmp_path / "scales").mkdir()
    return source, Path(shutil.copyfile(kept(f"scales {source.sha256}", write), tmp_path / "scales" / "scales.json"))


def logits_of(model: OnnxModel) -> np.ndarray:
    images = next(dataset_from("digits").val.batches(model.spec, 100))[0]
    with runner_for(model) as runner:
        return runner.infer(images)


@pytest.mark.parametrize("method", sorted(CALIBRATORS))
def test_int8_logits_are_close_to_the_float_ones(method, calibrated, tmp_path):
    source, scales = calibrated
    result = quantize(source, QuantizeConfig(scales=scales, effort="quick", method=method), tmp_path / "out")
    expected = logits_of(source)
    assert sqnr_db(expected, logits_of(result.output)) > 15


def test_the_file_says_what_it_is_and_obeys_the_rules(calibrated, tmp_path):
    source, scales = calibrated
    result = quantize(source, QuantizeConfig(scales=scales, effort="quick"), tmp_path / "out")
    output = result.output
    assert output.precision == "int8"
    assert (output.spec, output.card.parent, output.card.stage) == (source.spec, source.sha256, "quantize")
    assert lint(output.proto) == ()
    assert (result.report.results["quantized_layers"], result.report.results["quantized_skips"]) == (8, 3)
    assert output.size_bytes < source.size_bytes / 2


def test_quantizing_twice_gives_the_same_bytes(calibrated, tmp_path):
    source, scales = calibrated
    paths = [quantize(source, QuantizeConfig(scales=scales), tmp_path / name).output.path for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_stem_and_head_stay_float_when_asked(calibrated, tmp_path):
    source, scales = calibrated
    config = QuantizeConfig(scales=scales, effort="quick", stem=False, head=False)
    view = GraphView(quantize(source, config, tmp_path / "out").output.proto)
    layers = {layer.name: layer for layer in view.layers}
    assert list(layers["conv1"].input[:2]) == ["images", "conv1.weight"]
    assert list(layers["fc"].input[:2]) == ["flatten", "fc.weight"]
    assert layers["layer1.0.conv1"].input[1] == "layer1.0.conv1.weight.dequantized"


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, "Flatten"),
        ({"head": False}, "Gemm"),
        ({"keep": ("fc",)}, "Gemm"),
        ({"profile": "ort-cpu"}, "Gemm"),
    ],
)
def test_an_int8_classifier_of_few_classes_stands_in_front_of_the_average(options, last, calibrated, tmp_path):
    source, scales = calibrated
    config = QuantizeConfig(scales=scales, effort="quick", **options)
    result = quantize(source, config, tmp_path / "out")
    assert next(node.op_type for node in result.output.proto.graph.node if "logits" in node.output) == last
    said = "fc stands in front of the last average, as a 1x1 convolution: the average is not rounded"
    assert (said in result.report.notes) == (last == "Flatten")


def changed(path, change) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(model_sha256="0" * 64), "was made for another model than"),
        (lambda t: t.update(n=8), "comes from 8 images; use 32 or more"),
        (lambda t: t["tensors"].pop("relu"), "has no bound for tensor 'relu'"),
        (lambda t: t["tensors"]["relu"]["amax"].update(entropy=-1), r"has the bound -1 .*for tensor 'relu'"),
        (lambda t: t["tensors"]["relu"]["amax"].pop("entropy"), "has no bound for tensor 'relu'"),
        (lambda t: t.update(methods=["minmax"]), r"has no method 'entropy' \(it has: minmax\)"),
        (lambda t: t.update(kind="lesions"), "not a readable ScaleTable"),
    ],
)
def test_an_unsuitable_scale_table_is_refused_in_one_line(change, message, calibrated, tmp_path):
    source, scales = calibrated
    changed(scales, change)
    with pytest.raises(InputError, match=message) as caught:
        quantize(source, QuantizeConfig(scales=scales, effort="quick", method="entropy"), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_scale_table_at_all_is_an_error_that_says_what_to_do(calibrated, tmp_path):
    with pytest.raises(InputError, match="edgeres calibrate"):
        quantize(calibrated[0], QuantizeConfig(), tmp_path / "out")


def test_a_dead_tensor_is_quantized_with_a_warning(calibrated, tmp_path):
    source, scales = calibrated
    changed(scales, lambda t: t["tensors"]["relu"].update(minimum=0, maximum=0, amax={"entropy": 0}))
    result = quantize(source, QuantizeConfig(scales=scales, effort="quick", method="entropy"), tmp_path / "out")
    assert any("relu was zero on every calibration image" in warning for warning in result.report.warnings)


def test_sqnr_is_twenty_db_for_a_tenth():
    assert sqnr_db(np.ones(5), np.full(5, 0.9)) == pytest.approx(20)
    assert sqnr_db(np.ones(5), np.ones(5)) == math.inf


def test_auto_says_which_method_each_tensor_got(calibrated, tmp_path):
    source, scales = calibrated
    result = quantize(source, QuantizeConfig(scales=scales, effort="quick", method="auto"), tmp_path / "out")
    assert set(result.report.results["held_out_sqnr_db"]) == {*CALIBRATORS, "auto"}
    assert result.report.results["auto"] in {*CALIBRATORS, "auto"}
    assert any(note.startswith("auto: ") and " dB " in note for note in result.report.notes)


def test_efforts_are_named_and_the_default_learns(calibrated, tmp_path):
    source, scales = calibrated
    quick, usual, best = (
        quantize(source, QuantizeConfig(scales=scales, effort=effort), tmp_path / str(effort))
        for effort in ("quick", None, "best")
    )
    assert [one.report.results["effort"] for one in (quick, usual, best)] == ["quick", "default", "best"]
    assert "improve" not in quick.report.results
    assert usual.report.results["improve"] == best.report.results["improve"] == ["channels", "tuned"]
    assert "float_skips" in best.report.results
    assert lint(usual.output.proto) == ()
    assert usual.output.has_scaled_channels
    exact = logits_of(source)
    assert sqnr_db(exact, logits_of(usual.output)) > sqnr_db(exact, logits_of(quick.output)) + 0.5


@pytest.mark.parametrize("taken", [(), (CHANNELS,), (TUNED,)])
def test_report_and_file_say_what_an_effort_took_not_what_it_tried(taken, calibrated, tmp_path, monkeypatch):
    source, scales = calibrated

    def decibels_of(model, placement, candidates, *, images):
        step = TUNED if TUNED in candidates else CHANNELS
        return {name: float((name == "as given") != (step in taken)) for name in candidates}

    monkeypatch.setattr("edgeres.quantize.auto.decibels_of", decibels_of)
    result = quantize(source, QuantizeConfig(scales=scales), tmp_path / "out")
    assert result.report.results["improve"] == list(taken)
    assert result.output.has_scaled_channels == (CHANNELS in taken)
    words = {step: ("balanced" if step == CHANNELS else step) if step in taken else "as given" for step in STEPS}
    said = [note for note in result.report.notes if " dB " in note]
    assert [note.partition(" (")[0] for note in said] == [f"{step}: taken {word}" for step, word in words.items()]


def test_channels_out_of_proportion_are_warned_of_unless_they_are_scaled(onnx_of, scaled_by, tmp_path):
    source = onnx_of("resnet8", dynamic=True)
    model = scaled_by(source.proto, {("layer1.0.conv1", 3): 500, ("layer2.0.conv1", 7): 1 / 90})
    source.path.write_bytes(model.SerializeToString())
    source = OnnxModel(source.path)
    scales = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output.path
    plain, scaled, kept, cpu = (
        quantize(source, QuantizeConfig(scales=scales, **options), tmp_path / str(number)).report.warnings
        for number, options in enumerate(
            (
                {"effort": "quick"},
                {},
                {"effort": "quick", "keep": ("layer1.0", "layer2.0")},
                {"profile": "ort-cpu"},
            )
        )
    )
    assert (scaled, kept) == ((), ())
    (warning,) = plain
    assert re.match(r"channel 3 of layer1\.0\.relu is \d+ times .*, and 1 more are out: .* --effort default", warning)
    assert "--keep its layers" in cpu[0]


def test_a_kept_module_stays_float(calibrated, tmp_path):
    source, scales = calibrated
    result = quantize(source, QuantizeConfig(scales=scales, effort="quick", keep=("layer2.0",)), tmp_path / "out")
    layers = {layer.name: layer for layer in GraphView(result.output.proto).layers}
    assert layers["layer2.0.conv1"].input[1] == "layer2.0.conv1.weight"
    assert layers["layer3.0.conv1"].input[1] == "layer3.0.conv1.weight.dequantized"


def test_a_kept_module_may_add_to_what_a_layer_of_another_module_makes(exported, tmp_path):
    class Attended(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.gate = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, 10)

        def forward(self, x):
            x = self.stem(x).relu()
            y = self.conv(x)
            x = x + y + y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
            return self.head(x.relu().mean((2, 3)))

    grey = api.Preprocess(mean=(0.3,), std=(0.4,))
    whole = api.trace(Attended().eval(), torch.zeros(1, 1, 8, 8), tmp_path / "m.safetensors", preprocess=grey)
    source = exported(whole)
    scales = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output.path
    first, second = modules_in(GraphView(source.proto))
    for keep, layers in {first: {"stem", "gate", "head"}, second: {"stem", "conv", "head"}}.items():
        config = QuantizeConfig(scales=scales, effort="quick", keep=(keep,))
        output = quantize(source, config, tmp_path / keep.replace("/", "_")).output
        assert not problems(lint(output.proto))
        view = GraphView(output.proto)
        assert {one.name for one in view.layers if view.weight_pair(one)} == layers


def test_a_loss_that_is_kept_leaves_nothing_out_and_says_so(calibrated, tmp_path):
    source, scales = calibrated
    result = quantize(source, QuantizeConfig(scales=scales, effort="quick", max_loss=50.0), tmp_path / "out")
    assert result.report.results["left_float"] == []
    assert any("nothing is left float" in note for note in result.report.notes)


def test_a_latency_table_of_another_network_is_refused(calibrated, spec_of, tmp_path, monkeypatch):
    source, scales = calibrated
    another = LatencyTable.model_construct(spec=spec_of("resnet8", width=4), table=())
    monkeypatch.setattr("edgeres.quantize.stage.latency_table_from", lambda path: another)
    config = QuantizeConfig(scales=scales, effort="quick", max_loss=50.0, latency=tmp_path / "l.json")
    with pytest.raises(InputError, match=r"l\.json is of another network than .*: options {'width': 4}, here"):
        quantize(source, config, tmp_path / "out")


@pytest.mark.parametrize("profile", ["tensorrt", "tensorrt-fp16"])
def test_skips_are_left_float_until_the_logits_keep_the_ratio_asked_for(profile, calibrated, tmp_path):
    source, scales = calibrated
    plain = quantize(source, QuantizeConfig(scales=scales, effort="quick", profile=profile), tmp_path / "plain").output
    expected = logits_of(source)
    before = sqnr_db(expected, logits_of(plain))
    config = QuantizeConfig(scales=scales, effort="quick", profile=profile, min_sqnr=before + 0.2)
    result = quantize(source, config, tmp_path / "out")
    kept = result.report.results["float_skips"]
    assert kept
    assert set(kept) <= {row["unit"] for row in result.report.results["skips"]}
    assert result.report.results["quantized_skips"] == 3 - len(kept)
    assert result.report.results["quantized_layers"] == 8
    assert sqnr_db(expected, logits_of(result.output)) > before
    assert not problems(lint(result.output.proto))


@pytest.mark.parametrize("profile", ["tensorrt-fp16", "ort-cpu"])
def test_other_profiles_name_themselves_and_stay_close(profile, calibrated, tmp_path):
    source, scales = calibrated
    output = quantize(source, QuantizeConfig(scales=scales, effort="quick", profile=profile), tmp_path / "out").output
    assert output.profile == profile
    expected = logits_of(source)
    assert sqnr_db(expected, logits_of(output)) > 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "ort-cpu", "method": "auto"}, "--method auto is for the tensorrt profiles"),
        ({"profile": "ort-cpu", "max_loss": 1.0}, "--max-loss is for the tensorrt profiles"),
        ({"profile": "ort-cpu", "min_sqnr": 30.0}, "--min-sqnr is for the tensorrt profiles"),
        ({"profile": "tensort"}, "did you mean tensorrt"),
        ({"profile": "ort-cpu", "effort": "default"}, "--effort default is for the tensorrt profiles"),
        ({"keep": ("layer2.7",)}, "layer2.7"),
        ({"method": "auto", "data": "tests.data:nowhere"}, "tests.data"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(options, message, calibrated, tmp_path):
    source, scales = calibrated
    with pytest.raises(InputError, match=message):
        quantize(source, QuantizeConfig(scales=scales, **options), tmp_path / "out")


def test_other_images_than_those_of_the_table_are_refused(calibrated, tmp_path):
    source, scales = calibrated
    changed(scales, lambda table: table.update(seed=5))
    with pytest.raises(InputError, match="does not hold the 64 images the scale table was made from"):
        quantize(source, QuantizeConfig(scales=scales, effort="quick", method="auto"), tmp_path / "out")


@pytest.mark.parametrize("options", [{"keep": ("layer1.0", "layer2.0", "layer3.0", "conv1", "fc")}, {"max_loss": 0.0}])
def test_a_file_without_anything_quantized_is_refused_and_not_written(options, calibrated, tmp_path, monkeypatch):
    source, scales = calibrated
    if "max_loss" in options:
        everything = ("layer1.0", "layer2.0", "layer3.0", "conv1", "fc")
        found = MixedChoice(everything, (), "everything")
        monkeypatch.setattr(kept_float, "units_left_float", lambda *_, **__: found)
    with pytest.raises(InputError, match="nothing is left to quantize"):
        quantize(source, QuantizeConfig(scales=scales, **options), tmp_path / "out")
    assert not (tmp_path / "out" / "model.int8.onnx").exists()


@pytest.mark.parametrize("bound", [1e-300, 1e39, 0.0])
def test_a_bound_that_cannot_be_of_these_values_is_refused(bound, calibrated, tmp_path):
    source, scales = calibrated
    changed(scales, lambda table: table["tensors"]["relu"]["amax"].update(mse=bound))
    with pytest.raises(InputError, match="'relu'; calibrate again"):
        quantize(source, QuantizeConfig(scales=scales, effort="quick"), tmp_path / "out")


def test_an_option_without_effect_is_refused(calibrated, tmp_path):
    source, scales = calibrated
    with pytest.raises(InputError, match="belongs to --profile ort-cpu"):
        quantize(source, QuantizeConfig(scales=scales, reduce_range="on"), tmp_path / "out")
