"""Module costs of a board, by made-up layer profiles and a made-up board; nothing here was near hardware."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeres.compile.layers import times_in
from edgeres.core.amounts import target_from
from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency
from edgeres.core.records.latency import LatencyConfig, latency_table_from
from edgeres.costs.check import check_prediction
from edgeres.costs.profile import (
    ProfileTexts,
    latency_from_profile,
    table_from_profile,
)
from edgeres.costs.table import doubts, predicted_ms
from edgeres.models.weights import checkpoint_without
from edgeres.prune.goals import latency_goal

PROFILE = Path(__file__).parents[1] / "bench" / "data" / "trtexec_profile.json"
BOARD = "orin: Jetson Orin Nano, JetPack 6.2, MAXN_SUPER"
SAVED_MS = {"layer1.0": 0.4, "layer2.0": 0.1, "layer3.0": 0.2}


def latency_of(samples_ms, artifact="0", batch=1):
    return Latency(
        samples_ms=tuple(samples_ms),
        batch=batch,
        runtime="tensorrt 10.3.0",
        threads=0,
        session="s",
        artifact=artifact,
        warmup=1,
        machine=BOARD,
    )


def engine(model, time_of=lambda name: 0.1):
    """(layers, profile rows): every convolution a layer with the additions and activations behind it."""
    layers, readers = [], {tensor: node for node in model.proto.graph.node for tensor in node.input}
    for node in model.proto.graph.node:
        if node.op_type not in {"Conv", "Gemm", "GlobalAveragePool"}:
            continue
        nodes, downsample = [node.name], "downsample" in node.name
        following = readers.get(node.output[0])
        while following is not None and following.op_type in {"Add", "Relu"} and not downsample:
            nodes.append(following.name)
            following = readers.get(following.output[0]) if len(nodes) < 3 else None
        layers.append(layer(" + ".join(nodes)))
    rows = [row(one["Name"], time_of(one["Name"])) for one in layers]
    return layers, rows


def layer(name, kind="CaskConvolution", reads=(), writes=()):
    ports = [[{"Name": port, "Format/Datatype": "Int8"} for port in side] for side in (reads, writes)]
    return {"Name": name, "LayerType": kind, "Inputs": ports[0], "Outputs": ports[1]}


def row(name, time_ms):
    return {"name": name, "timeMs": 100 * time_ms, "averageMs": 9.9, "medianMs": time_ms, "percentage": 1.0}


def texts_of(layers, rows):
    return ProfileTexts(json.dumps([{"count": 100}, *rows]), json.dumps({"Layers": layers}))


def test_layers_go_to_their_modules_and_add_up_to_the_measured_median(onnx_of):
    model = onnx_of()
    times = {"layer1.0.conv1": 0.2, "layer1.0.conv2": 0.4, "layer3.0.conv1": 0.3, "conv1": 0.3, "fc": 0.2}
    texts = texts_of(*engine(model, lambda name: times.get(name.split(" ")[0], 0.0)))
    table = table_from_profile(model, latency_of([0.7] * 50), texts)
    assert table.whole_ms.value == 0.7
    assert table.saved_ms == pytest.approx({"layer1.0": 0.3, "layer2.0": 0.0, "layer3.0": 0.15})
    assert table.rest_ms == pytest.approx(0.25)
    assert sum(table.saved_ms.values()) + table.rest_ms == pytest.approx(table.whole_ms.value)
    assert table.fit_error == pytest.approx(1.0)
    assert (table.method, table.machine, table.conditions.runtime) == ("profile", BOARD, "tensorrt")


def test_modules_of_one_shape_share_a_figure_and_keep_their_own_beside_it(onnx_of):
    model = onnx_of("resnet20")
    slow = {"layer1.0": 0.2, "layer1.1": 0.1, "layer1.2": 0.3}
    texts = texts_of(*engine(model, lambda name: slow.get(name[:8], 0.05) / 2))
    whole = sum(entry["medianMs"] for entry in json.loads(texts.profile)[1:])
    table = table_from_profile(model, latency_of([whole] * 50), texts)
    rows = {cost.module: cost for cost in table.table}
    assert {name: rows[name].alone_ms.value for name in slow} == pytest.approx(slow)
    assert [rows[name].saved_ms.value for name in slow] == pytest.approx([0.2] * 3)
    assert rows["layer1.0"].saved_ms.low < 0.2 < rows["layer1.0"].saved_ms.high
    assert table.fit_error == pytest.approx(0, abs=1e-9)


def test_a_shortcuts_own_convolution_stays_and_a_copy_inside_a_module_goes(onnx_of):
    model = onnx_of(shortcut="B")
    layers, rows = engine(model)
    names = [one["Name"] for one in layers]
    assert any("downsample" in name for name in names)
    first = next(one for one in layers if one["Name"].startswith("layer2.0.conv1"))
    second = next(one for one in layers if one["Name"].startswith("layer2.0.conv2"))
    first["Outputs"] = [{"Name": "a"}]
    second["Inputs"] = [{"Name": "b"}]
    first["Inputs"] = [{"Name": "d"}]
    copies = [layer("copy inside", "Reformat", ["a"], ["b"]), layer("copy before", "Reformat", ["c"], ["d"])]
    rows += [row("copy inside", 0.5), row("copy before", 0.7)]
    whole = sum(entry["medianMs"] for entry in rows)
    table = table_from_profile(model, latency_of([whole] * 50), texts_of([*layers, *copies], rows))
    assert table.saved_ms["layer2.0"] == pytest.approx(0.1 + 0.1 + 0.5)
    assert table.saved_ms["layer3.0"] == pytest.approx(0.2)


@pytest.mark.parametrize("dropped", [(), ("backbone.s1.1",)])
def test_modules_of_any_name_are_charged_all_that_goes_with_them(gated, exported, tmp_path, dropped):
    model = exported(checkpoint_without(gated, dropped, tmp_path / "model.safetensors"))
    layers = [layer(node.name) for node in model.proto.graph.node]
    rows = [row(one["Name"], 0.1) for one in layers]
    table = table_from_profile(model, latency_of([0.1 * len(rows)] * 50), texts_of(layers, rows))
    left = {"backbone.s1.0", "backbone.s1.1", "backbone.s2.0", "backbone.s2.1"}.difference(dropped)
    # four convolutions, two SiLUs, the mean, the gate and the sum; the shortcut and the SiLU behind the sum stay
    assert table.saved_ms == pytest.approx(dict.fromkeys(left, 0.1 * (4 + 4 + 1 + 2 + 1)))


def test_what_cannot_be_told_apart_or_is_of_another_graph_is_refused(onnx_of):
    model = onnx_of()
    layers, rows = engine(model)
    region = "{ForeignNode[layer1.0.conv1...layer2.0.conv2]}"
    kept = [one for one in layers if not one["Name"].startswith(("layer1", "layer2"))]
    with pytest.raises(InputError, match=r"does the work of layer1\.0 and layer2\.0 and more in one.*shortened"):
        table_from_profile(model, latency_of([1.0] * 9), texts_of([*kept, layer(region)], [*rows[:1], row(region, 1)]))
    with pytest.raises(InputError, match=r"made from layer1\.0, layer2\.0, layer3\.0 .*built from this graph"):
        table_from_profile(model, latency_of([1.0] * 9), texts_of([layer("other")], [row("other", 1)]))
    for damaged in (ProfileTexts("[", "{}"), ProfileTexts(json.dumps([{"count": 1}]), "[")):
        with pytest.raises(InputError, match="damaged"):
            table_from_profile(model, latency_of([1.0] * 9), damaged)


def test_prune_reaches_a_latency_by_the_boards_table_and_says_that_nothing_was_measured(
    onnx_of, checkpoint_of, spec_of, tmp_path
):
    model = onnx_of()
    texts = texts_of(*engine(model, lambda name: 0.4 if name.startswith("layer1.0") else 0.1))
    result = latency_from_profile(model, latency_of([0.65] * 50), texts, tmp_path / "out")
    table = latency_table_from(result.output.path)
    assert any("by the layer profile" in note and BOARD in note for note in result.report.notes)
    whole = checkpoint_of(spec_of())
    pruned = checkpoint_of(spec_of().without(("layer1.0",)), "pruned.safetensors")
    goal = latency_goal("0.6x", list(SAVED_MS), whole.spec, table)
    assert goal.needed == pytest.approx(0.4 * 0.65)
    checked = check_prediction(pruned, whole, table, folder=tmp_path / "check", target=target_from("0.6x"))
    assert checked.missing_ms(target_from("0.6x")) == 0
    assert checked.predicted_ms.value == pytest.approx(predicted_ms(table, ("layer1.0",)).value)
    assert not checked.is_measured
    assert "as an FP32 engine (table of model.onnx on orin)" in checked.line()
    assert checked.line().endswith(
        "NOT measured: edgeres export MODEL.safetensors, then edgeres bench MODEL.onnx --on orin"
    )
    assert all("measure here" not in doubt for doubt in doubts(table))
    assert "layers of the profile add up" in doubts(table)[0]
    for one in (table, table.model_copy(update={"method": "networks"})):  # `optimize` takes no table
        assert [told.partition("; ")[2] for told in doubts(one, then="the clock decides")] == ["the clock decides"]


def test_a_prediction_is_no_measurement_and_has_a_width_and_a_way_to_measure_it(onnx_of, checkpoint_of, spec_of):
    model = onnx_of()
    table = table_from_profile(model, latency_of([0.64 + 0.0004 * i for i in range(51)]), texts_of(*engine(model)))
    table = table.model_copy(update={"engine_precision": "int8", "model_name": "model.int8.onnx"})
    pruned = checkpoint_of(spec_of().without(("layer1.0",)), "pruned.safetensors")
    checked = check_prediction(pruned, checkpoint_of(spec_of()), table, folder=model.path.parent)
    content = json.loads(checked.model_dump_json())
    assert [content[name] for name in ("whole_ms", "pruned_ms", "ratio", "error_percent")] == [None] * 4
    for name in ("predicted_ms", "predicted_whole_ms"):
        assert content[name]["low"] < content[name]["value"] < content[name]["high"]
    assert content["predicted_whole_ms"]["value"] == content["table_whole_ms"]
    assert "as an INT8 engine (table of model.int8.onnx on orin)" in checked.line()
    assert (
        "NOT measured: edgeres export MODEL.safetensors, edgeres calibrate MODEL.onnx --data DATA, edgeres quantize"
        " MODEL.onnx, then edgeres bench MODEL.onnx --on orin" in checked.line()
    )
    assert not checked.is_open(target_from("0.6x"))


@pytest.mark.parametrize("whole_ms", [0.09, 0.9, 9.0])
def test_what_a_profile_predicts_is_a_latency_and_the_whole_network_is_sure(onnx_of, whole_ms):
    model = onnx_of()  # its layers add up to 0.9 ms
    table = table_from_profile(model, latency_of([whole_ms] * 50), texts_of(*engine(model)))
    assert predicted_ms(table, ()).low == predicted_ms(table, ()).high == whole_ms
    names = ["layer1.0", "layer2.0", "layer3.0"]
    widths = []
    for dropped in (names[:1], names[:2], names):
        found = predicted_ms(table, dropped)
        assert 0 <= found.low <= found.value <= found.high
        widths.append(found.high - found.value)
    assert widths == sorted(widths)
    said = [*doubts(table), table.lines()[-1]]
    direction = {0.09: "900.0 % more", 0.9: "0.0 %", 9.0: "90.0 % less"}[whole_ms]
    assert all(f"add up to {direction}" in one for one in said)
    assert len(said) == (1 if whole_ms == 0.9 else 2)
    assert all(line.endswith("ms (no interval)") for line in table.lines()[:-1])  # no two modules of one shape


def test_tensorrt_without_a_board_is_refused():
    with pytest.raises(InputError, match="--on BOARD"):
        LatencyConfig(runtime="tensorrt").check()


def test_a_profile_is_read_also_without_medians():
    text = PROFILE.read_text()
    rows = json.loads(text)
    assert times_in(text)[2] == (rows[3]["name"], rows[3]["medianMs"])
    for row in rows:
        row.pop("medianMs", None)
    assert times_in(json.dumps(rows))[2] == (rows[3]["name"], 0.339097)


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"count": 1}, {"name": "x"}]', "[3]"])
def test_a_damaged_profile_is_one_clear_line(text):
    with pytest.raises(InputError, match="damaged layer profile"):
        times_in(text)
