"""Engines as a real inspector describes them, with profile and metadata: a fixture in its grammar, and six real ones.

The real ones lie beside the project where somebody put them, never in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeres.compile.layer_report import LayerReport, layer_report
from edgeres.compile.layers import layers_from, times_beside
from edgeres.core.errors import InputError

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "trex"
PHRASES = {
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "FP16": "Channel major FP16 format where channel % 8 == 0",
    "FP32": "Row major linear FP32",
}


def layer(name, reads, writes, kind="CaskConvolution", **more):
    """`reads`, `writes`: "tensor:PRECISION", blanks between."""
    ports = {
        side: [
            {"Name": tensor, "Location": "Device", "Dimensions": [1, 8, 8, 8], "Format/Datatype": PHRASES[precision]}
            for tensor, precision in (text.split(":") for text in ports.split())
        ]
        for side, ports in (("Inputs", reads), ("Outputs", writes))
    }
    weights = {"Weights": {"Type": "Int8", "Count": 64}} if kind == "CaskConvolution" else {}
    return {"Name": name, "LayerType": kind, **ports, **weights, **more}


def pair(name, reads, writes):
    """A Q or DQ that became a kernel."""
    return layer(name, reads, writes, "Reformat", Origin="QDQ")


def engine(pool="FP32"):
    """Stem, an identity module, one whose projection is added to; `pool`: what the average pool reads."""
    head = [
        layer("GlobalAveragePool_60", f"e:{pool}", "p:FP32", "CudaPooling"),
        pair("QuantizeLinear_63", "p:FP32", "pq:INT8"),
        layer("fc.weight + QuantizeLinear_66 + Gemm_68", "pq:INT8", "logits:FP32"),
        layer("copied_squeeze_after_Gemm_68", "logits:FP32", "out:FP32", "NoOp"),
    ]
    return [
        pair("QuantizeLinear_2", "images:FP32", "iq:INT8"),
        layer("conv1.weight + QuantizeLinear_7 + Conv_9 + MaxPool_12", "iq:INT8", "s:INT8"),
        layer("layer1.0.conv1.weight + QuantizeLinear_20 + Conv_22", "s:INT8", "a:INT8"),
        layer("layer1.0.conv2.weight + QuantizeLinear_32 + Conv_34 + Add_42 + Relu_43", "a:INT8 s:INT8", "b:INT8"),
        layer("layer2.0.conv1.weight + QuantizeLinear_45 + Conv_47", "b:INT8", "c:INT8"),
        layer("layer2.0.downsample.0.weight + QuantizeLinear_49 + Conv_51", "b:INT8", "d:INT8"),
        layer(
            "Reformatting CopyNode for Input Tensor 0 to layer2.0.conv2.weight + QuantizeLinear_53 + Conv_55 + Add_57",
            "c:INT8",
            "cr:INT8",
            "Reformat",
            Origin="REFORMAT",
        ),
        layer("layer2.0.conv2.weight + QuantizeLinear_53 + Conv_55 + Add_57 + Relu_58", "cr:INT8 d:INT8", f"e:{pool}"),
        *head,
    ]


@pytest.fixture
def described(tmp_path):
    """Writes an engine's three files; (the layers' path, the profile's rows)."""

    def write(layers):
        path = tmp_path / "engine.graph.json"
        path.write_text(json.dumps({"Layers": layers, "Bindings": ["images", "out"]}))
        rows = [
            {"name": one["Name"], "timeMs": 2.0 + at, "averageMs": 0.02 + at / 100} for at, one in enumerate(layers)
        ]
        (tmp_path / "engine.profile.json").write_text(json.dumps([{"count": 100}, *rows]))
        whole = {
            "performance_summary": {"GPU Compute Time": [0.4, 0.6, 0.51, 0.5, 0.55]},
            "device_information": {"Selected Device": "A GPU"},
        }
        (tmp_path / "engine.profile.metadata.json").write_text(json.dumps(whole))
        return path, {row["name"]: row["averageMs"] for row in rows}

    return write


def report_of(path: Path) -> LayerReport:
    return layer_report(layers_from(path), times=times_beside(path))


def test_modules_are_told_by_the_names_of_the_layers_alone(described):
    report = report_of(described(engine())[0])
    assert [(one.module, len(one.kernels), one.reformats) for one in report.modules] == [
        ("layer1.0", 2, 0),
        ("layer2.0", 3, 1),
    ]
    assert [(one.reads, one.writes) for one in report.modules] == [("INT8", "INT8"), ("INT8", "FP32")]
    assert report.headline == "1/2 residual adds fused in INT8, 1 fused in INT8 with FP32 out, 2 stray Q/DQ"
    assert report_of(described(engine("INT8"))[0]).headline == "2/2 residual adds fused in INT8, 2 stray Q/DQ"


def test_a_stray_pair_is_no_reformat_and_its_place_and_cost_are_told(described):
    path, times = described(engine())
    report = report_of(path)
    assert (report.reformats, report.quantizers) == (1, 2)
    assert [(one.name, one.reads, one.writes, one.place) for one in report.strays] == [
        ("QuantizeLinear_2", "FP32", "INT8", "between the input and Conv_9"),
        ("QuantizeLinear_63", "FP32", "INT8", "between GlobalAveragePool_60 and Gemm_68"),
    ]
    assert [one.time_ms for one in report.strays] == [times["QuantizeLinear_2"], times["QuantizeLinear_63"]]


def test_the_times_of_the_modules_add_up_to_the_profile(described):
    path, times = described(engine())
    report = report_of(path)
    assert report.profile.sum_ms == pytest.approx(sum(times.values()))
    assert sum(one.time_ms for one in report.modules) + report.profile.outside_ms == pytest.approx(sum(times.values()))
    assert report.modules[0].time_ms == pytest.approx(sum(t for name, t in times.items() if "layer1.0" in name))
    assert (report.profile.engine_ms, report.profile.device) == (0.5, "A GPU")


def test_a_skip_through_copies_still_leads_to_the_fork(described):
    layers = engine()
    at = next(i for i, one in enumerate(layers) if "Add_42" in one["Name"])
    layers[at]["Inputs"][1]["Name"] = "sr"
    layers.insert(at, layer("Reformatting CopyNode for Input Tensor 1", "s:INT8", "sr:INT8", "Reformat"))
    layers.insert(at, pair("DequantizeLinear_41", "s:INT8", "unread:FP32"))
    report = report_of(described(layers)[0])
    assert [(one.module, one.reformats) for one in report.modules] == [("layer1.0", 1), ("layer2.0", 1)]
    assert report.strays[1].place == "between Conv_9 and the output"


def test_an_addition_of_its_own_is_found_too(described):
    layers = engine()
    at = next(i for i, one in enumerate(layers) if "Add_42" in one["Name"])
    layers[at : at + 1] = [
        layer("layer1.0.conv2.weight + QuantizeLinear_32 + Conv_34", "a:INT8", "m:FP32"),
        layer("PWN(Add_42, Relu_43)", "m:FP32 s:FP32", "b:INT8", "PointWiseV2"),
    ]
    module = report_of(described(layers)[0]).modules[0]
    assert (module.module, module.place, len(module.kernels)) == ("Add_42", "standalone in FP32", 3)


def test_a_region_is_no_addition_though_its_name_ends_in_one(described):
    layers = [layer("Conv_1", "x:INT8", "y:INT8")]
    layers.append(layer("{ForeignNode[layer1.0.conv2...layer2.0.add]}", "y:INT8 x:INT8", "z:INT8", "Myelin"))
    assert report_of(described(layers)[0]).modules == ()


def test_a_plan_leads_to_the_profile_beside_its_layers(described):
    path, times = described(engine())
    for kind in ("graph", "profile"):
        found = path.with_name(f"engine.{kind}.json")
        found.rename(path.with_name(f"engine.plan.{'layers' if kind == 'graph' else kind}.json"))
    assert dict(times_beside(path.with_name("engine.plan")).rows) == times
    assert times_beside(path.with_name("other.plan")) is None


@pytest.mark.parametrize("content", ['[{"name": "no count"}]', "{", '[{"count": 1}, {"name": "x"}]'])
def test_a_damaged_profile_is_named(described, content):
    path, _ = described(engine())
    path.with_name("engine.profile.json").write_text(content)
    with pytest.raises(InputError, match=r"engine\.profile\.json: damaged layer profile"):
        times_beside(path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"performance_summary": {"GPU Compute Time": [1]}}', "no"])
def test_damaged_metadata_is_named(described, content):
    path, _ = described(engine())
    path.with_name("engine.profile.metadata.json").write_text(content)
    with pytest.raises(InputError, match=r"engine\.profile\.metadata\.json holds no performance summary"):
        times_beside(path)


REAL = {  # additions; of them with INT8 in, with INT8 out; stray pairs; reformats
    "resnet18-a100-fp32": (8, 0, 0, 0, 8),
    "resnet18-a100-fp16": (8, 0, 0, 0, 12),
    "resnet18-a100-qat": (8, 0, 0, 10, 3),
    "resnet18-a100-qat-residual": (8, 7, 7, 3, 0),
    "resnet18-a100-qat-residual-qgap": (8, 8, 8, 1, 0),
    "mobilenet-qat-titanrtx": (10, 0, 0, 17, 1),
}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real engines are not beside the project (shared/samples/trex)")
@pytest.mark.parametrize("name", REAL)
def test_real_engines(name):
    path = SAMPLES / f"{name}.graph.json"
    report = report_of(path)
    reads = sum(one.addition == "fused" and one.precision == "INT8" for one in report.modules)
    writes = sum(one.writes == "INT8" for one in report.modules)
    assert (len(report.modules), reads, writes, report.quantizers, report.reformats) == REAL[name]
    rows = json.loads((SAMPLES / f"{name}.profile.json").read_text())[1:]
    total = sum(row["medianMs"] for row in rows)
    assert report.profile.sum_ms == pytest.approx(total)
    assert sum(one.time_ms for one in report.modules) + report.profile.outside_ms == pytest.approx(total)
    assert report.profile.engine_ms < total
    if "qat" in name and "resnet" in name:
        assert [one.module for one in report.modules] == [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
